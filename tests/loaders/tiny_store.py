"""Small tile stores, written by zarr in the layout that builds have."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from zarr.codecs import BloscCodec

_RNG = 7
STEP = 28e-6


def write_store(
    folder: Path,
    *,
    tiles: int = 12,
    steps: int = 3,
    size: int = 32,
    channels: tuple[int, ...] = (1, 3, 8, 13),
    per_shard: int = 4,
    compressors: Any = None,
    serializer: Any = "auto",
    chunks: tuple[int, ...] | None = None,
    shards: bool = True,
    seed: int = _RNG,
    attributes: dict[str, Any] | None = None,
) -> Path:
    """Write ``folder/tiles.zarr`` and ``folder/plan.parquet``; the counts tell tile, step, row and column."""
    rng = np.random.default_rng(seed)
    path = folder / "tiles.zarr"
    group = zarr.open_group(path, mode="w", attributes=attributes or {"grid": "1km"})
    shape = (tiles, steps, size, size)
    compressors = (
        BloscCodec(cname="zstd", clevel=3, shuffle="shuffle", typesize=2) if compressors is None else compressors
    )

    def image(name: str, values: Any, fill: int, attrs: dict[str, Any]) -> None:
        array = group.create_array(
            name,
            shape=shape,
            dtype="<u2",
            chunks=chunks or (1, steps, size, size),
            shards=(min(per_shard, tiles), steps, size, size) if shards else None,
            compressors=compressors,
            serializer=serializer,
            fill_value=fill,
            dimension_names=("tile", "time", "y", "x"),
            attributes=attrs,
        )
        array[:] = values

    mask = np.zeros(shape, "u2")
    for channel in channels:
        values = smooth(rng, shape)
        good = rng.random(shape) > 0.1
        good[0, :, : size // 2] = False  # a tile across the limb
        mask |= np.where(good, np.uint16(1 << (channel - 1)), np.uint16(0))
        values = np.where(good, values, 4095)
        image(f"C{channel:02d}", values, 4095, {"_FillValue": 4095, "channel": channel, "ancillary_variables": "valid"})
    names = " ".join(f"C{c:02d}" for c in channels)
    image("valid", mask, 0, {"flag_masks": [1 << (c - 1) for c in channels], "flag_meanings": names})
    start = np.datetime64("2020-01-01T10:00", "us") + np.arange(tiles)[:, None] * np.timedelta64(3, "D")
    times = start + np.arange(steps) * np.timedelta64(20, "m")
    stratum = np.arange(tiles) % 2
    band = (tiles, steps, len(channels))
    time = {"units": "microseconds since 1970-01-01", "calendar": "proleptic_gregorian"}
    missing = np.iinfo("i8").min
    starts = (times + np.timedelta64(31, "s")).astype("i8")
    starts[1, -1] = missing
    scale = np.broadcast_to(0.01 * (1 + np.array(channels)), band)
    small: dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]] = {
        "band": (("band",), np.array(channels, "i1"), {}),
        "packing_scale": (("tile", "time", "band"), scale * (1 + (np.arange(tiles) % 2)[:, None, None]), {}),
        "packing_offset": (("tile", "time", "band"), np.broadcast_to(-0.3 * np.array(channels), band), {}),
        "kappa0": (("tile", "time", "band"), np.full(band, 0.0015, "f4"), {}),
        "planck_fk1": (("tile", "time", "band"), np.full(band, 10803.3, "f4"), {}),
        "planck_fk2": (("tile", "time", "band"), np.full(band, 1392.74, "f4"), {}),
        "planck_bc1": (("tile", "time", "band"), np.full(band, 0.0755, "f4"), {}),
        "planck_bc2": (("tile", "time", "band"), np.full(band, 0.9997, "f4"), {}),
        "requested_time": (("tile", "time"), times.astype("i8"), time),
        "scan_start": (("tile", "time"), starts, {**time, "_FillValue": missing}),
        "scan_mid": (("tile", "time"), starts, {**time, "_FillValue": missing}),
        "latitude": (("tile",), np.linspace(-40, 40, tiles), {}),
        "longitude": (("tile",), np.linspace(-100, -60, tiles), {}),
        "x_left": (("tile",), np.linspace(-0.1, 0.1, tiles), {}),
        "y_top": (("tile",), np.linspace(0.1, -0.1, tiles), {}),
        "row": (("tile",), np.arange(tiles, dtype="i4"), {}),
        "col": (("tile",), np.arange(tiles, dtype="i4"), {}),
        "platform": (("tile",), np.full(tiles, 16, "i2"), {}),
        "stratum": (("tile",), stratum.astype("i1"), {"flag_values": [0, 1], "flag_meanings": "random convection"}),
        "view_zenith": (
            ("tile", "y_coarse", "x_coarse"),
            (np.arange(tiles)[:, None, None] * 5 + np.zeros((8, 8))).astype("f4"),
            {},
        ),
        "solar_zenith": (
            ("tile", "time", "y_coarse", "x_coarse"),
            (np.zeros((tiles, steps, 8, 1)) + np.arange(8)).astype("f4"),
            {},
        ),
    }
    for name, (dims, values, attrs) in small.items():
        fill = float("nan") if values.dtype.kind == "f" else 0
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=values.shape, fill_value=fill,
            dimension_names=dims, attributes=attrs,
        )  # fmt: skip
        array[...] = values
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(path)
    plan = pd.DataFrame(
        {
            "tile": np.arange(tiles),
            "tile_id": [f"tile-{i}" for i in range(tiles)],
            "stratum": np.array(["random", "convection"])[stratum],
            "event_time": start[:, 0].astype("M8[us]"),
            "probability": np.linspace(0.1, 1, tiles),
            "score": np.arange(tiles, dtype="f8"),
        }
    )
    plan.to_parquet(folder / "plan.parquet")
    return path


def smooth(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Counts that compress as images do."""
    tiles, steps, rows, cols = shape
    base = rng.integers(200, 3000, (tiles, steps, 1, 1))
    slope = rng.integers(1, 9, (2, tiles, steps, 1, 1))
    y, x = np.mgrid[:rows, :cols]
    return (base + slope[0] * y + slope[1] * x + rng.integers(0, 4, shape)).astype("u2")
