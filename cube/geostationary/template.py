"""The template of a tile store, and the small variables that the driver writes, block by block of tiles."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr

from cube.geostationary.grid import GeosProjection
from cube.geostationary.layout import TileLayout
from cube.geostationary.numbers import NO_TIME, ScanNumbers
from cube.geostationary.plan_table import BLOCK, PlanTable
from cube.geostationary.projections import Views
from cube.geostationary.tiles import stored_fill
from cube.instrument import ATTRIBUTE
from cube.job.store import ArraySpec, create_store, pad_names, write_region
from cube.sun import solar_angles

__all__ = ["create_tile_store", "fills_of"]

_STRATA = ("random", "convection")
"""Strata whose numbers in stores are older than the registry; those of others follow by name."""
_FROM_HEADERS = ("packing_scale", "packing_offset", "scan_start", "scan_mid")
"""Variables that the headers of the source files tell, besides the coefficients of the instrument's laws."""


def fills_of(layout: TileLayout, numbers: ScanNumbers, store: Path) -> dict[int, int]:
    """Fill value of each band of a store made from these files; that of the store there where pixels are in it."""
    fills = {}
    for channel in layout.channels:
        array, fill = store / layout.band(channel).name, numbers.fills.get(channel, set())
        described = (array / "zarr.json").exists()
        if described and ((array / "c").exists() or not fill):  # files mended or lost since do not change it
            fills[channel] = int(zarr.open_array(array, mode="r", zarr_format=3).fill_value)
        else:
            fills[channel] = stored_fill(layout, channel, fill)
    return fills


def create_tile_store(
    path: Path,
    layout: TileLayout,
    plan: PlanTable,
    numbers: ScanNumbers,
    projection_of: Callable[[str], GeosProjection],
    attributes: Mapping[str, Any],
    codec: str,
    kept: Collection[int] = (),
) -> None:
    """Write the template of a tile store and every variable known before a pixel is read.

    Parameters
    ----------
    path
        The store, new or left by an interrupted run.
    layout
        Shapes.
    plan
        One row a tile.
    numbers
        What the readable files of the plan's scans tell.
    projection_of
        By the scan of its event, the satellite's view a tile is laid in.
    attributes
        Of the store: provenance.
    codec
        One of :data:`cube.job.codec.CODECS`.
    kept
        Shards that were made before: what the store says of their tiles stands, whatever is readable now.
    """
    pairs: dict[int, set[tuple[float, float]]] = {c: set() for c in layout.channels}
    views = Views(projection_of, layout.instrument.dialect.grid_mapping)
    for block in plan.blocks(["event_scan"]):
        views.add(block["event_scan"])
    small: Small = {}
    for block in plan.blocks():
        small = _small_variables(layout, block, numbers, views)
        _keep(path, layout, block, small, kept)
        _collect_packings(layout, small, pairs)
    packing = {c: next(iter(found)) for c, found in pairs.items() if len(found) == 1}
    fills = fills_of(layout, numbers, path)
    arrays = _band_specs(layout, plan.tiles, fills, packing) | _coarse_specs(layout, plan.tiles)
    for name, (dims, values, attrs) in small.items():  # those of the last block: all blocks have the same forms
        shape = tuple(plan.tiles if d == "tile" else n for d, n in zip(dims, values.shape, strict=True))
        chunks = tuple(min(BLOCK, n) if d == "tile" else n for d, n in zip(dims, shape, strict=True))
        arrays[name] = ArraySpec(dims, shape, values.dtype.str, chunks, attributes=attrs)
    arrays |= {name: ArraySpec((), (), "<i4", (), attributes=attrs) for name, attrs in views.mappings()}
    described = {ATTRIBUTE: layout.instrument.described()}
    create_store(path, arrays, {"Conventions": "CF-1.11", **described, **attributes}, codec)
    del small
    for block in plan.blocks():
        _write_small(path, layout, _small_variables(layout, block, numbers, views), block, kept)
        _write_coarse(path, layout, block, projection_of, numbers)


# Each of these lets go of what it wrote before the next begins: blocks are most of what the driver holds.


def _write_small(path: Path, layout: TileLayout, small: Small, block: pd.DataFrame, kept: Collection[int]) -> None:
    start = int(block["tile"].iloc[0])
    _keep(path, layout, block, small, kept)
    for name, (dims, values, _) in small.items():
        if "tile" in dims or start == 0:
            write_region(path, name, start, values)


def _write_coarse(
    path: Path,
    layout: TileLayout,
    block: pd.DataFrame,
    projection_of: Callable[[str], GeosProjection],
    numbers: ScanNumbers,
) -> None:
    start, coarse = int(block["tile"].iloc[0]), _coarse_values(layout, block, projection_of, numbers)
    while coarse:
        name, values = coarse.popitem()
        write_region(path, name, start, values)


