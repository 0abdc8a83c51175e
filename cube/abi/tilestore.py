"""The tile store: its template, the small variables the driver writes, and how it opens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
import zarr

from catalog.abi.bands import BANDS, band_names
from catalog.abi.scans import Scan
from cube.abi.calibrate import PHYSICAL_ATTRIBUTES, Physical, calibrate
from cube.abi.grid import GeosProjection
from cube.abi.index import FileIndex
from cube.abi.layout import TileLayout
from cube.abi.tiles import stored_factor, stored_fill
from cube.store import ArraySpec, create_store, pad_names, write_region
from cube.sun import solar_angles
from stratacube.errors import UsageError

__all__ = ["create_tile_store", "fills_of", "open_tiles"]

STRATA = ("random", "convection")
_BLOCK = 1024
"""Tiles of one chunk of the small variables, written by the driver."""
_NO_TIME = np.iinfo("i8").min
_COEFFICIENTS = ("kappa0", "planck_fk1", "planck_fk2", "planck_bc1", "planck_bc2")


def fills_of(layout: TileLayout, headers: Mapping[str, FileIndex], store: Path) -> dict[int, int]:
    """Fill value of each band of a store made from these files; that of the store there where pixels are in it."""
    found: dict[int, set[int]] = {c: set() for c in layout.channels}
    for header in headers.values():
        found[header.source.channel].add(header.rad.fill)
    fills = {}
    for channel, fill in found.items():
        array = store / BANDS[channel].name
        if (array / "c").exists() or (not fill and array.exists()):  # files mended or lost since do not change it
            fills[channel] = int(zarr.open_array(array, mode="r", zarr_format=3).fill_value)
        else:
            fills[channel] = stored_fill(layout, channel, fill)
    return fills


def create_tile_store(
    path: Path,
    layout: TileLayout,
    plan: pd.DataFrame,
    scans: Mapping[str, Scan],
    headers: Mapping[str, FileIndex],
    projections: Mapping[int, GeosProjection],
    attributes: Mapping[str, Any],
    kept: npt.NDArray[np.bool_] | None = None,
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
    scans
        By scan id, those the plan names.
    headers
        By href, the readable files of those scans.
    projections
        By tile index, the satellite's view the tile is laid in.
    attributes
        Of the store: provenance.
    kept
        Tiles whose shards were made before: what the store says of them stands, whatever is readable now.
    """
    small = _small_variables(layout, plan, scans, headers)
    if kept is not None and kept.any():
        for name in ("packing_scale", "packing_offset", "scan_mid", *_COEFFICIENTS):
            values = small[name][1]
            values[kept] = np.asarray(zarr.open_array(path / name, mode="r", zarr_format=3)[...])[kept]
    packing = _single_packings(layout, small)
    arrays = _band_specs(layout, len(plan), fills_of(layout, headers, path), packing) | _coarse_specs(layout, len(plan))
    for name, (dims, values, attrs) in small.items():
        chunks = tuple(min(_BLOCK, n) if d == "tile" else n for d, n in zip(dims, values.shape, strict=True))
        arrays[name] = ArraySpec(dims, values.shape, values.dtype.str, chunks, attributes=attrs)
    arrays |= _grid_mappings(projections)
    create_store(path, arrays, {"Conventions": "CF-1.11", **attributes})
    for name, (_, values, _) in small.items():
        write_region(path, name, 0, values)
    for start in range(0, len(plan), _BLOCK):
        for name, values in _coarse_values(layout, plan.iloc[start : start + _BLOCK], projections).items():
            write_region(path, name, start, values)


Small = dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]]


