"""Giving chips back, and tiles as chips."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from cube.geostationary.chips.config import ExportConfig
from cube.geostationary.chips.like import TileChips
from cube.geostationary.chips.run import ChipFolder
from cube.geostationary.chips.store import exported
from cube.geostationary.chips.zarr_tiles import write_tile
from cube.geostationary.folder import AbiFolder
from stratacube.choices import many
from stratacube.command import Answer
from stratacube.errors import UsageError
from stratacube.files import whole_file, whole_folder, write_text
from stratacube.inside import is_inside
from stratacube.parquet import read_frame

__all__ = ["run_export"]

_OF_BUILDS = ("like", "folders", "split_lists")


def run_export(config: ExportConfig) -> Answer:
    """Write every chip of a store as the file that it was, or every tile of a build as such a chip.

    Files that are there are left as they are, so that a run that was stopped goes on.

    Raises
    ------
    UsageError
        If there is neither, or the pixels of tiles are not those of chips.
    """
    folder, tiles = ChipFolder(config.store), AbiFolder(config.store)
    if folder.table.exists():
        given = next((name for name in _OF_BUILDS if name in config.model_fields_set), None)
        if given:
            raise UsageError(f"`{given}` goes with the tiles of a build, and {config.store} holds chips; leave it out")
        config.output_dir.mkdir(parents=True, exist_ok=True)
        return _given_back(folder, config.output_dir)
    if not tiles.tiles.exists():
        raise UsageError(
            f"{config.store} holds neither chips nor tiles; give the folder that import-chips or a build of tiles wrote"
        )
    return _of_tiles(TileChips(tiles, config.like, config.s3_endpoint), config)


def _given_back(folder: ChipFolder, out: Path) -> Answer:
    table = read_frame(folder.table)
    table = table[[not (out / str(name)).exists() for name in table["name"]]]
    told: Mapping[str, str] = {}
    if "zarr" in table:  # stores of chips that were made before have none
        told = dict(zip(table["name"], table["zarr"].fillna(""), strict=True))
    for name, members in exported(folder.store, table):
        target = out / name
        if target.suffix == ".npz":
            _save(target, members)
        else:
            with whole_folder(target) as part:
                write_tile(part, members, told.get(name, ""))
    return Answer(0, [f"{many(len(table), 'chip')} in {out}"], {"written": len(table)})


def _of_tiles(chips: TileChips, config: ExportConfig) -> Answer:
    targets, lists = dict[str, Path](), defaultdict[str, list[str]](list)
    for name, row in chips.rows():
        path = PurePosixPath(_folder_of(config.folders, row)) / name
        if name in targets:
            raise UsageError(
                f"two tiles of {config.store} would be the file {name}, for files are named by the event, and it is "
                "the same; plan the build with another `seed`"
            )
        targets[name] = config.output_dir / path
        lists[str(getattr(row, "split", ""))].append(str(path))
    if config.split_lists and set(lists) == {""}:
        raise UsageError(f"`split_lists` wants splits, and {config.store} has none; build with `splits=blocks`")
    written = 0
    for name, members in chips.made(lambda name: not targets[name].exists()):
        targets[name].parent.mkdir(parents=True, exist_ok=True)
        _save(targets[name], members)
        written += 1
    if config.split_lists:
        for split, paths in lists.items():
            there = [path for path in paths if (config.output_dir / path).exists()]
            write_text(config.output_dir / f"{split}.txt", "".join(f"{path}\n" for path in sorted(there)))
    lines, lacking = [f"{many(written, 'chip')} in {config.output_dir}"], len(chips.left_out)
    if lacking:
        lines.append(f"{many(lacking, 'tile')} could not be made chips of, as told above")
    return Answer(1 if lacking else 0, lines, {"written": written, "left_out": chips.left_out})


def _folder_of(pattern: str, row: Any) -> str:
    """Folder of a chip, by its row of the plan.

    Raises
    ------
    UsageError
        If the pattern has other words or wants splits that are not there, or leads out of the output.
    """
    if "{split" in pattern and not getattr(row, "split", ""):
        raise UsageError(f"`folders` is {pattern!r}, and the build has no splits; build with `splits=blocks`")
    words = {"split": getattr(row, "split", ""), "stratum": row.stratum, "satellite": row.platform}
    try:
        found = f"{pd.Timestamp(row.event_time):{pattern}}".format(**words) if pattern else ""
    except (ValueError, LookupError, AttributeError) as error:
        known = ", ".join(f"{{{name}}}" for name in words)
        raise UsageError(f"`folders` is {pattern!r} ({error}); give words of {known} and codes such as %Y%m") from error
    if found and not is_inside(found):
        raise UsageError(f"`folders` is {pattern!r}, which leads out of `output_dir`; give folders within it")
    return found


def _save(target: Path, members: Mapping[str, Any]) -> None:
    with whole_file(target) as part, part.open("wb") as out:
        np.savez_compressed(out, **members)
