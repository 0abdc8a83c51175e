"""The folder of a Sentinel-2 build, laid out as the predecessor's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from catalog.publish.cards import CARD, CROISSANT
from cube.job.folder import BuildFolder
from cube.job.ledger import Ledger
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.extension import is_extension, note_extension, searched_until
from cube.sentinel2.predecessor import is_predecessors
from stratacube.errors import UsageError

__all__ = ["Sentinel2Folder"]

_IMAGERY = "imagery_raw"


@dataclass(frozen=True)
class Sentinel2Folder(BuildFolder):
    """Paths of the parts of a build."""

    job: str = ""
    """Name of the job whose scenes these are, where several are at work."""
    imagery: Path | None = None
    """Folder of SAFE products that builds share, if this one has none of its own."""

    FORMERLY: ClassVar[Mapping[str, Any]] = Sentinel2Config.former()
    SOURCE: ClassVar[str] = "sentinel2"
    PARAMETER: ClassVar[str] = "work_dir"
    PARTS: ClassVar[tuple[str, ...]] = (
        *BuildFolder.PARTS,
        CARD,
        CROISSANT,
        "collection.json",
        "composites",
        "composites.zarr",
        "indices",
        "items",
        "mosaics",
        "items.parquet",
        "plan.part",
        "previews",
        "tmp",
    )

    @property
    def archive(self) -> Path:
        """SAFE products, fetched or put there: sources, kept when a build is removed."""
        return self.imagery or self.root / _IMAGERY

    def beside(self) -> frozenset[str]:
        """Names in the folder that may be there before a build is: those of its sources."""
        return frozenset({_IMAGERY, *(p.name for p in (self.imagery,) if p is not None and p.parent == self.root)})

    def may_grow(self, before: Mapping[str, Any], described: Mapping[str, Any]) -> bool:
        """Whether all that differs is a later end, which adds scenes and periods; a saved search may be another."""
        return is_extension(before, described)

    def _renew(self, described: Mapping[str, Any], digest: str, created: datetime) -> None:
        there = self._stored()
        if there is not None:
            note_extension(self.ledger, there["build"])
        super()._renew(described, digest, created)

    def known_until(self) -> datetime:
        """The end until which products of the build in the folder were searched."""
        return searched_until(Ledger(self.ledger)) or datetime.fromisoformat(str(self.described()["end"]))

    def refuse_foreign(self) -> None:
        """Refuse a folder that holds something, and no build; and sources where a build has its own files.

        Raises
        ------
        UsageError
            If it does.
        """
        shared, own = self.imagery, [self.root / part for part in self.parts]
        if shared is not None and (shared == self.root or any(shared.is_relative_to(p) for p in own)):
            raise UsageError(
                f"`imagery_dir` {shared} lies where the build has its own files, which are removed with it; "
                f"give a folder outside of {self.root}"
            )
        if not self._stored() and not self._recorded() and is_predecessors(self.root):
            raise UsageError(
                f"{self.root} is a work dir of S2SR, which is left as it is: `stratacube sentinel2 adopt {self.root} "
                "--work-dir NEW` checks its imagery and links it into a new one, where the build goes on"
            )
        super().refuse_foreign()

    @property
    def indices(self) -> Path:
        """Lists: selected cells, products, what each cell holds."""
        return self.root / "indices"

    @property
    def selected(self) -> Path:
        """The cells of the build."""
        return self.indices / "selected_gridcells.csv"

    @property
    def items(self) -> Path:
        """The search, in full, so that a run can be replayed."""
        return self.indices / "items.json"

    @property
    def manifest(self) -> Path:
        """All products found, one row each: a list of the predecessor's."""
        return self.indices / "query_manifest.csv"

    @property
    def scene_index(self) -> Path:
        """The scenes of the products used, one row each: a list of the predecessor's."""
        return self.indices / "scene_index.csv"

    @property
    def scene_files(self) -> Path:
        """The image files of these, whether they are on disk, and what was decided on them."""
        return self.indices / "scene_files.csv"

    @property
    def left_out(self) -> Path:
        """Products that were found but not used, and why."""
        return self.indices / "left_out.csv"

    @property
    def unread(self) -> Path:
        """Products that could not be read when they were found, and where they lie: they are tried again."""
        return self.indices / "unread.json"

    @property
    def cells(self) -> Path:
        """What each finished cell holds, one JSON file a cell."""
        return self.indices / "cells"

    def result(self, cell: str) -> Path:
        """What one finished cell holds."""
        return self.cells / f"{cell}.json"

    @property
    def phase1_errors(self) -> Path:
        """The predecessor's list of scenes that failed; absent when none did."""
        return self.indices / "phase1_errors.csv"

    @property
    def phase2_errors(self) -> Path:
        """The predecessor's list of cells that could not be made; absent when all were."""
        return self.log.with_name("phase2_errors.csv")

    @property
    def tmp(self) -> Path:
        """Scenes and cells in the making."""
        return self.root / "tmp"

    @property
    def scenes(self) -> Path:
        """Scenes on the lattice, a folder each; of each job its own, for it removes them when it is through."""
        return self.tmp / ("scenes" if not self.job else f"scenes-{self.job}")

    def kept(self, cell: str) -> Path:
        """Values of a cell that is made, until they are in the Zarr store."""
        return self.tmp / "cells" / cell

    @property
    def composites(self) -> Path:
        """GeoTIFFs, a folder a cell."""
        return self.root / "composites"

    @property
    def store(self) -> Path:
        """The Zarr store over the lattice."""
        return self.root / "composites.zarr"

    @property
    def previews(self) -> Path:
        """Drawings of the whole build."""
        return self.root / "previews"

    @property
    def published(self) -> tuple[Path, ...]:
        """What describes the composites, but for their previews."""
        names = ("collection.json", "items", "items.parquet", "mosaics", CARD, CROISSANT)
        return self.catalog, self.report, self.page, *(self.root / name for name in names), self.previews
