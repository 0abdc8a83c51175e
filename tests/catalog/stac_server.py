"""A real STAC server (rustac) with items of our choice."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def serve_items(folder: Path, items: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Run the server on a free port of this machine; gives the address of its landing page."""
    program = Path(sys.executable).with_name("rustac")
    if not program.is_file():
        pytest.skip("rustac (pip install rustac) is not here")
    collection = folder / "served.json"
    collection.write_text(json.dumps({"type": "FeatureCollection", "features": list(items)}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [str(program), "serve", "--create-collections", "-a", address, str(collection)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://{address}/", timeout=1).close()
                break
            except (OSError, urllib.error.URLError):
                time.sleep(0.05)
        else:
            pytest.fail("the STAC server did not start within 5 s")
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait(10)