def _keep(path: Path, layout: TileLayout, block: pd.DataFrame, small: Small, kept: Collection[int]) -> None:
    """Put in what the store says of the tiles of shards that were made before."""
    made = block["shard"].isin(list(kept)).to_numpy() if kept else np.zeros(len(block), bool)
    if not made.any():
        return
    start = int(block["tile"].iloc[0])
    for name in (*_FROM_HEADERS, *layout.instrument.coefficients):
        there = np.asarray(zarr.open_array(path / name, mode="r", zarr_format=3)[start : start + len(block)])
        small[name][1][made] = there[made]


def _collect_packings(layout: TileLayout, small: Small, pairs: dict[int, set[tuple[float, float]]]) -> None:
    """Take note of the packings of each band, as (scale, offset): where there is one, it is the whole store's."""
    for b, channel in enumerate(layout.channels):
        both = np.stack([small[n][1][..., b].ravel() for n in ("packing_scale", "packing_offset")])
        distinct = np.unique(both[:, ~np.isnan(both[0])], axis=1)
        pairs[channel].update((float(scale), float(offset)) for scale, offset in distinct.T)


Small = dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]]


def _small_variables(layout: TileLayout, plan: pd.DataFrame, numbers: ScanNumbers, views: Views) -> Small:
    """Variables of a few numbers per tile, time step and band, of a block of tiles."""
    rows = np.array([[numbers.rows.get(name, -1) for name in names] for names in plan["scan_ids"]])
    there = rows >= 0

    def of_frames(values: npt.NDArray[Any], nothing: Any) -> npt.NDArray[Any]:
        found: npt.NDArray[Any] = values[rows]
        found[~there] = nothing
        return found

    start, middle = of_frames(numbers.start, NO_TIME), of_frames(numbers.middle, NO_TIME)
    packing = {name: of_frames(values, np.nan) for name, values in numbers.packing.items()}
    coefficients = {name: of_frames(values, np.nan) for name, values in numbers.coefficients.items()}
    requested = np.array([np.asarray(list(t), "M8[us]") for t in plan["requested_times"]]).astype("i8")
    frame, band = ("tile", "time"), ("tile", "time", "band")
    time = {"units": "microseconds since 1970-01-01", "calendar": "proleptic_gregorian"}
    names = layout.instrument.dialect.names
    known = [*_STRATA, *sorted(set(plan["stratum"]) - set(_STRATA))]  # a build is of one
    strata = np.array([known.index(s) for s in plan["stratum"]], "i1")
    return {
        "band": (
            ("band",),
            np.array(layout.channels, "i1" if max(layout.channels) < 128 else "i2"),
            {"long_name": f"{layout.instrument.title} channel number"},
        ),
        "packing_scale": (band, packing["packing_scale"], {"long_name": "radiance of one stored count"}),
        "packing_offset": (band, packing["packing_offset"], {"long_name": "radiance of stored count 0"}),
        **{name: (band, values, {"long_name": name}) for name, values in coefficients.items()},
        "requested_time": (frame, requested, {"long_name": "time asked for", **time}),
        "scan_start": (
            frame,
            start,
            {"standard_name": "time", "long_name": "start of scan", "_FillValue": NO_TIME, **time},
        ),
        "scan_mid": (
            frame,
            middle,
            {"standard_name": "time", "long_name": "middle of scan", "_FillValue": NO_TIME, **time},
        ),
        **{
            name: (("tile",), plan[name].to_numpy("f8"), attrs)
            for name, attrs in {
                "latitude": {"standard_name": "latitude", "units": "degrees_north", "long_name": "tile centre"},
                "longitude": {"standard_name": "longitude", "units": "degrees_east", "long_name": "tile centre"},
                "x_left": {"units": "rad", "long_name": "scan angle of the western edge"},
                "y_top": {"units": "rad", "long_name": "scan angle of the northern edge"},
            }.items()
        },
        "row": (("tile",), plan["row"].to_numpy("i4"), {"long_name": "first row in the grid of the event's scan"}),
        "col": (("tile",), plan["col"].to_numpy("i4"), {"long_name": "first column in the grid of the event's scan"}),
        "platform": (
            ("tile",),
            plan["platform"].map(names.numbers).to_numpy("i2"),
            dict(names.platform_attributes),
        ),
        **views.variable(plan["event_scan"]),
        "stratum": (
            ("tile",),
            strata,
            {"flag_values": list(range(len(known))), "flag_meanings": pad_names(known)},
        ),
    }


def _band_specs(
    layout: TileLayout, tiles: int, fills: Mapping[int, int], packing: Mapping[int, tuple[float, float]]
) -> dict[str, ArraySpec]:
    """Counts and masks: one sample is one inner chunk, several tiles are one shard."""
    specs = {}
    for channel in layout.channels:
        attrs = _band_attributes(layout, channel, packing.get(channel)) | {"_FillValue": fills[channel]}
        specs[layout.band(channel).name] = _image_spec(layout, tiles, channel, "<u2", fills[channel], attrs)
    for name, channels in layout.mask_groups().items():
        attrs = {
            "long_name": "bands whose pixel is usable",
            "flag_masks": [int(layout.mask_bit(c)) for c in channels],
            "flag_meanings": pad_names([layout.band(c).name for c in channels]),
            **({"repeat": layout.repeat(channels[0])} if layout.is_view else {}),
        }
        specs[name] = _image_spec(layout, tiles, channels[0], layout.instrument.mask_dtype, 0, attrs)
    return specs


