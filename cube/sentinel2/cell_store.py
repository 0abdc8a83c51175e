"""The Zarr store of one cell, beside its GeoTIFFs or in their place, written by the worker that makes the cell."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from catalog.publish.public import shown
from cube.job.folder import FORMAT
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.lattice import Lattice, Window
from cube.sentinel2.periods import Period
from cube.sentinel2.products import Encoding, ZarrLayout, create_composites, paste
from cube.sentinel2.reduce import Layers
from stratacube.files import remove

__all__ = ["CellStore", "cell_store_file", "store_attributes", "stored"]


def cell_store_file(name: str) -> str:
    """Name of the store of a cell, in a period where there are several, in the folder of its products."""
    return f"cell_{name}.zarr"


def store_attributes(config: Sentinel2Config, period: Period | None = None) -> dict[str, Any]:
    """Return the attributes of a store of composites that tell where it comes from; of one period, where it is."""
    of = period or config
    return {
        "title": f"Sentinel-2 L2A {config.reducer} composites",
        "source": "Copernicus Sentinel-2 level 2A surface reflectance",
        "time_coverage_start": of.start.isoformat() + "Z",
        "time_coverage_end": of.end.isoformat() + "Z",
        "stratacube_version": importlib.metadata.version("stratacube"),
        "stratacube_format": FORMAT,
        "config": yaml.safe_dump(shown(config.described()), sort_keys=False),
        "config_hash": config.digest(),
    }


def stored(values: npt.NDArray[Any], kind: Encoding, *, is_band: bool) -> npt.NDArray[Any]:
    """Encode an array as stores hold it, where NaN stays NaN; counts and layers are encoded already."""
    if not is_band or (kind.dtype == "float32" and kind.factor == 1):
        return values
    return values * np.float32(kind.factor) if kind.dtype == "float32" else kind.encode(values)


@dataclass(frozen=True)
class CellStore:
    """A store to write for a cell."""

    path: Path
    codec: str
    attributes: Mapping[str, Any]
    lattice: Lattice
    window: Window
    kind: Encoding
    bands: tuple[str, ...]

    @property
    def layout(self) -> ZarrLayout:
        """One shard: it is written whole."""
        return ZarrLayout.of([self.window])

    def begin(self, layers: Mapping[str, Layers]) -> None:
        """Write metadata and coordinates anew: of what a run before left nothing is read."""
        remove(self.path)
        shape = self.lattice, self.layout, self.bands, self.kind
        create_composites(self.path, *shape, self.attributes, self.codec, layers=layers)

    def save(self, name: str, values: npt.NDArray[Any]) -> None:
        """Write one array: harmonised numbers of a band, or what is written as it is."""
        data = stored(values, self.kind, is_band=name in self.bands)
        paste(self.path, self.layout, (0, 0), {name: [(self.window, data, None)]})