@dataclass(frozen=True)
class _ScanNumbers:
    """Times of a scan (microseconds since 1970) and the packing and coefficients of its channels."""

    start: int
    middle: int
    scale: npt.NDArray[np.float64]
    offset: npt.NDArray[np.float64]
    coefficients: Mapping[str, npt.NDArray[np.float32]]

    @classmethod
    def of(cls, layout: TileLayout, scan: Scan, headers: Mapping[str, FileIndex]) -> _ScanNumbers:
        """Gather them from the headers of the scan's readable files."""
        known = [headers.get(scan.files[c].href) if c in scan.files else None for c in layout.channels]
        return cls(
            start=int(np.datetime64(scan.start, "us").astype("i8")),
            middle=max((int(h.mid_time.astype("M8[us]").astype("i8")) for h in known if h), default=_NO_TIME),
            scale=np.array(
                [
                    h.scale / stored_factor(layout, h, c) if h else np.nan
                    for h, c in zip(known, layout.channels, strict=True)
                ]
            ),
            offset=np.array([h.offset if h else np.nan for h in known]),
            coefficients={
                name: np.array([getattr(h.coefficients, name) if h else np.nan for h in known], "f4")
                for name in _COEFFICIENTS
            },
        )


def _small_variables(
    layout: TileLayout, plan: pd.DataFrame, scans: Mapping[str, Scan], headers: Mapping[str, FileIndex]
) -> Small:
    """Variables of a few numbers per tile, time step and band."""
    shape = len(plan), layout.steps, len(layout.channels)
    scale, offset = np.full(shape, np.nan), np.full(shape, np.nan)
    coefficients = {name: np.full(shape, np.nan, "f4") for name in _COEFFICIENTS}
    start, middle = np.full(shape[:2], _NO_TIME), np.full(shape[:2], _NO_TIME)
    told = {name: _ScanNumbers.of(layout, scan, headers) for name, scan in scans.items()}
    for i, scan_ids in enumerate(plan["scan_ids"]):
        for step, scan_id in enumerate(scan_ids):
            if scan_id:
                numbers = told[scan_id]
                start[i, step], middle[i, step] = numbers.start, numbers.middle
                scale[i, step], offset[i, step] = numbers.scale, numbers.offset
                for name in _COEFFICIENTS:
                    coefficients[name][i, step] = numbers.coefficients[name]
    requested = np.array([np.asarray(list(t), "M8[us]") for t in plan["requested_times"]]).astype("i8")
    frame, band = ("tile", "time"), ("tile", "time", "band")
    time = {"units": "microseconds since 1970-01-01", "calendar": "proleptic_gregorian"}
    strata = np.array([STRATA.index(s) for s in plan["stratum"]], "i1")
    return {
        "band": (("band",), np.array(layout.channels, "i1"), {"long_name": "ABI channel number"}),
        "packing_scale": (band, scale, {"long_name": "radiance of one stored count"}),
        "packing_offset": (band, offset, {"long_name": "radiance of stored count 0"}),
        **{name: (band, values, {"long_name": name}) for name, values in coefficients.items()},
        "requested_time": (frame, requested, {"long_name": "time asked for", **time}),
        "scan_start": (
            frame,
            start,
            {"standard_name": "time", "long_name": "start of scan", "_FillValue": _NO_TIME, **time},
        ),
        "scan_mid": (
            frame,
            middle,
            {"standard_name": "time", "long_name": "middle of scan", "_FillValue": _NO_TIME, **time},
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
            plan["platform"].str.removeprefix("goes").to_numpy("i2"),
            {"long_name": "GOES satellite number"},
        ),
        "stratum": (
            ("tile",),
            strata,
            {"flag_values": list(range(len(STRATA))), "flag_meanings": pad_names(STRATA)},
        ),
    }


def _single_packings(layout: TileLayout, small: Small) -> dict[int, tuple[float, float]]:
    """Bands of which one packing serves the whole store, as (scale, offset)."""
    single = {}
    for b, channel in enumerate(layout.channels):
        pairs = np.stack([small["packing_scale"][1][..., b].ravel(), small["packing_offset"][1][..., b].ravel()])
        distinct = np.unique(pairs[:, ~np.isnan(pairs[0])], axis=1)
        if distinct.shape[1] == 1:
            single[channel] = float(distinct[0, 0]), float(distinct[1, 0])
    return single


