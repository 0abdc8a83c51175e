"""Features of clouds of the tiles of a store, as they were when the tiles were drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cube.job.store import ArraySpec
from cube.strata.clouds.definitions import SCHEMES
from cube.strata.labelling import PlannedTiles

__all__ = ["CloudLabels"]

_BLOCK = 1024
_TEMPERATURES: Mapping[str, tuple[str, str]] = {
    "bt_mean": ("K", "mean brightness temperature at 10.35 micrometres"),
    "bt_min": ("K", "least brightness temperature at 10.35 micrometres"),
    "bt_std": ("K", "standard deviation of brightness temperature at 10.35 micrometres"),
    "middle_share": ("1", "share of pixels below freezing"),
    "cold_share": ("1", "share of pixels colder than 241 K"),
    "coldest_share": ("1", "share of pixels colder than 221 K"),
    "ice_share": ("1", "share of pixels warmer at 8.5 than at 11.2 micrometres"),
    "objects": ("1", "connected areas colder than 241 K"),
    "iorg": ("1", "index of organisation of those areas"),
    "scai": ("1", "simple convective aggregation index of those areas"),
}


class CloudLabels:
    """Class and features of each tile, at the scan of its event.

    Parameters
    ----------
    tiles : PlannedTiles
        Of the store.
    cloud_products, clouds_by : str, optional
        As the tiles were drawn.
    **_ : Any
        Other options.
    """

    def __init__(
        self, tiles: PlannedTiles, *, cloud_products: str | None = None, clouds_by: str | None = None, **_: Any
    ) -> None:
        self.tiles = tiles
        self.classes = SCHEMES[clouds_by or ("level" if cloud_products is None else "type")]
        self.numbers = (
            _TEMPERATURES
            if cloud_products is None
            else {name: ("1", f"share of pixels of {name.replace('_', ' ')}") for name in SCHEMES["type"]}
        )

    def arrays(self) -> Mapping[str, ArraySpec]:
        """Describe the variables."""
        count, chunk = self.tiles.tiles, min(_BLOCK, self.tiles.tiles)
        specs = {
            f"clouds_{name}": ArraySpec(
                ("tile",), (count,), "<f4", (chunk,), None, np.nan, {"long_name": title, "units": units}
            )
            for name, (units, title) in self.numbers.items()
        }
        flags = {"flag_values": list(range(len(self.classes))), "flag_meanings": " ".join(self.classes)}
        specs["clouds_class"] = ArraySpec(
            ("tile",), (count,), "|i1", (chunk,), None, -1, {"long_name": "class of clouds", **flags}
        )
        return specs

    def values(self) -> Iterator[tuple[str, int, npt.NDArray[Any]]]:
        """Read them from the plan."""
        for block in self.tiles.blocks():
            start, ours = int(block["tile"].iloc[0]), block["stratum"] == "clouds"
            details = [json.loads(text) if own else {} for text, own in zip(block["details"], ours, strict=True)]
            classes = [self.classes.index(d["class_name"]) if d else -1 for d in details]
            yield "clouds_class", start, np.array(classes, "i1")
            for name in self.numbers:
                yield f"clouds_{name}", start, np.array([d.get(name, np.nan) for d in details], "f4")