def _band_attributes(layout: TileLayout, channel: int, packing: tuple[float, float] | None) -> dict[str, Any]:
    """What a reader is told of a band; its counts are radiance where one packing serves the whole store."""
    band, facts = layout.band(channel), layout.instrument
    radiance = next(q for q in facts.quantities if band.name in q.bands and q.law == "identity")
    attrs = {
        "channel": channel,
        "wavelength_um": band.wavelength_um,
        "native_pixel_urad": band.pixel_urad,
        "pixel_urad": round(layout.band_pixel(channel) * 1e6, 6),
        "repeat": layout.repeat(channel),
        "quantities": {
            q.name: {"units": q.units, "law": q.law, "coefficients": list(q.coefficients)}
            for q in facts.quantities
            if band.name in q.bands
        },
        "ancillary_variables": layout.mask_name(channel),
        "coordinates": "latitude longitude scan_start",
    }
    title = f"{facts.title} {band.name}"
    if packing is None:
        words = f"{title} counts; {radiance.name} = counts * packing_scale + packing_offset"
        return {"long_name": words, "units": "1", **attrs}
    return {
        "long_name": f"{title} ({band.title}) {radiance.label}, packed",
        "units": radiance.units,
        "standard_name": radiance.standard_name,
        "scale_factor": packing[0],
        "add_offset": packing[1],
        **attrs,
    }


def _image_spec(
    layout: TileLayout, tiles: int, channel: int, dtype: str, fill: int, attrs: Mapping[str, Any]
) -> ArraySpec:
    size, suffix = layout.band_size(channel), layout.suffix(channel)
    sample = (1, layout.steps, size, size)
    return ArraySpec(
        ("tile", "time", "y" + suffix, "x" + suffix),
        (tiles, *sample[1:]),
        dtype,
        sample,
        (min(layout.tiles_per_shard, tiles), *sample[1:]),
        fill,
        attrs,
    )


def _coarse_specs(layout: TileLayout, tiles: int) -> dict[str, ArraySpec]:
    """Angles and locations at the centres of blocks of the tile."""
    n = layout.coarse_size
    block = {"comment": f"at the centres of blocks of {layout.coarse_step} grid pixels"}
    angle = {"units": "degree", **block}
    attributes = {
        "latitude_coarse": {"standard_name": "latitude", "units": "degrees_north", **block},
        "longitude_coarse": {"standard_name": "longitude", "units": "degrees_east", **block},
        "view_zenith": {"standard_name": "sensor_zenith_angle", **angle},
        "view_azimuth": {"standard_name": "sensor_azimuth_angle", **angle},
        "solar_zenith": {"standard_name": "solar_zenith_angle", **angle},
        "solar_azimuth": {"standard_name": "solar_azimuth_angle", **angle},
    }
    specs = {}
    for name, attrs in attributes.items():
        frames = (layout.steps,) if name.startswith("solar") else ()
        dims = ("tile", "time", "y_coarse", "x_coarse") if frames else ("tile", "y_coarse", "x_coarse")
        specs[name] = ArraySpec(
            dims, (tiles, *frames, n, n), "<f4", (min(BLOCK, tiles), *frames, n, n), None, float("nan"), attrs
        )
    return specs


def _coarse_values(
    layout: TileLayout, plan: pd.DataFrame, projection_of: Callable[[str], GeosProjection], numbers: ScanNumbers
) -> dict[str, Any]:
    """Values of the coarse variables of some tiles; the Sun at each frame's scan start, else its requested time."""
    n, step = layout.coarse_size, layout.coarse_step * layout.pixel
    centres = (np.arange(n) + 0.5) * step
    # Worked out tile by tile in double precision, and kept as it is stored: a block of these is most of the driver's
    # memory.
    place, frames = (len(plan), n, n), (len(plan), layout.steps, n, n)
    values = {
        "longitude_coarse": np.empty(place, "f4"),
        "latitude_coarse": np.empty(place, "f4"),
        "view_zenith": np.empty(place, "f4"),
        "view_azimuth": np.empty(place, "f4"),
        "solar_zenith": np.empty(frames, "f4"),
        "solar_azimuth": np.empty(frames, "f4"),
    }
    for i, row in enumerate(plan.itertuples()):
        view = projection_of(row.event_scan)
        lon, lat = view.to_lonlat(row.x_left + centres[None, :], row.y_top - centres[:, None])
        actual = numbers.starts(row.scan_ids)
        times = np.where(np.isnat(actual), np.asarray(list(row.requested_times), "M8[us]"), actual)
        angles = *view.view_angles(lon, lat), *solar_angles(times[:, None, None], lon[None], lat[None])
        for array, found in zip(values.values(), (lon, lat, *angles), strict=True):
            array[i] = found
    return values
