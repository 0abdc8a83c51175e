"""Pictures of arrays and of builds, to look at in a notebook or to save: what :mod:`stratacube.preview` offers.

Nothing here is needed to build; each function returns a :class:`~stratacube.page.Picture`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from stratacube.errors import SourceError, UsageError
from stratacube.guard import guarded
from stratacube.page import (
    COLOURS,
    Picture,
    Place,
    Scale,
    coloured,
    footprint_map,
    image_picture,
)
from stratacube.page import (
    calendar as draw_calendar,
)

__all__ = ["calendar", "footprints", "mosaic", "quicklook", "quotas", "strip", "throughput", "valid_share"]

Build = str | Path
_KELVIN = "K"
_COLOUR = "rgb"
"""Dimension of red, green and blue, as :func:`stratacube.rgb` mixes them."""


def quicklook(
    image: xr.DataArray, *, low: float | None = None, high: float | None = None, colours: str = "", title: str = ""
) -> Picture:
    """Draw one image with a colour bar and a scale bar.

    Parameters
    ----------
    image : DataArray
        Shape (y, x), or with one more dimension ``rgb`` of the three colours, from 0 to 1.
    low, high : float
        Values at the ends of the colours; by default the 2nd and the 98th percentile.
    colours : str
        ``viridis``, ``grey``, ``cold_white`` or ``difference``; by default ``cold_white`` for temperatures, else
        ``viridis``.
    title : str
        By default the array's long name.

    Returns
    -------
    Picture
        A drawing; what is not known is left blank.

    Raises
    ------
    UsageError
        If it is not an image, or there are no such colours.
    """
    title = title or str(image.attrs.get("long_name") or image.name or "")
    mixed = image.sizes.get(_COLOUR) == 3
    space = [d for d in image.dims if not (mixed and d == _COLOUR)][-2:]
    others = [d for d in image.dims if image.sizes[d] != 1 and d not in space and not (mixed and d == _COLOUR)]
    if 0 in image.sizes.values():
        told = ", ".join(f"{d} {n}" for d, n in image.sizes.items())
        raise UsageError(f"`image` has no pixels ({told}); choose a part that lies in it")
    pixel = _pixel_km(image, space)
    if mixed and len(space) == 2 and not others:
        values = np.asarray(image.transpose(..., *space, _COLOUR).values, "f4")
        values = values.reshape([image.sizes[d] for d in (*space, _COLOUR)])
        return image_picture([_natural(values)], alt=title or "Image", pixel_km=pixel, title=title)
    if others or len(space) != 2:
        raise UsageError(
            f"`image` has the dimensions {', '.join(map(str, image.dims))}, and not y and x alone; "
            "choose one of the others by isel or sel, or name three colours rgb"
        )
    values = np.asarray(image.squeeze().values, "f4").reshape([image.sizes[d] for d in space])
    scale = _scale(image, values, low, high, colours)
    told = f"{title or 'Image'}, {scale.low:.4g} to {scale.high:.4g} {scale.unit}".strip()
    return image_picture([coloured(values, scale)], alt=told, scale=scale, pixel_km=pixel, title=title)


def strip(
    images: xr.DataArray, *, most: int = 8, low: float | None = None, high: float | None = None, colours: str = ""
) -> Picture:
    """Draw the time steps of a tile side by side, in one scale of colours.

    Parameters
    ----------
    images : DataArray
        Shape (time, y, x): a band of :func:`stratacube.one_tile`.
    most : int
        Steps to draw, at even steps.
    low, high, colours
        As of :func:`quicklook`.

    Raises
    ------
    UsageError
        If there are other dimensions.
    """
    if len(images.dims) != 3:
        told = ", ".join(map(str, images.dims))
        raise UsageError(f"`images` has the dimensions {told}, and not time, y and x; choose one of the others by isel")
    time = images.dims[0]
    steps = np.unique(np.linspace(0, images.sizes[time] - 1, min(most, images.sizes[time])).round().astype(int))
    values = np.asarray(images.isel({time: steps}).values, "f4")
    scale = _scale(images, values, low, high, colours)
    times = next((images[n].values for n in (time, "scan_start") if n in images.coords and _is_time(images[n])), None)
    captions = [f"step {n}" if times is None else f"{pd.Timestamp(times[n]):%m-%d %H:%M:%S}" for n in steps]
    name = str(images.attrs.get("long_name") or images.name or "Images")
    return image_picture(
        [coloured(value, scale) for value in values],
        alt=f"{name}: {len(steps)} time steps",
        captions=captions,
        scale=scale,
        pixel_km=_pixel_km(images, images.dims[-2:]),
        title=name,
    )


def valid_share(images: xr.DataArray) -> Picture:
    """Draw how often each pixel is valid: the share of finite values over all that is not y and x.

    Parameters
    ----------
    images : DataArray
        Shape (..., y, x).
    """
    over = images.dims[:-2]
    share = images.notnull().mean(over) * 100.0
    share = share.assign_attrs(units="% valid", long_name=f"Valid observations of {images.name or 'the images'}")
    if "grid_mapping" in images.attrs:
        share = share.assign_attrs(grid_mapping=images.attrs["grid_mapping"])
    return quicklook(share, low=0.0, high=100.0)


def _scale(image: xr.DataArray, values: npt.NDArray[Any], low: float | None, high: float | None, colours: str) -> Scale:
    unit = str(image.attrs.get("units", ""))
    if colours and colours not in COLOURS:
        raise UsageError(f"`colours` is {colours!r}, which is not one of {', '.join(COLOURS)}")
    found = Scale.of(values, unit if unit != "1" else "", colours or ("cold_white" if unit == _KELVIN else "viridis"))
    low, high = found.low if low is None else low, found.high if high is None else high
    if not low < high:
        raise UsageError(f"`low` is {low:g} and `high` {high:g}; give a lower and a higher one")
    return Scale(low, high, found.unit, found.colours)


def _natural(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    known = np.isfinite(values).all(axis=-1)
    levels = np.clip(np.nan_to_num(values), 0.0, 1.0) * 255.0
    return np.dstack([levels, np.where(known, 255.0, 0.0)]).round().astype("u1")


def _is_time(values: xr.DataArray) -> bool:
    return bool(np.issubdtype(values.dtype, np.datetime64)) and values.ndim == 1


def _pixel_km(image: xr.DataArray, space: Sequence[Hashable]) -> float | None:
    """Distance on the ground between two neighbouring pixels in the middle, if the image says where it lies."""
    mapping = image.coords.get(str(image.attrs.get("grid_mapping") or image.encoding.get("grid_mapping", "")))
    mapping = image.coords.get("spatial_ref") if mapping is None else mapping
    y, x = (image.coords.get(d) for d in space) if len(space) == 2 else (None, None)
    if mapping is None or x is None or y is None or "crs_wkt" not in mapping.attrs or min(x.size, y.size) < 2:
        return None
    import pyproj  # noqa: PLC0415  (images that do not say where they lie need none)

    crs = pyproj.CRS(mapping.attrs["crs_wkt"])
    to_ground = pyproj.Transformer.from_crs(crs, crs.geodetic_crs or "EPSG:4326", always_xy=True)
    column, row = x.size // 2, y.size // 2
    lon, lat = to_ground.transform(x.values[column - 1 : column + 1], [float(y.values[row])] * 2)
    geod = crs.get_geod()
    if geod is None or not np.isfinite([*lon, *lat]).all():
        return None
    return float(geod.inv(lon[0], lat[0], lon[1], lat[1])[2]) / 1000.0 or None


def footprints(build: Build) -> Picture:
    """Draw where the products of a build lie, by stratum and split, or by their valid share.

    Parameters
    ----------
    build : path
        Folder of a build; of one that is planned and not published yet, the middles of its tiles are drawn.

    Raises
    ------
    UsageError
        If there is no build, or one that does not tell yet where its products lie.
    """
    folder = Path(build)
    if (folder / "catalog.json").exists():
        from catalog.browse.maps import map_of  # noqa: PLC0415
        from catalog.browse.records import Shelf  # noqa: PLC0415

        found = Shelf.of([folder]).records
        return map_of(found, f"Map of the footprints of {len(found)} products")
    plan = _table(folder, "plan.parquet")
    if not {"longitude", "latitude", "stratum"} <= {*plan.columns}:
        raise UsageError(f"{folder} is not published yet, and its plan tells no places; run its command to the end")
    split = plan["split"] if "split" in plan else [""] * len(plan)
    rows = zip(plan["longitude"], plan["latitude"], plan["stratum"], split, strict=True)
    places = [Place(np.array([[lon, lat]]), "", str(stratum), str(part)) for lon, lat, stratum, part in rows]
    return footprint_map(places, alt=f"Map of the places of {len(places)} planned tiles")


def quotas(build: Build) -> Picture:
    """Draw how many tiles were asked of each stratum and class, and found.

    Raises
    ------
    UsageError
        If there is no plan of tiles.
    """
    from cube.geostationary.drawing import quotas as draw_quotas  # noqa: PLC0415
    from cube.geostationary.plan_table import PlanTable  # noqa: PLC0415

    folder = Path(build)
    if "tile_id" not in _table(folder, "plan.parquet"):
        raise UsageError(f"{folder} is not a build of tiles: nothing was asked of strata; draw its `footprints`")
    picture = draw_quotas(PlanTable(folder / "plan.parquet").tallies)
    if picture is None:
        raise UsageError(f"{folder} was planned by a version that did not count what was asked; plan it again")
    return picture


def calendar(build: Build) -> Picture:
    """Draw when the archive of a build of tiles has all channels that were asked for.

    Raises
    ------
    UsageError
        If there is not a build of tiles.
    """
    table = _table(Path(build), "completeness.csv")
    hours: dict[tuple[date, int], tuple[int, int, int]] = defaultdict(lambda: (0, 0, 0))
    there = table[table["scan"].notna()]
    for start, status in zip(pd.to_datetime(there["start"]), there["status"], strict=True):
        found, whole, unfit = hours[start.date(), start.hour]
        hours[start.date(), start.hour] = found + 1, whole + (status == "complete"), unfit
    return draw_calendar(hours, alt=f"Calendar of {len(there)} scans: when all channels asked for are there")


def throughput(build: Build) -> Picture:
    """Draw how many products were made after how long.

    Raises
    ------
    UsageError
        If there is no build, or it has made fewer than two tasks' products.
    """
    from cube.job.ledger import Ledger  # noqa: PLC0415
    from cube.job.pictures import throughput as draw_run  # noqa: PLC0415

    folder = Path(build)
    if not (folder / "ledger.jsonl").exists():
        raise UsageError(f"{folder} holds no ledger.jsonl; give the folder of a build")
    entries = Ledger(folder / "ledger.jsonl").entries
    picture = draw_run((e for k, e in entries.items() if k.startswith(("shard-", "cell "))), "Products")
    if picture is None:
        raise UsageError(f"{folder} has recorded the end of fewer than two tasks; draw it when more of them are done")
    return picture


def mosaic(build: Build) -> Picture:
    """Show the true-colour pictures of all composites side by side, as the build has drawn them.

    Raises
    ------
    UsageError
        If the build has none.
    """
    path = Path(build) / "previews" / "mosaic.png"
    if not path.exists():
        raise UsageError(f"{path} does not exist: a build of several cells with B02, B03 and B04 as `cog` draws it")
    from PIL import Image  # noqa: PLC0415

    with guarded(f"{path} is not an image", "remove catalog.json and run the same command again"):
        with Image.open(path) as image:
            size = image.size
        return Picture("All cells side by side, in true colour", *size, image=path.read_bytes(), media_type="image/png")


def _table(folder: Path, name: str) -> pd.DataFrame:
    path = folder / name
    if not path.exists():
        raise UsageError(f"{folder} holds no {name}; give the folder of a build that is planned")
    with guarded(f"{path} cannot be read", "restore it from a copy, or build again"):
        table: pd.DataFrame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        if name == "completeness.csv" and not {"scan", "start", "status"} <= {*table.columns}:
            raise SourceError(f"{path} has other columns than scan, start and status; build again")
        return table
