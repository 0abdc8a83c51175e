"""The folder of a build of ABI tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from catalog.publish.cards import CARD, CROISSANT
from cube.config import TileConfig
from cube.job.folder import BuildFolder
from cube.registry import STRATA
from stratacube.files import remove

__all__ = ["AbiFolder"]

_LISTED_AS_JSON = 10_000
"""Scans up to which they are listed as JSON, which any tool and any eye reads: 68 MB of them, if they have 16 channels.
Beyond, stac-geoparquet takes a ninth of that, and tells times or addresses without being read whole."""


@dataclass(frozen=True)
class AbiFolder(BuildFolder):
    """Paths of the parts of a build."""

    FORMERLY: ClassVar[Mapping[str, Any]] = TileConfig.former()
    FOREMOST: ClassVar[tuple[str, ...]] = ("stratification", "strata", "satellite", "product")
    SOURCE: ClassVar[str] = "geostationary"
    PARTS: ClassVar[tuple[str, ...]] = (
        *BuildFolder.PARTS,
        ".publish",
        ".publish.part",
        CARD,
        CROISSANT,
        "completeness.csv",
        "index",
        "numbers",
        "plan.part",
        "plan.png",
        "previews",
        "references",
        "report.part",
        "screening.parquet",
        "sources",
        "sources.json",
        "sources.parquet",
        "sources.part",
        "statistics.json",
        "tiles",
        "tiles.zarr",
    )

    def may_grow(self, before: Mapping[str, Any], described: Mapping[str, Any]) -> bool:
        """Whether nothing but more tiles is asked for."""
        if any(before.get(key) != described.get(key) for key in {*before, *described} - {"num_tiles"}):
            return False
        few, many = _asked(before), _asked(described)
        return few is not None and many is not None and many > few

    @property
    def sources(self) -> Path:
        """All scans found: a STAC ItemCollection, or of very many a stac-geoparquet table, whichever is there."""
        table = self.root / "sources.parquet"
        return table if table.exists() else self.root / "sources.json"

    def sources_of(self, scans: int) -> Path:
        """Where so many scans are to be listed. What listed them otherwise is removed: one list is there, or none."""
        names = ["sources.json", "sources.parquet"]
        name = names.pop(scans > _LISTED_AS_JSON)
        remove(self.root / names[0])
        return self.root / name

    @property
    def completeness(self) -> Path:
        """Scan by channel: what the archive has."""
        return self.root / "completeness.csv"

    @property
    def plan_map(self) -> Path:
        """Where tiles were asked for, found and refused."""
        return self.root / "plan.png"

    @property
    def screening(self) -> Path:
        """What was found of the files that tiles would be cut from, a row a file."""
        return self.root / "screening.parquet"

    @property
    def tables(self) -> tuple[Path, ...]:
        """Tables that the strata may write beside the plan."""
        return tuple(self.root / name for stratum in STRATA.all().values() for name in stratum.tables)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names that a build may have in its folder."""
        return *self.PARTS, *(table.name for table in self.tables)

    @property
    def index(self) -> Path:
        """Cached references per file."""
        return self.root / "index"

    @property
    def numbers(self) -> Path:
        """What the headers of files tell of the tiles, a file a shard."""
        return self.root / "numbers"

    def numbers_of(self, shard: int) -> Path:
        """Those of the tiles of one shard."""
        return self.numbers / f"shard-{shard:06d}.npz"

    def unfit_of(self, part: str) -> Path:
        """Files that the job of a part found not fit to be used."""
        return self.numbers / f"unfit-{part}.parquet"

    def counts_of(self, shard: int) -> Path:
        """How often each count occurs in the tiles of one shard."""
        return self.numbers / f"counts-{shard:06d}.npz"

    @property
    def statistics(self) -> Path:
        """Statistics of the bands, counted as the tiles were cut."""
        return self.root / "statistics.json"

    @property
    def gathered(self) -> Path:
        """Which of those the store holds, as a digest."""
        return self.numbers / "gathered"

    @property
    def references(self) -> Path:
        """The virtual cube of the scans used."""
        return self.root / "references"

    @property
    def tiles(self) -> Path:
        """The tile store."""
        return self.root / "tiles.zarr"

    @property
    def previews(self) -> Path:
        """Thumbnails and contact sheet."""
        return self.root / "previews"

    @property
    def published(self) -> tuple[Path, ...]:
        """What describes the tiles."""
        described = (self.root / name for name in ("tiles", "sources", CARD, CROISSANT))
        return self.catalog, self.report, self.page, self.previews, *described


def _asked(values: Mapping[str, Any]) -> int | None:
    """Tiles that a configuration asks for; None for all that there are."""
    if values.get("num_tiles") is not None:
        return int(values["num_tiles"])
    name = values.get("stratification")
    tiles: int | None = STRATA.load(name).tiles if name in STRATA.names() else None
    return tiles
