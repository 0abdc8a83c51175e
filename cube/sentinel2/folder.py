"""The folder of a Sentinel-2 build, laid out as the predecessor's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from cube.job.folder import BuildFolder
from cube.sentinel2.config import Sentinel2Config

__all__ = ["Sentinel2Folder"]


@dataclass(frozen=True)
class Sentinel2Folder(BuildFolder):
    """Paths of the parts of a build."""

    job: str = ""
    """Name of the job whose scenes these are, where several are at work."""

    FORMERLY: ClassVar[Mapping[str, Any]] = Sentinel2Config.former()
    SOURCE: ClassVar[str] = "sentinel2"
    PARAMETER: ClassVar[str] = "work_dir"
    PARTS: ClassVar[tuple[str, ...]] = (
        *BuildFolder.PARTS,
        "collection.json",
        "composites",
        "composites.zarr",
        "indices",
        "items",
        "plan.part",
        "tmp",
    )

    @property
    def archive(self) -> Path:
        """SAFE products, fetched or put there: sources, kept when a build is removed."""
        return self.root / "imagery_raw"

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
        """The image files of the products used, and whether they are on disk: a list of the predecessor's."""
        return self.indices / "scene_index.csv"

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
    def published(self) -> tuple[Path, ...]:
        """What describes the composites, but for their previews."""
        return self.catalog, self.report, self.root / "collection.json", self.root / "items"