def _band_specs(
    layout: TileLayout, tiles: int, fills: Mapping[int, int], packing: Mapping[int, tuple[float, float]]
) -> dict[str, ArraySpec]:
    """Counts and masks: one sample is one inner chunk, several tiles are one shard."""
    specs = {}
    for channel in layout.channels:
        band = BANDS[channel]
        attrs = {
            "long_name": f"ABI {band.name} ({band.title}) top-of-atmosphere radiance, packed",
            "units": band.units,
            "standard_name": f"toa_outgoing_radiance_per_unit_wave{'length' if band.is_reflective else 'number'}",
            "_FillValue": fills[channel],
            "channel": channel,
            "wavelength_um": band.wavelength,
            "ancillary_variables": "valid" + layout.suffix(channel),
            "coordinates": "latitude longitude scan_start",
        }
        if channel in packing:
            attrs["scale_factor"], attrs["add_offset"] = packing[channel]
        else:
            attrs["units"], attrs["standard_name"] = "1", "number_of_observations"
            attrs.pop("standard_name")
            attrs["long_name"] = f"ABI {band.name} counts; radiance = counts * packing_scale + packing_offset"
        specs[band.name] = _image_spec(layout, tiles, channel, fills[channel], attrs)
    for name, channels in layout.mask_groups().items():
        attrs = {
            "long_name": "bands whose pixel is usable",
            "flag_masks": [1 << (c - 1) for c in channels],
            "flag_meanings": pad_names(band_names(channels)),
        }
        specs[name] = _image_spec(layout, tiles, channels[0], 0, attrs)
    return specs


def _image_spec(layout: TileLayout, tiles: int, channel: int, fill: int, attrs: Mapping[str, Any]) -> ArraySpec:
    size, suffix = layout.band_size(channel), layout.suffix(channel)
    sample = (1, layout.steps, size, size)
    return ArraySpec(
        ("tile", "time", "y" + suffix, "x" + suffix),
        (tiles, *sample[1:]),
        "<u2",
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
            dims, (tiles, *frames, n, n), "<f4", (min(_BLOCK, tiles), *frames, n, n), None, float("nan"), attrs
        )
    return specs


def _coarse_values(layout: TileLayout, plan: pd.DataFrame, projections: Mapping[int, GeosProjection]) -> dict[str, Any]:
    """Values of the coarse variables of some tiles; the Sun at each frame's scan start, else its requested time."""
    n, step = layout.coarse_size, layout.coarse_step * layout.pixel
    centres = (np.arange(n) + 0.5) * step
    lon, lat = np.full((2, len(plan), n, n), np.nan)
    zenith, azimuth = np.full((2, len(plan), n, n), np.nan)
    sun = np.full((2, len(plan), layout.steps, n, n), np.nan)
    for i, row in enumerate(plan.itertuples()):
        view = projections[int(row.tile)]
        lon[i], lat[i] = view.to_lonlat(row.x_left + centres[None, :], row.y_top - centres[:, None])
        zenith[i], azimuth[i] = view.view_angles(lon[i], lat[i])
        actual = np.asarray(list(row.scan_starts), "M8[us]")
        times = np.where(np.isnat(actual), np.asarray(list(row.requested_times), "M8[us]"), actual)
        sun[0, i], sun[1, i] = solar_angles(times[:, None, None], lon[i][None], lat[i][None])
    values = {
        "longitude_coarse": lon,
        "latitude_coarse": lat,
        "view_zenith": zenith,
        "view_azimuth": azimuth,
        "solar_zenith": sun[0],
        "solar_azimuth": sun[1],
    }
    return {name: array.astype("f4") for name, array in values.items()}


def _grid_mappings(projections: Mapping[int, GeosProjection]) -> dict[str, ArraySpec]:
    """One CF grid mapping per longitude the tiles are seen from."""
    views = sorted({p.longitude_of_projection_origin: p for p in projections.values()}.items())
    return {
        "goes_imager_projection" + ("" if len(views) == 1 else f"_{i}"): ArraySpec(
            (), (), "<i4", (), attributes={**view.cf_attributes(), "crs_wkt": view.crs.to_wkt()}
        )
        for i, (_, view) in enumerate(views)
    }


