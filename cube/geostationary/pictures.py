"""Pictures of the tiles of a build: of a sample, for thousands are looked at by nobody."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cube.geostationary.folder import AbiFolder
from cube.job.run import Run
from cube.preview import contact_sheet, open_raw, sample, thumbnail
from stratacube.errors import StratacubeError
from stratacube.files import remove

__all__ = ["draw_previews", "has_previews"]


def has_previews(folder: AbiFolder, tiles: int, most: int) -> bool:
    """Whether as many are there as are asked for."""
    return len([*folder.previews.glob("[!.]*_r*.png")]) >= min(tiles, most)


@dataclass(frozen=True)
class _PreviewTask:
    """Thumbnails of the tiles of one shard."""

    shard: int
    store: Path
    tiles: tuple[tuple[int, Path], ...]

    @property
    def key(self) -> str:
        return f"previews-{self.shard:06d}"


def _draw(task: _PreviewTask) -> None:
    numbers = [tile for tile, _ in task.tiles]
    first, last = min(numbers), max(numbers)
    with open_raw(task.store) as data:
        part = data.isel(tile=slice(first, last + 1))
        # What is small lies in chunks of very many tiles, each of which would be decoded for every tile.
        images = {d for d in part.dims if str(d)[:1] in "xy" and not str(d).endswith("_coarse")}
        small = [n for n in part.variables if "tile" in part[n].dims and not images & {*part[n].dims}]
        part = part.assign({n: part[n].load() for n in small})
        for tile, path in task.tiles:
            thumbnail(part, tile - first, path)


def draw_previews(folder: AbiFolder, tiles: pd.DataFrame, run: Run, most: int) -> None:
    """Draw thumbnails of a sample of tiles, and the sheet of them; those of other tiles are removed.

    Parameters
    ----------
    folder
        Of the build.
    tiles
        Rows of the plan whose tile was made.
    run
        Whose workers draw.
    most
        How many, at even steps.

    Raises
    ------
    StratacubeError
        If one cannot be drawn.
    """
    folder.previews.mkdir(exist_ok=True)
    tiles = sample(tiles, most)
    _remove_others(folder.previews, {*tiles["tile_id"]})
    tasks = [
        _PreviewTask(
            int(shard),
            folder.tiles,
            tuple((int(r.tile), folder.previews / f"{r.tile_id}.png") for r in rows.itertuples()),
        )
        for shard, rows in tiles.groupby("shard")
    ]
    for outcome in run.do(tasks, _draw, "drawing"):
        if outcome.error:
            raise StratacubeError(
                f"thumbnails of shard {outcome.task.shard} could not be drawn ({outcome.error}); "
                "`verify` names what is damaged: remove that and run the same command again"
            )
    contact_sheet(folder.previews, tiles, folder.previews / "contact_sheet.png")


def _remove_others(previews: Path, names: Set[str]) -> None:
    """Remove pictures of before, of tiles that may be others now."""
    for picture in previews.glob("*.png"):
        if picture.stem not in names:
            remove(picture)
