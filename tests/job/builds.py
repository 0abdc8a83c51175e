"""Small builds of both sources, copied at each stage, and what a folder holds but for the time it took."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cube.build import main
from cube.geostationary.run import AbiBuild
from cube.job.run import Run
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.run import Sentinel2Build
from cube.testing import write_abi_archive
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, make_scene

STAGES = ("planned", "half built", "built", "published")


@dataclass(frozen=True)
class Build:
    """A build that was made once, and its folder as it was at each stage."""

    source: str
    flags: tuple[str, ...]
    output: Path
    """Where it is made: a copy of a stage is laid here, for products name absolute paths."""
    copies: Path
    whole: dict[str, Any]

    def begin(self, stage: str) -> Path:
        """Lay the folder as it was at a stage."""
        shutil.rmtree(self.output, ignore_errors=True)
        shutil.copytree(self.copies / stage, self.output, symlinks=True)
        return self.output

    def run(self, *flags: str) -> int:
        """Run the one command, within this process."""
        return main([self.source, *self.flags, *flags])

    def look(self) -> tuple[int, int]:
        """Exit codes of status and verify."""
        return main(["status", str(self.output)]), main(["verify", str(self.output)])


@contextmanager
def after(owner: Any, name: str, then: Callable[..., None], *, before: bool = False) -> Iterator[None]:
    """Call something after (or before) each call of a method, with the same arguments."""
    method = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before:
            then(*args, **kwargs)
        result = method(*args, **kwargs)
        if not before:
            then(*args, **kwargs)
        return result

    patch = pytest.MonkeyPatch()
    patch.setattr(owner, name, wrapped)
    try:
        yield
    finally:
        patch.undo()


TIMED = re.compile(rb'<section id="time-taken".*?</section>', re.S)
"""What a page says of the time that a build took."""
WITH_TIMES = ("report.md", "report.html", "previews/run.svg")


def contents(root: Path) -> dict[str, Any]:
    """Every file of a build, but for its logs, its claim, what is only cached, and the time that steps took."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in root.rglob("*") if not p.is_dir()):
        name = path.relative_to(root).as_posix()
        if name.startswith(("logs/", ".claim", "index/")) or name == "previews/run.svg":
            continue
        found[name] = path.read_bytes()
    if "report.md" in found:
        text = found["report.md"].decode()
        found["report.md"] = re.sub(r"(?m)^(\| \w+ \|) +[0-9.]+ \|$", r"\1 |", text)
    if "report.html" in found:
        found["report.html"] = TIMED.sub(b"", found["report.html"])
    if "ledger.jsonl" in found:
        found["ledger.jsonl"] = _standing(found["ledger.jsonl"])
    return found


def _standing(ledger: bytes) -> dict[str, Any]:
    """What a ledger says in the end; what a step cost is of the run that took it."""
    entries: dict[str, Any] = {}
    for line in ledger.splitlines():
        try:
            entry = json.loads(line)
            entries[entry["key"]] = {k: entry[k] for k in ("status", "problems", "empty", "facts", "files")}
            entries[entry["key"]]["files"] = [f for f in entry["files"] if f[0] not in WITH_TIMES]
        except (ValueError, KeyError, TypeError):
            continue
    return entries


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Names of files that are not the same."""
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def paths(root: Path) -> list[Path]:
    """Every path of a folder, as find lists them; of folders that hold the same files, the topmost."""
    seen: set[frozenset[Path]] = set()
    found = []
    for path in sorted(root.rglob("*")):
        inner = path.relative_to(root)
        if inner.parts[0] in (".claim", "logs", "index") and len(inner.parts) > 1:
            continue
        files = frozenset(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else frozenset([path])
        if files and files in seen:
            continue
        seen.add(files)
        found.append(inner)
    return found


def remove(path: Path) -> None:
    """Remove a file, or a folder with all below it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def make(source: str, flags: tuple[str, ...], output: Path, copies: Path, task: str) -> Build:
    """Make a build, and copy its folder at each stage: what a kill at that moment leaves."""

    def copy(stage: str) -> None:
        if not (copies / stage).exists():
            shutil.copytree(output, copies / stage, symlinks=True, ignore=shutil.ignore_patterns(".claim"))

    def recorded(run: Run, key: str, *_: Any, **__: Any) -> None:
        if key.startswith(task):
            copy("half built")

    build = Build(source, flags, output, copies, {})
    assert build.run("--plan-only") == 0
    copy("planned")
    publisher = AbiBuild if source == "abi" else Sentinel2Build
    with after(Run, "record", recorded), after(publisher, "publish", lambda *_: copy("built"), before=True):
        assert build.run() == 0
    copy("published")
    build.whole.update(contents(output))
    return build


def make_abi(root: Path) -> Build:
    """Three tiles of two channels, a shard each."""
    write_abi_archive(
        root / "archive", start=datetime(2020, 7, 1, 16), hours=0.5, channels=(7, 13), shape_2km=(120, 120), workers=1
    )
    flags = (
        *("--output-dir", str(root / "out"), "--local-data-dir", str(root / "archive"), "--domain", "M1"),
        *("--channels", "7", "13", "--tile-size", "64", "--grid", "2km", "--steps", "2", "--step-minutes", "10"),
        *("--num-tiles", "3", "--shard-mb", "0.03", "--workers", "1", "--quiet"),
    )
    return make("abi", flags, root / "out", root / "copies", "shard-")


def make_sentinel2(root: Path) -> Build:
    """Four cells of two bands, from seven scenes; a shard a cell."""
    bounds = (ULX, ULY - 2 * 2000, ULX + 2 * 2000, ULY)
    write_grid(make_grid(2000, bounds, f"EPSG:{EPSG}"), root / "grid.csv")
    for day in range(7):
        make_scene(day, FIRST + timedelta(days=day), bands=BANDS).write(root / "safe")
    flags = (
        *("--work-dir", str(root / "out"), "--safe-dir", str(root / "safe"), "--grid-csv", str(root / "grid.csv")),
        *("--start", "2021-06-01", "--end", "2021-06-30", "--bands", *BANDS, "--tr", "20", "20", "--tap"),
        *("--products", "cog", "zarr", "--workers", "1", "--quiet"),
    )
    return make("sentinel2", flags, root / "out", root / "copies", "cell ")


BANDS = ("B02", "B03", "B04")
