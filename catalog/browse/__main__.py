"""``python -m catalog.browse CATALOG ...``: look at catalogs in a browser, on this machine alone.

A page over the catalogs of builds: a map, a calendar, filters by stratum, split, time and name; of each item what it
holds, its previews, its sources, and code that opens it. Nothing is written, nothing comes from the network, and no
other machine is answered. On a cluster, forward the port: ssh -L 8765:127.0.0.1:8765 HOST.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from stratacube.command import Parser, add_common, run

__all__ = ["main"]

_PORT = 8765


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser("python -m catalog.browse", description=__doc__)
    parser.add_argument(
        "catalogs", nargs="+", type=Path, metavar="CATALOG", help="folder of a build, or its catalog.json"
    )
    parser.add_argument(
        "--port", type=int, default=_PORT, help=f"where to listen; 0 takes any that is free (default: {_PORT})"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the default browser")
    add_common(parser)
    parser.set_defaults(run=_run)
    return run(parser, arguments)


def _run(options: argparse.Namespace) -> int:
    from catalog.browse.records import Shelf  # noqa: PLC0415  (--help does not wait for shapely)
    from catalog.browse.server import serve  # noqa: PLC0415

    return serve(Shelf.of(options.catalogs), options.port, show=options.open)


if __name__ == "__main__":
    sys.exit(main())
