"""Run the benchmarks and write their figures to docs/benchmarks.md: ``python -m tests.benchmarks [NAME ...]``.

Every ``bench_NAME.py`` beside this file is run in turn. The page has a part for each, and a run replaces its own alone.
With ``--against COMMIT`` this code is compared with an earlier commit of it instead; that too is a part of the page.
Inputs are kept in ``.bench/`` of the checkout.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil

from tests.benchmarks.against import GROUPS, TURNS, part
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
    parser.add_argument("--against", metavar="COMMIT", help="compare with an earlier commit instead, by CPU time")
    parser.add_argument("--turns", type=int, default=TURNS, help=f"of the comparison (default: {TURNS})")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, help="parts of the comparison; the page is not written")
    options = parser.parse_args(arguments)
    if options.against:
        return _against(options)
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
            write_part(name, "\n".join([_facts(name, started), *_sections(rows)]))
    return 0 if met else 1


def _against(options: argparse.Namespace) -> int:
    """Compare with an earlier commit; exit code 1 if anything is slower."""
    started = time.monotonic()
    groups = options.groups or ()
    turns = 2 if options.quick else options.turns
    table, met = part(options.against, SCRATCH / "against", turns, groups)
    sys.stderr.write(table)
    if not options.quick and not groups:
        write_part("against", f"{_facts('against', started)}\n{table}")
    return 0 if met else 1


def _facts(name: str, started: float) -> str:
    """What a run's figures depend on, as a list."""
    facts = [
        *machine(),
        f"`{name}` took {(time.monotonic() - started) / 60:.0f} minutes; on average {os.getloadavg()[2]:.1f} "
        "processes wanted a core in the last quarter of an hour, its own included",
    ]
    return "".join(f"- {fact}\n" for fact in facts)


def write_part(name: str, text: str) -> None:
    """Put a benchmark's part into the page, in the place of its last one."""
    page = PAGE.read_text() if PAGE.exists() else ""
    parts = dict(re.findall(r"<!-- (\w+) -->\n(.*?)(?=<!-- \w+ -->|\Z)", page, re.DOTALL))
    parts[name] = f"\n{text}\n"
    PAGE.write_text(INTRODUCTION + "".join(f"\n<!-- {n} -->\n{parts[n].rstrip()}\n" for n in sorted(parts)))


def _sections(rows: Sequence[Row]) -> list[str]:
    """One heading and table for each section, in order of appearance."""
    titles = dict.fromkeys(row.section for row in rows)
    return [f"## {title}\n\n" + markdown([row for row in rows if row.section == title]) for title in titles]


def machine() -> list[str]:
    """What the figures depend on."""
    versions = []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return [
        f"{datetime.now(UTC):%Y-%m-%d}",
        f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        ", ".join(versions),
    ]


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", information.read_text()) if information.exists() else None
    return named[1] if named else platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
