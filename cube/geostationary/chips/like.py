"""Tiles of a build as the chips that SatVision-Pix4D writes, which its trainers read.

Tiles about CloudSat's track have the form of its cutter, all others that of its chips of cloud systems.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from catalog.geostationary.scans import SourceFile
from catalog.geostationary.shelf import ScanShelf
from cube.geostationary.chips.cloudsat_chips import cloudsat_chip, cloudsat_name
from cube.geostationary.chips.pixels import BANDS, PIXEL, ChipPixels
from cube.geostationary.dialect import dialect_of
from cube.geostationary.folder import AbiFolder
from cube.geostationary.grid import FixedGrid
from cube.geostationary.layout import TileSpec
from cube.geostationary.plan_table import PlanTable
from cube.geostationary.tilestore import open_tiles
from cube.job.ledger import Ledger
from cube.sun import solar_angles
from stratacube.errors import SourceError, UsageError

__all__ = ["TileChips"]

_log = logging.getLogger(__name__)

Chip = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class _Place:
    """Where the pixels of a chip lie."""

    grid: FixedGrid
    shift: tuple[int, int]
    """Rows and columns that it begins before its tile."""
    centre: tuple[int, int]
    """Row and column of its centre in the sector."""


class TileChips:
    """The tiles of a finished build as chips.

    Every value that is not fill is kept, whatever its quality flag; a band that the build does not have is NaN. Of
    pixels of 0.5 km it is every second one, from the archive where the store has averages.

    Parameters
    ----------
    folder
        Of the build.
    like
        ``tile``: a chip lies where its tile does, with an even corner; ``satvision``: with the pixel of the event in
        its centre, as SatVision-Pix4D cuts it; a row or a column that the tile lacks is read from the archive.
    endpoint_url
        S3 endpoint, of an archive on S3.

    Raises
    ------
    UsageError
        If the build's pixels are not those of chips, or its plan does not tell the events' pixels.
    """

    def __init__(self, folder: AbiFolder, like: str, endpoint_url: str | None) -> None:
        self.folder, self.like, self.config = folder, like, folder.described()
        if self.config["grid"] == "2km":
            raise UsageError(f"{folder.root} has pixels of the grid 2km, and chips have those of 1km; build anew")
        self.table = PlanTable(folder.plan)
        names = dialect_of(str(self.config["satellite"]).split()[0]).names
        self.shelf = ScanShelf(folder.sources, naming=names)
        self.pixels = ChipPixels(self.config, endpoint_url)
        problems = Ledger(folder.ledger).problems()
        self._unmade = {p.product: p.reason for p in problems if p.kind == "product" and p.product}
        """Why tiles are none, as of fewer valid pixels than were asked for, though some have pixels in the store."""
        self.left_out: list[str] = []
        """Names of chips that could not be made, or have no pixel; the log tells why."""

    def rows(self) -> Iterator[tuple[str, Any]]:
        """Yield name and row of the plan of each chip."""
        for block in self.table.blocks():
            for row in block.itertuples():
                yield self._name(row), row

    def made(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Chip]]:
        """Yield name and arrays of the chips that are wanted, one after another."""
        store = open_tiles(str(self.folder.root), "counts")
        for name, row in self.rows():
            if not wanted(name):
                continue
            chip, why = self._chip_or_why(store, row)
            if chip is None:
                _log.warning("%s: %s", name, why)
                self.left_out.append(name)
            else:
                yield name, chip

    def _chip_or_why(self, store: xr.Dataset, row: Any) -> tuple[Chip | None, str]:
        """The arrays of a chip, or why there is none."""
        if row.tile_id in self._unmade:
            return None, self._unmade[row.tile_id]
        try:
            return self._chip(store, row), "it has no pixel"
        except SourceError as error:
            return None, str(error)

    def _name(self, row: Any) -> str:
        if row.stratum == "cloudsat":
            return cloudsat_name(row, self._place(row).centre, self._region(row))
        system = getattr(row, "system_id", None)
        what = row.tile_id if system is None or pd.isna(system) else f"sys{int(system)}"
        return f"{row.platform.upper()}_abi_{row.event_time:%Y%m%dT%H%M}_{what}.npz"

    def _region(self, row: Any) -> str:
        return "west" if self.table.projections[row.projection].longitude_of_projection_origin < -100 else "east"

    def _place(self, row: Any) -> _Place:
        size, half = int(self.config["tile_size"]), PIXEL / 2
        centre = row.row + size // 2, row.col + size // 2
        if self.like == "satvision":
            told = [getattr(row, name, np.nan) for name in ("event_row", "event_col")]
            if any(pd.isna(n) for n in told):
                raise UsageError(
                    f"{self.folder.plan} was planned before plans told the pixel of each event, which `like=satvision` "
                    "goes by; build anew, or leave `like` out"
                )
            centre = int(told[0]), int(told[1])
        shift = row.row + size // 2 - centre[0], row.col + size // 2 - centre[1]
        left, top = row.x_left - shift[1] * PIXEL + half, row.y_top + shift[0] * PIXEL - half
        grid = FixedGrid(self.table.projections[row.projection], left, top, PIXEL, -PIXEL, size, size)
        return _Place(grid, shift, centre)

    def _chip(self, store: xr.Dataset, row: Any) -> Chip | None:
        """The arrays of a chip; None where no pixel has a value."""
        tile, place = store.isel(tile=row.tile), self._place(row)
        files = [self.shelf[name].files if name else {} for name in row.scan_ids]
        spec = TileSpec(row.tile_id, row.x_left, row.y_top, self.table.projections[row.projection])
        image = self.pixels.cut(tile, spec, files, place.shift)
        if not np.isfinite(image).any():
            return None
        if row.stratum == "cloudsat":
            return cloudsat_chip(image, store, row, place.grid, place.centre, self._region(row), self.config, files)
        return self._of_system(image, tile, row, place, files)

    def _of_system(
        self,
        image: npt.NDArray[np.float32],
        tile: xr.Dataset,
        row: Any,
        place: _Place,
        files: Sequence[Mapping[int, SourceFile]],
    ) -> Chip:
        size, steps, grid = place.grid.width, len(files), place.grid
        pixels = np.arange(size, dtype="f8")
        longitude, latitude = grid.lonlat(pixels[:, None], pixels[None, :])
        actual = tile["scan_mid"].values.astype("M8[us]")
        zenith = np.stack([solar_angles(time, longitude, latitude)[0] for time in actual]).astype("f4")
        seen, _ = grid.projection.view_angles(longitude, latitude)
        requested = np.asarray(list(row.requested_times), "M8[us]")
        event = np.datetime64(row.event_time, "us")
        told = {
            "system_id": None if pd.isna(getattr(row, "system_id", None)) else int(row.system_id),
            "convection_datetime": str(event),
            "convection_timestep_index": int(np.abs(requested - event).argmin()),
            "center_latitude": float(latitude[size // 2, size // 2]),
            "center_longitude": float(longitude[size // 2, size // 2]),
            "abi_center_y": place.centre[0],
            "abi_center_x": place.centre[1],
            "tile_size": size,
            "n_timesteps": steps,
            "step_minutes": self.config["step_minutes"],
            "satellite": row.platform.upper(),
            "satellite_region": self._region(row),
            "satellite_longitude": grid.projection.longitude_of_projection_origin,
            "source_product": self.config["product"],
            "source_root": str(self.config.get("local_data_dir") or ""),
        }
        return {
            "chip": image,
            "timestamps": np.datetime_as_string(actual),
            "requested_timestamps": np.datetime_as_string(requested),
            "bands": np.arange(1, BANDS + 1, dtype="i2"),
            "latitude": latitude.astype("f4"),
            "longitude": longitude.astype("f4"),
            "solar_zenith_angle": zenith,
            "view_zenith_angle": np.broadcast_to(seen.astype("f4"), zenith.shape),
            "source_files": np.array([[at[c].href if c in at else "" for c in range(1, BANDS + 1)] for at in files]),
            "metadata": np.array(json.dumps(told)),
        }
