"""Whether ``pip install -e '.[EXTRA]'`` comes to an end without constraints: one line an extra and resolver.

Resolves the project alone and with each of its extras, with the pip of the Python that runs this and, where it is on
the PATH, uv. Nothing is installed, and no wheel is fetched whose metadata the index tells by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PIP = """
import inspect, json, os, sys
from pip._internal.cli.main import main
from pip._internal.operations.prepare import RequirementPreparer
from pip._internal.resolution.resolvelib.resolver import Resolver

def report(self, requirements, *_, **__):
    with open(sys.argv[sys.argv.index("--report") + 1], "w") as file:
        json.dump({"install": [r.name for r in requirements]}, file)
    os._exit(0)

# Even in a dry run, older pips fetch every wheel once all is resolved: gigabytes, where torch is among them.
if "prepare_linked_requirements_more" in inspect.getsource(Resolver.resolve):
    RequirementPreparer.prepare_linked_requirements_more = report
sys.exit(main(sys.argv[1:]))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Resolve, tell, and return 0 if each resolver came to an end with a set of packages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*", help="extras to resolve (default: none, then each)")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for each (default: %(default)g)")
    options = parser.parse_args(arguments)
    extras = options.extras or ["", *_described()["optional-dependencies"]]
    ended = []
    for extra in extras:
        with tempfile.TemporaryDirectory() as scratch:
            ended += [_tell(extra, *way, options.limit) for way in _ways(extra, Path(scratch))]
    return 0 if all(ended) else 1


def _described() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]  # type: ignore[no-any-return]


def _ways(extra: str, scratch: Path) -> Iterator[tuple[str, list[str], Path]]:
    """Each resolver with its command and the file that it leaves."""
    wanted, report = f".[{extra}]" if extra else ".", scratch / "report"
    pip = [sys.executable, "-c", PIP, "install", "--dry-run", "--ignore-installed", "-q", "--report", str(report)]
    yield f"pip {version('pip')}", [*pip, "-e", wanted], report
    if uv := shutil.which("uv"):
        options = ["--quiet", "--no-header", "--no-annotate", f"--python={sys.executable}", f"--output-file={report}"]
        yield "uv", [uv, "pip", "compile", *options, *(["--extra", extra] if extra else []), "pyproject.toml"], report


def _tell(extra: str, resolver: str, command: list[str], report: Path, limit: float) -> bool:
    """Run one resolver, in a group of processes that can be ended as a whole, and print its line."""
    report.unlink(missing_ok=True)
    began, before = time.monotonic(), _cpu()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(report.parent)},  # what a resolver that is ended leaves goes with it
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said = process.communicate(timeout=limit)[1].strip().splitlines()
        told = f"{_count(report)} packages" if process.returncode == 0 else f"failed: {said[-1] if said else ''}"
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        told = f"no end within {limit:g} s"
    spent = f"{time.monotonic() - began:.0f} s, {_cpu() - before:.0f} s of CPU"
    name = f"[{extra}]" if extra else "no extra"
    sys.stdout.write(f"Python {platform.python_version()}  {resolver:10} {name:12} {told} ({spent})\n")
    sys.stdout.flush()
    return process.returncode == 0


def _count(report: Path) -> int:
    """Packages of pip's report less the project itself, or of uv's list of requirements."""
    text = report.read_text()
    return len(json.loads(text)["install"]) - 1 if text.startswith("{") else len(text.splitlines())


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
