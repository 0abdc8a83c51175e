"""Work dirs of S2SR, the predecessor: how one is recognised, and what it holds. They are only read."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stratacube.errors import UsageError
from stratacube.guard import reason_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["fetched_files", "is_predecessors", "next_command", "not_there", "safe_folders"]

IMAGERY = "imagery_raw"
_MARKS = ("query_manifest.csv", "scene_index.csv", "selected_gridcells.csv")
_BAND = re.compile(r"_(B\d[\dA])_(\d0)m\.jp2$")


def is_predecessors(folder: Path) -> bool:
    """Whether a folder, which holds no build of ours, is a work dir of S2SR: its imagery and its lists or logs."""
    if not (folder / IMAGERY).is_dir():
        return False
    return any((folder / "indices" / name).is_file() for name in _MARKS) or any(
        (folder / "logs").glob("pipeline_rank*.log")
    )


def safe_folders(old: Path, new: Sequence[Path]) -> list[Path]:
    """Return the products in the imagery of a work dir, in order.

    Parameters
    ----------
    old
        The work dir.
    new
        Folders that will be written to, which have nothing to do with it.

    Raises
    ------
    UsageError
        If there is no imagery in it, or one of the new folders lies in it or around it.
    """
    imagery = old / IMAGERY
    if not imagery.is_dir():
        raise UsageError(f"{old} has no folder {IMAGERY}; give a work dir of S2SR, or `imagery_dir` for products alone")
    for folder in new:
        if _resolved(folder).is_relative_to(_resolved(old)) or _resolved(old).is_relative_to(_resolved(folder)):
            raise UsageError(f"{folder} and {old} lie in one another, and the old one is left as it is; give another")
    try:
        found = sorted(p for p in imagery.iterdir() if p.name.endswith(".SAFE") and p.is_dir())
    except OSError as error:
        raise UsageError(f"{imagery} cannot be read ({error.strerror}); check its permissions") from error
    if not found:
        raise UsageError(f"{imagery} holds no .SAFE folder; there is nothing to take over")
    return found


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))


def fetched_files(safe: Path) -> list[Path]:
    """Return the files of a product, in order, also those of downloads that were cut off."""
    files: list[Path] = []
    for root, folders, names in os.walk(safe):
        folders.sort()
        files += [Path(root, name) for name in sorted(names) if not name.endswith((".aux.xml", ".tmp"))]
    return [path for path in files if path.is_file()]


def not_there(old: Path, safes: Sequence[Path]) -> list[str]:
    """Return the products that its search found and of which it has no file; none where it has no list of them."""
    manifest = _table(old / "indices" / "query_manifest.csv", "Name")
    have = {safe.name.removesuffix(".SAFE") for safe in safes}
    names = [] if manifest is None else manifest["Name"].dropna().astype(str)
    return sorted({name.rstrip("/").removesuffix(".SAFE") for name in names} - have)


def next_command(old: Path, build: Path, names: Sequence[str], imagery: Path | None) -> str:
    """Say how a build goes on: with the cells and days of the old one, and the bands it has.

    Parameters
    ----------
    old
        The old work dir.
    build
        The new one.
    names
        Of its files.
    imagery
        Where they are, if not in the new work dir.
    """
    words = ["stratacube", "sentinel2", "--work-dir", str(build)]
    words += ["--imagery-dir", str(imagery)] if imagery is not None else []
    cells = old / "indices" / "selected_gridcells.csv"
    words += ["--grid-csv", str(cells)] if cells.is_file() else ["--bbox", "WEST", "SOUTH", "EAST", "NORTH"]
    days = sorted(re.findall(r"_MSIL2A_(\d{4})(\d\d)(\d\d)T", " ".join(_products(old, names))))
    first, last = ("-".join(days[0]), "-".join(days[-1])) if days else ("START", "END")
    words += ["--start", first, "--end", last]
    found = [m.groups() for name in names if (m := _BAND.search(name))]
    sizes = sorted({int(size) for _, size in found})
    words += ["--bands", *sorted({band for band, _ in found})] if found else []
    words += ["--bands-res", str(sizes[0])] if len(sizes) == 1 and sizes[0] != 20 else []
    return shlex.join(words)


def _products(old: Path, names: Sequence[str]) -> Iterator[str]:
    manifest = _table(old / "indices" / "query_manifest.csv", "Name")
    yield from names if manifest is None else manifest["Name"].dropna().astype(str)


def _table(path: Path, column: str) -> pd.DataFrame | None:
    """Read a list of the predecessor's; None where there is none, or another thing under its name."""
    if not path.is_file():
        return None
    import pandas as pd  # noqa: PLC0415  (each look at a build of ours asks whether it is the predecessor's)

    try:
        table = pd.read_csv(path)
    except Exception as error:
        raise UsageError(f"{path} is not a table ({reason_of(error)}); remove it, or mend it") from error
    return table if column in table else None
