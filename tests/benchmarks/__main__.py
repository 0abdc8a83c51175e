"""Run the benchmarks and write their figures to docs/benchmarks.md: ``python -m tests.benchmarks [NAME ...]``.

Every ``bench_NAME.py`` beside this file is run in turn. Inputs and the figures of the last run of each are kept in
``.bench/`` of the checkout, so that one can be run again without the others.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.table import CHECKOUT, Row, markdown

HERE = Path(__file__).resolve().parent
SCRATCH = CHECKOUT / ".bench"
PAGE = CHECKOUT / "docs" / "benchmarks.md"
LIBRARIES = (
    *("dask", "h5netcdf", "h5py", "isal", "kerchunk", "numcodecs", "numpy", "odc-stac", "rasterio", "satpy"),
    *("stackstac", "torch", "torchdata", "xarray", "xbatcher", "zarr", "zarrs"),
)
INTRODUCTION = """# Benchmarks

Written by `make bench`; do not edit. Ours and theirs run in turn on one machine, each in a fresh process. Times are
the best of a few rounds, from the page cache, without imports; peaks of memory are of the whole process, imports
included. "Times better" is below 1 where we lose.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; exit code 1 if a target is missed."""
    names = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to run: {', '.join(names)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="small inputs and one round; the page is not written")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(names)):
        parser.error(f"no benchmark is called {unknown[0]}; there are {', '.join(names)}")
    met = True
    for name in options.names or names:
        started = time.monotonic()
        sys.stderr.write(f"{name} ...\n")
        scratch = SCRATCH / name
        scratch.mkdir(parents=True, exist_ok=True)
        rows: list[Row] = importlib.import_module(f"{__package__}.bench_{name}").rows(scratch, options.quick)
        sys.stderr.write("\n".join(_sections(rows)) + "\n")
        met &= all(row.met is not False for row in rows)
        if not options.quick:
            figures = {
                "machine": machine(),
                "minutes": (time.monotonic() - started) / 60,
                "load": os.getloadavg()[2],
                "rows": [asdict(row) for row in rows],
            }
            (SCRATCH / f"{name}.json").write_text(json.dumps(figures, indent=1))
            write_page([n for n in names if (SCRATCH / f"{n}.json").exists()])
    return 0 if met else 1


def write_page(names: Sequence[str]) -> None:
    """Compose the page from the figures of the last run of each benchmark."""
    parts, last = [INTRODUCTION], None
    for name in names:
        figures = json.loads((SCRATCH / f"{name}.json").read_text())
        if figures["machine"] != last:
            last = figures["machine"]
            parts.append("Measured on:\n\n" + "\n".join(f"- {key}: {value}" for key, value in last.items()) + "\n")
        parts.append(
            f"`{name}` took {figures['minutes']:.0f} minutes; on average {figures['load']:.1f} processes wanted a core"
            " in the last quarter of an hour, its own included.\n"
        )
        parts += _sections([Row(**row) for row in figures["rows"]])
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n".join(parts))


def _sections(rows: Sequence[Row]) -> list[str]:
    """One heading and table for each section, in order of appearance."""
    titles = dict.fromkeys(row.section for row in rows)
    return [f"## {title}\n\n" + markdown([row for row in rows if row.section == title]) for title in titles]


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    versions = []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "libraries": ", ".join(versions),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", information.read_text()) if information.exists() else None
    return named[1] if named else platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
