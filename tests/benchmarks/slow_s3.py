"""A real S3 server (moto's) that answers every request late, as a distant one does."""

from __future__ import annotations

import sys
import time
from typing import Any

from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple


class Quiet(WSGIRequestHandler):
    """Logs nothing, and keeps connections open as S3 does."""

    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        """Log nothing."""


def main(port: int, latency: float) -> None:
    """Serve on a port of this machine, each request ``latency`` seconds late."""
    backend = create_backend_app("s3")

    def late(environ: Any, start_response: Any) -> Any:
        time.sleep(latency)
        return backend(environ, start_response)

    run_simple("127.0.0.1", port, late, threaded=True, request_handler=Quiet)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
