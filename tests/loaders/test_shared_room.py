"""A real /dev/shm that is too small, as containers have it: one sentence, at whichever step it is full."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
READ = """
import sys
from loaders import tile_loader
from stratacube import StratacubeError
if __name__ == "__main__":
    try:
        for batch in tile_loader(sys.argv[1], 2, workers=2):
            pass
    except StratacubeError as error:
        sys.exit(f"error: {error}")
"""


def within(size: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command where shared memory has a size."""
    words = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$0" "$@"', *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["4k", "40k", "100k"])
def test_a_tiny_shared_memory_is_one_sentence(size: str, store: Path, tmp_path: Path) -> None:
    if within(size, "true").returncode:
        pytest.skip("nothing can be mounted here")
    (tmp_path / "read.py").write_text(READ)
    done = within(size, sys.executable, str(tmp_path / "read.py"), str(store))
    assert done.returncode == 1, done
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: the shared memory /dev/shm (")
    assert "--shm-size 8g, or take worker threads (`workers_are=threads`) or `workers=0`" in last
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_statistics_say_so_too(store: Path, tmp_path: Path) -> None:
    if within("4k", "true").returncode:
        pytest.skip("nothing can be mounted here")
    output = str(tmp_path / "statistics.json")
    done = within("4k", sys.executable, "-m", "loaders.stats", str(store), "--workers", "2", "--output", output)
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1
    assert "or --workers 0" in done.stderr
