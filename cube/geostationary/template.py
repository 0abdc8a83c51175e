"""The template of a tile store, from configuration, instrument and plan alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from cube.geostationary.layout import TileLayout
from cube.geostationary.numbers import NO_TIME
from cube.geostationary.pixel_time import describe_timelines
from cube.geostationary.plan_table import BLOCK, PlanTable
from cube.geostationary.projections import Views
from cube.geostationary.wording import grid_mapping, told_of_number, told_of_pixels, told_of_quantities
from cube.instrument import ATTRIBUTE
from cube.job.store import ArraySpec, LedgeredStore, consolidate, create_store, pad_names, write_region
from cube.registry import STRATA

__all__ = ["create_tile_store", "describe_packings", "fills_of"]


def create_tile_store(
    path: Path,
    layout: TileLayout,
    plan: PlanTable,
    views: Views,
    attributes: Mapping[str, Any],
    codec: str,
    labels: Mapping[str, ArraySpec] | None = None,
) -> None:
    """Write the template of a tile store, and the variables that the plan tells.

    Nothing of it takes a look at a file of the archive: what their headers tell is gathered when the tiles are made
    (:func:`cube.geostationary.numbers.gather`).

    Parameters
    ----------
    path
        The store, new or left by an interrupted run.
    layout
        Shapes.
    plan
        One row a tile.
    views
        The satellites' views that tiles are laid in.
    attributes
        Of the store: provenance.
    codec
        One of :data:`cube.job.codec.CODECS`.
    labels
        Arrays that the stratum adds.
    """
    fills = fills_of(layout, path)
    arrays = _band_specs(layout, plan, fills, {}, views.names) | _gathered_specs(path, layout, plan.tiles)
    first = next(plan.blocks())
    for name, (dims, values, attrs) in _planned(layout, first, views).items():  # all blocks have the same forms
        shape = tuple(plan.tiles if d == "tile" else n for d, n in zip(dims, values.shape, strict=True))
        chunks = tuple(min(BLOCK, n) if d == "tile" else n for d, n in zip(dims, shape, strict=True))
        arrays[name] = ArraySpec(dims, shape, values.dtype.str, chunks, attributes=attrs)
    arrays |= {name: ArraySpec((), (), "<i4", (), attributes=attrs) for name, attrs in views.mappings()}
    arrays |= labels or {}
    described = {ATTRIBUTE: layout.instrument.described()}
    create_store(path, arrays, {"Conventions": "CF-1.11", **described, **attributes}, codec)
    for block in plan.blocks():
        start = int(block["tile"].iloc[0])
        for name, (dims, values, _) in _planned(layout, block, views).items():
            if "tile" in dims or start == 0:
                write_region(path, name, start, values)


def fills_of(layout: TileLayout, store: Path) -> dict[int, int]:
    """Fill value of each band of a store: the nominal one, or that of an array which is there."""
    return {c: int(_fill_there(store / layout.band(c).name, layout.stored_fill(c))) for c in layout.channels}


def _fill_there(array: Path, nominal: float) -> float:
    """Earlier versions took it from the files."""
    if not array.exists():  # zarr would try three times to find it, band by band
        return nominal
    try:
        found: float = zarr.open_array(array, mode="r", zarr_format=3).fill_value
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):  # not there, or damaged
        return nominal
    return found


def describe_packings(path: Path, layout: TileLayout, packings: Mapping[int, tuple[float, float]]) -> None:
    """Say of each band of a store whether one packing serves all its tiles, so that any reader may decode it.

    Parameters
    ----------
    path
        The store.
    layout
        Of it.
    packings
        By channel, scale and offset of those bands that have one.
    """
    group = zarr.open_group(LedgeredStore(path), mode="r+", zarr_format=3, use_consolidated=False)
    for channel in layout.channels:
        array = group[layout.band(channel).name]
        attributes = _band_attributes(layout, channel, packings.get(channel))
        array.attrs.put(attributes | {n: array.attrs[n] for n in ("_FillValue", "grid_mapping") if n in array.attrs})
    consolidate(path)


Small = dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]]
_TIME = {"units": "microseconds since 1970-01-01", "calendar": "proleptic_gregorian"}


def _planned(layout: TileLayout, plan: pd.DataFrame, views: Views) -> Small:
    """Variables of a few numbers a tile or time step that the plan tells, of a block of tiles."""
    requested = np.array([np.asarray(list(t), "M8[us]") for t in plan["requested_times"]]).astype("i8")
    names = layout.instrument.dialect.names
    known = [*STRATA.ours, *sorted(set(plan["stratum"]) - STRATA.ours.keys())]  # a build is of one
    strata = np.array([known.index(s) for s in plan["stratum"]], "i1")
    return {
        "band": (
            ("band",),
            np.array(layout.channels, "i1" if max(layout.channels) < 128 else "i2"),
            {"long_name": f"{layout.instrument.title} channel number"},
        ),
        "requested_time": (("tile", "time"), requested, {"long_name": "time asked for", **_TIME}),
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
        **views.variable(plan["projection"]),
        "stratum": (
            ("tile",),
            strata,
            {"flag_values": list(range(len(known))), "flag_meanings": pad_names(known)},
        ),
    }


def _gathered_specs(path: Path, layout: TileLayout, tiles: int) -> dict[str, ArraySpec]:
    """What the headers of files tell, chunked by many tiles: a store is opened by reading these whole."""
    bands = len(layout.channels)
    specs: dict[str, tuple[Any, ...]] = {}
    if layout.observed:
        known = describe_timelines(layout.instrument.dialect.timelines)
        specs["observation_time"] = (
            ("tile", "time"),
            (layout.steps,),
            "<i8",
            NO_TIME,
            {
                "standard_name": "time",
                "long_name": "when the tile was seen",
                "comment": f"mean over the pixels of the tile; {known}",
                "_FillValue": NO_TIME,
                **_TIME,
            },
        )
    for name in ("packing_scale", "packing_offset", *layout.instrument.coefficients):
        kind = "<f8" if name.startswith("packing_") else "<f4"
        specs[name] = (("tile", "time", "band"), (layout.steps, bands), kind, math.nan, told_of_number(name))
    for name, title in {"scan_start": "start of scan", "scan_mid": "middle of scan"}.items():
        attrs = {"standard_name": "time", "long_name": title, "_FillValue": NO_TIME, **_TIME}
        specs[name] = (("tile", "time"), (layout.steps,), "<i8", NO_TIME, attrs)
    specs |= _coarse_specs(layout)
    return {
        name: ArraySpec(
            dims, (tiles, *rest), kind, (min(BLOCK, tiles), *rest), None, _fill_there(path / name, fill), attrs
        )
        for name, (dims, rest, kind, fill, attrs) in specs.items()
    }


def _band_specs(
    layout: TileLayout,
    plan: PlanTable,
    fills: Mapping[int, int],
    packing: Mapping[int, tuple[float, float]],
    mappings: Sequence[str],
) -> dict[str, ArraySpec]:
    """Counts and masks: one sample is one inner chunk, several tiles are one shard."""
    specs = {}
    for channel in layout.channels:
        attrs = _band_attributes(layout, channel, packing.get(channel)) | grid_mapping(mappings)
        attrs["_FillValue"] = fills[channel]
        specs[layout.band(channel).name] = _image_spec(layout, plan, channel, "<u2", fills[channel], attrs)
    for name, channels in layout.mask_groups().items():
        attrs = {
            "long_name": "bands whose pixel is usable",
            "flag_masks": [int(layout.mask_bit(c)) for c in channels],
            "flag_meanings": pad_names([layout.band(c).name for c in channels]),
            **({"repeat": layout.repeat(channels[0])} if layout.is_view else {}),
            **told_of_pixels(layout, channels[0]),
            **grid_mapping(mappings),
        }
        specs[name] = _image_spec(layout, plan, channels[0], layout.instrument.mask_dtype, 0, attrs)
    return specs


def _band_attributes(layout: TileLayout, channel: int, packing: tuple[float, float] | None) -> dict[str, Any]:
    """What a reader is told of a band; its counts are radiance where one packing serves the whole store."""
    band, facts = layout.band(channel), layout.instrument
    radiance = facts.packed(band.name)
    attrs = {
        "channel": channel,
        "wavelength_um": band.wavelength_um,
        "native_pixel_urad": band.pixel_urad,
        "pixel_urad": round(layout.band_pixel(channel) * 1e6, 6),
        "repeat": layout.repeat(channel),
        **told_of_pixels(layout, channel),
        "quantities": told_of_quantities(facts, band.name),
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
    layout: TileLayout, plan: PlanTable, channel: int, dtype: str, fill: int, attrs: Mapping[str, Any]
) -> ArraySpec:
    size, suffix = layout.band_size(channel), layout.suffix(channel)
    sample = (1, layout.steps, size, size)
    return ArraySpec(
        ("tile", "time", "y" + suffix, "x" + suffix),
        (plan.tiles, *sample[1:]),
        dtype,
        sample,
        (plan.per_shard, *sample[1:]),
        fill,
        attrs,
    )


def _coarse_specs(layout: TileLayout) -> dict[str, tuple[Any, ...]]:
    """Angles and locations at the centres of blocks of the tile."""
    n = layout.coarse_size
    block = {"comment": f"at the centres of blocks of {layout.coarse_step} grid pixels"}
    angle = {"units": "degree", **block}
    when = "when they are seen" if layout.observed else "at the start of the scan"
    sun = {**angle, "comment": f"{block['comment']}, {when}; at the time asked for where there is no scan"}
    attributes = {
        "latitude_coarse": {"standard_name": "latitude", "units": "degrees_north", **block},
        "longitude_coarse": {"standard_name": "longitude", "units": "degrees_east", **block},
        "view_zenith": {"standard_name": "sensor_zenith_angle", **angle},
        "view_azimuth": {"standard_name": "sensor_azimuth_angle", **angle},
        "solar_zenith": {"standard_name": "solar_zenith_angle", **sun},
        "solar_azimuth": {"standard_name": "solar_azimuth_angle", **sun},
    }
    specs = {}
    for name, attrs in attributes.items():
        frames = (layout.steps,) if name.startswith("solar") else ()
        dims = ("tile", "time", "y_coarse", "x_coarse") if frames else ("tile", "y_coarse", "x_coarse")
        specs[name] = (dims, (*frames, n, n), "<f4", math.nan, attrs)
    return specs
