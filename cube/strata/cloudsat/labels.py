"""Profiles of the tiles of a store, as contiguous ragged arrays: those of a tile follow one another."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cube.geostationary.grid import FixedGrid
from cube.job.store import ArraySpec, pad_names
from cube.strata.cloudsat.bins import BIN_CENTRES, BINS, CLASSES, class_bins
from cube.strata.cloudsat.collocate import NOWHERE, Parallax, Selection, Track, Transect, locate, transect
from cube.strata.cloudsat.find import aux_of, find_granules
from cube.strata.cloudsat.granule import AUX_NUMBERS, AUX_PROFILES, Granule, read_aux, read_granule
from cube.strata.labelling import PlannedTiles
from cube.strata.merra2.files import Merra2
from cube.strata.merra2.patches import Merra2Patches
from stratacube.errors import SourceError

__all__ = ["CloudsatLabels"]

_TILES, _PROFILES = 1024, 16_384
"""Of one chunk."""
_LAYERS = 10
_TIME = {"units": "microseconds since 1970-01-01", "calendar": "proleptic_gregorian", "standard_name": "time"}

_KINDS: dict[str, tuple[str, Any, tuple[str, ...], dict[str, Any]]] = {
    "time": ("<i8", 0, (), {"long_name": "when the profile was seen", **_TIME}),
    "latitude": ("<f4", np.nan, (), {"standard_name": "latitude", "units": "degrees_north"}),
    "longitude": ("<f4", np.nan, (), {"standard_name": "longitude", "units": "degrees_east"}),
    "quality": ("|u1", 0, (), {"long_name": "Data_quality, bits that are set where something is wrong"}),
    "valid": ("|i1", 0, (), {"long_name": "whether the profile is an observation"}),
    "profile_index": ("<i4", -1, (), {"long_name": "number in the granule, from 0"}),
    "row": (
        "<i4",
        NOWHERE,
        (),
        {"long_name": "row of the tile's grid that sees the profile, which may be outside of it"},
    ),
    "col": ("<i4", NOWHERE, (), {"long_name": "column of the tile's grid that sees the profile"}),
    "abi_row": (
        "<i4",
        NOWHERE,
        (),
        {"long_name": "row of the full disk, in pixels of the grid, that sees the profile"},
    ),
    "abi_column": ("<i4", NOWHERE, (), {"long_name": "column of the full disk that sees the profile"}),
    "layer_count": ("|i1", -9, (), {"long_name": "cloud layers", "_FillValue": -9}),
    "layer_base": (
        "<f4",
        np.nan,
        ("layer",),
        {"long_name": "base of the cloud layer above mean sea level", "units": "km"},
    ),
    "layer_top": (
        "<f4",
        np.nan,
        ("layer",),
        {"long_name": "top of the cloud layer above mean sea level", "units": "km"},
    ),
    "layer_type": ("|i1", -9, ("layer",), {"long_name": "class of the cloud layer", "_FillValue": -9}),
    "class": ("|i1", -1, ("height",), {"long_name": "class of cloud in bins of 0.5 km"}),
}
_AUX_UNITS = {"pressure": "Pa", "temperature": "K", "specific_humidity": "kg kg-1", "dem_elevation": "m"}
_AUX_UNITS |= {"temperature_2m": "K", "skin_temperature": "K", "surface_pressure": "Pa"}


class CloudsatLabels:
    """Profiles of the tiles' transects.

    Parameters
    ----------
    tiles : PlannedTiles
        Of the store.
    cloudsat_root, cloudsat_aux_root, orbit : Any
        Where the granules are.
    merra2_root, merra2_variables : Any
        The weather that is kept about each tile.
    profiles_per_chip, profile_selection, parallax : Any
        As the tiles were drawn.
    **_ : Any
        Other options.
    """

    def __init__(
        self,
        tiles: PlannedTiles,
        *,
        cloudsat_root: str,
        cloudsat_aux_root: str | None = None,
        merra2_root: str | None = None,
        merra2_variables: Sequence[str] = (),
        orbit: int | None = None,
        profiles_per_chip: int = 91,
        profile_selection: Selection = "fixed",
        parallax: Parallax = "surface",
        **_: Any,
    ) -> None:
        self.tiles, self.root = tiles, cloudsat_root
        self.profiles: int = profiles_per_chip
        self.selection: Selection = profile_selection
        self.parallax: Parallax = parallax
        self.paths = {path.name: path for path in find_granules(cloudsat_root, orbit=orbit)}
        self.aux = None if cloudsat_aux_root is None else aux_of(cloudsat_aux_root)
        self._read = lru_cache(maxsize=2)(read_granule)
        self.weather = None if merra2_root is None else Merra2Patches(tiles, Merra2(merra2_root, merra2_variables))
        self._counts = np.zeros(tiles.tiles, "i4")
        for tile, granule, grid, _track, found in self._transects():
            self._counts[tile] = found.end - found.first
            if self.weather is not None:
                self.weather.place(tile, grid, *_places(granule, found))

    def arrays(self) -> Mapping[str, ArraySpec]:
        """Describe the variables."""
        total, tiles = max(1, int(self._counts.sum())), self.tiles.tiles
        sizes = {"layer": _LAYERS, "height": BINS}

        def of_profiles(kind: str, fill: Any, more: tuple[str, ...], attributes: Mapping[str, Any]) -> ArraySpec:
            rest = tuple(sizes[name] for name in more)
            dims = ("profile", *(f"cloudsat_{name}" for name in more))
            return ArraySpec(dims, (total, *rest), kind, (min(total, _PROFILES), *rest), None, fill, attributes)

        specs = {f"cloudsat_{name}": of_profiles(*spec) for name, spec in self._kinds().items()}
        counted = {"long_name": "profiles of the tile, which follow one another", "sample_dimension": "profile"}
        for name, kind, fill, attributes in (
            ("profile_count", "<i4", 0, counted),
            ("profile_start", "<i8", 0, {"long_name": "first of the tile's profiles"}),
            ("orbit", "<i4", -1, {"long_name": "orbit of CloudSat"}),
            ("centre_profile", "<i4", -1, {"long_name": "number in the granule of the profile the tile lies about"}),
        ):
            specs[f"cloudsat_{name}"] = ArraySpec(
                ("tile",), (tiles,), kind, (min(tiles, _TILES),), None, fill, attributes
            )
        height = {"standard_name": "height_above_mean_sea_level", "units": "km", "long_name": "middle of the bin"}
        specs["cloudsat_height"] = ArraySpec(("cloudsat_height",), (BINS,), "<f4", (BINS,), attributes=height)
        return specs if self.weather is None else {**specs, **self.weather.arrays()}

    def _kinds(self) -> dict[str, tuple[str, Any, tuple[str, ...], dict[str, Any]]]:
        kinds = {name: (kind, fill, more, dict(told)) for name, (kind, fill, more, told) in _KINDS.items()}
        flags = {"flag_values": [-1, *range(len(CLASSES))], "flag_meanings": pad_names(["missing", *CLASSES])}
        for name in ("class", "layer_type"):
            kinds[name][-1].update(flags)
        if self.aux is not None:
            for name in (*AUX_PROFILES, *AUX_NUMBERS, "dem_elevation"):
                more = ("height",) if name in AUX_PROFILES else ()
                told = {"long_name": f"{name.replace('_', ' ')}, of ECMWF-AUX", "units": _AUX_UNITS.get(name, "m s-1")}
                kinds[name] = ("<f4", np.nan, more, told)
        if self.weather is not None:
            for name in ("row", "column"):
                kinds[f"merra2_{name}"] = ("<i2", -1, (), {"long_name": f"{name} of the tile's patch of MERRA-2"})
        return kinds

    def values(self) -> Iterator[tuple[str, int, npt.NDArray[Any]]]:
        """Read the granules again and yield the profiles, chunk by chunk."""
        yield "cloudsat_height", 0, BIN_CENTRES.astype("f4")
        yield "cloudsat_profile_count", 0, self._counts
        yield "cloudsat_profile_start", 0, np.cumsum(self._counts, dtype="i8") - self._counts
        yield from self._of_tiles()
        if self.weather is not None:
            yield from self.weather.values()
        waiting: dict[str, list[npt.NDArray[Any]]] = {f"cloudsat_{name}": [] for name in self._kinds()}
        written = held = 0
        for tile, granule, grid, track, found in self._transects():
            some = self._of_transect(granule, grid, track, found)
            if self.weather is not None:
                cells = self.weather.index(tile, *_places(granule, found))
                some |= {f"merra2_{n}": at.astype("i2") for n, at in zip(("row", "column"), cells, strict=True)}
            for name, values in some.items():
                waiting[f"cloudsat_{name}"].append(values)
            held += found.end - found.first
            if held >= _PROFILES:
                whole = held - held % _PROFILES
                yield from ((name, written, values[:whole]) for name, values in _joined(waiting))
                waiting = {name: [values[whole:]] for name, values in _joined(waiting)}
                written, held = written + whole, held - whole
        if held:
            yield from ((name, written, values) for name, values in _joined(waiting))

    def _of_tiles(self) -> Iterator[tuple[str, int, npt.NDArray[Any]]]:
        for block in self.tiles.blocks():
            start, ours = int(block["tile"].iloc[0]), block["stratum"] == "cloudsat"
            details = [json.loads(text) if own else {} for text, own in zip(block["details"], ours, strict=True)]
            yield "cloudsat_orbit", start, np.array([d.get("orbit", -1) for d in details], "i4")
            yield "cloudsat_centre_profile", start, np.array([d.get("profile", -1) for d in details], "i4")

    def _transects(self) -> Iterator[tuple[int, Granule, FixedGrid, Track, Transect]]:
        """Of each tile of this stratum: granule, grid, where all profiles lie in it, and those that go with it."""
        for block in self.tiles.blocks():
            for row in block[block["stratum"] == "cloudsat"].itertuples():
                told = json.loads(str(row.details))
                if told["granule"] not in self.paths:
                    raise SourceError(f"granule {told['granule']} of the plan is not in {self.root}; bring it back")
                granule, grid = self._read(Path(self.paths[told["granule"]])), self.tiles.grid(row)
                track = locate(granule, grid, self.parallax)
                found = transect(track, told["profile"], grid.width, self.selection, self.profiles)
                yield int(row.tile), granule, grid, track, found

    def _of_transect(
        self, granule: Granule, grid: FixedGrid, track: Track, found: Transect
    ) -> dict[str, npt.NDArray[Any]]:
        part = slice(found.first, found.end)
        row, col, seen = track.row[part], track.col[part], track.seen[part]
        corner = round(self.tiles.frame / 2 - grid.top / grid.dx), round(self.tiles.frame / 2 + grid.left / grid.dx)
        values = {
            "time": granule.time[part].astype("i8"),
            "latitude": granule.latitude[part].astype("f4"),
            "longitude": granule.longitude[part].astype("f4"),
            "quality": granule.quality[part],
            "valid": granule.valid[part].astype("i1"),
            "profile_index": np.arange(found.first, found.end, dtype="i4"),
            "row": row.astype("i4"),
            "col": col.astype("i4"),
            "abi_row": np.where(seen, row + corner[0], NOWHERE).astype("i4"),
            "abi_column": np.where(seen, col + corner[1], NOWHERE).astype("i4"),
            "layer_count": granule.layer_count[part],
            "layer_base": granule.layer_base[part],
            "layer_top": granule.layer_top[part],
            "layer_type": granule.layer_type[part],
            "class": class_bins(
                granule.layer_base[part], granule.layer_top[part], granule.layer_type[part], granule.valid[part]
            ),
        }
        if self.aux is not None:
            values |= {name: all_of_it[part] for name, all_of_it in self._aux(granule).items()}
        return values

    def _aux(self, granule: Granule) -> dict[str, npt.NDArray[np.float32]]:
        if granule.orbit not in (self.aux or {}):
            raise SourceError(
                f"there is no granule of ECMWF-AUX of orbit {granule.orbit}, which tiles were planned of; "
                "bring it, or leave `cloudsat_aux_root` out"
            )
        return _cached_aux((self.aux or {})[granule.orbit], len(granule))


@lru_cache(maxsize=2)
def _cached_aux(path: Path, profiles: int) -> dict[str, npt.NDArray[np.float32]]:
    return read_aux(path, profiles)


def _places(granule: Granule, found: Transect) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Longitudes and latitudes of the profiles of a transect."""
    part = slice(found.first, found.end)
    return granule.longitude[part].astype("f8"), granule.latitude[part].astype("f8")


def _joined(waiting: Mapping[str, list[npt.NDArray[Any]]]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for name, parts in waiting.items():
        yield name, np.concatenate(parts)