def open_tiles(source: Any, physical: Literal["counts"] | Physical = "radiance", chunks: Any = "auto") -> xr.Dataset:
    """Open a tile store as decoded, lazy xarray.

    Parameters
    ----------
    source
        Path or URL of ``tiles.zarr``, of the folder of a build, or a STAC item or collection of one.
    physical
        ``radiance`` (units of the files), ``reflectance`` (1; not divided by the cosine of the solar zenith angle),
        ``brightness_temperature`` (K), or ``counts`` as stored. Bands without the wanted quantity are left out.
    chunks
        Passed to Dask: one tile a chunk by default; None reads everything at once, without Dask.

    Returns
    -------
    Dataset
        Bands ``C01`` .. ``C16`` as float32 (tile, time, y, x), NaN where not valid, with times, angles and places.

    Raises
    ------
    UsageError
        If there is no tile store at ``source``, or no band has the wanted quantity.
    """
    if physical != "counts" and physical not in PHYSICAL_ATTRIBUTES:
        raise UsageError(f"{physical!r} is not one of counts, {', '.join(PHYSICAL_ATTRIBUTES)}")
    path = _store_path(source)
    try:
        raw = xr.open_zarr(path, mask_and_scale=False, chunks=None, consolidated=True)
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise UsageError(f"{path} is not a tile store ({error}); give the tiles.zarr of a build") from error
    bands = [n for n in raw.data_vars if str(n)[0] == "C" and str(n)[1:].isdigit()]
    rest = xr.decode_cf(raw.drop_vars(bands))
    images = raw[bands] if chunks is None else raw[bands].chunk({"tile": 1} if chunks == "auto" else chunks)
    masks = raw[[n for n in raw.data_vars if str(n).startswith("valid")]]
    masks = masks if chunks is None else masks.chunk({"tile": 1} if chunks == "auto" else chunks)
    data = rest.drop_vars(list(masks.data_vars)).assign(masks.data_vars)
    data = data.set_coords([n for n in ("latitude", "longitude", "scan_start", "scan_mid") if n in data])
    for name in bands:
        if physical == "counts":
            data[name] = images[name]
            continue
        band = BANDS[int(str(name)[1:])]
        if not PHYSICAL_ATTRIBUTES[physical].defined_for(band):
            continue
        data[name] = _decode(images[name], masks, data, band.channel, physical)
    if not any(n in data for n in bands):
        raise UsageError(f"{path} holds {', '.join(map(str, bands))}, none of which has {physical}")
    return data


def _decode(image: xr.DataArray, masks: xr.Dataset, data: xr.Dataset, channel: int, physical: Physical) -> xr.DataArray:
    """Physical values of one band, NaN where its bit of the mask is not set."""
    at = {"band": int(np.flatnonzero(data["band"].values == channel)[0])}
    numbers = [data[name].isel(at, drop=True) for name in ("packing_scale", "packing_offset", *_COEFFICIENTS)]

    def decode(counts: Any, mask: Any, scale: Any, offset: Any, *coefficients: Any) -> Any:
        radiance = counts.astype("f4") * scale.astype("f4") + offset.astype("f4")
        values = calibrate(radiance, physical, **dict(zip(_COEFFICIENTS, coefficients, strict=True)))
        return np.where(mask & np.uint16(1 << (channel - 1)), values, np.float32("nan"))

    mask = masks[image.attrs["ancillary_variables"]]
    values: xr.DataArray = xr.apply_ufunc(
        decode, image, mask, *numbers, dask="parallelized", output_dtypes=[np.float32], keep_attrs=False
    )
    values.attrs = PHYSICAL_ATTRIBUTES[physical].attributes(BANDS[channel])
    return values


def _store_path(source: Any) -> str:
    """Path of the Zarr store of a path, a STAC item or a STAC collection."""
    if hasattr(source, "assets"):
        assets = source.assets
        if "tiles" not in assets:
            raise UsageError(f"STAC object {source.id!r} has assets {sorted(assets)}, but no 'tiles'")
        return str(assets["tiles"].get_absolute_href() or assets["tiles"].href)
    text = str(source)
    if not text.rstrip("/").endswith(".zarr") and (Path(text) / "tiles.zarr").exists():
        return str(Path(text) / "tiles.zarr")
    return text
