"""Sentinel-2 L2A products in EOPF's Zarr form, laid out, compressed and described as those seen.

Zarr v2 as the EOPF core Python modules 2.x write it (baseline 05.11): chunks of 5490 x 5490, Blosc of Zstandard with
bitshuffle. Zarr v3 as products of 2026 (baseline 05.12): chunks of 915 x 915 at 10 and 20 m and of 305 x 305 at 60 m,
Zstandard.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import numcodecs
import zarr
from zarr.codecs import ZstdCodec

from cube.testing.sentinel2.safe import SafeSpec, outline

__all__ = ["write_eopf"]


def write_eopf(spec: SafeSpec, folder: str | Path, zarr_format: Literal[2, 3] = 2, *, chunk: int | None = None) -> Path:
    """Write a product.

    Parameters
    ----------
    spec
        What to write.
    folder
        Where the folder of the product goes.
    zarr_format
        Version of Zarr.
    chunk
        Side of chunks in pixels; default: as in products seen.

    Returns
    -------
    Path
        The product, ``<name>.zarr``.
    """
    path = Path(folder) / f"{spec.id}.zarr"
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format, attributes=_attributes(spec))
    for key, counts in spec.images.items():
        band, pixel = key.rpartition("_")[0].lower(), int(key[-3:-1])
        home = "conditions/mask/l2a_classification" if band == "scl" else "measurements/reflectance"
        side = chunk or (5490 if zarr_format == 2 else 305 if pixel == 60 else 915)
        offset = -0.1 if spec.baseline >= "04.00" else 0.0
        packed: dict[str, Any] = {"add_offset": offset, "scale_factor": 0.0001, "fill_value": 0}
        rows, cols = counts.shape
        array = root.create_array(
            f"{home}/r{pixel}m/{band}",
            shape=counts.shape,
            dtype=counts.dtype,
            chunks=(min(side, rows), min(side, cols)),
            fill_value=0,
            attributes={
                **({} if band == "scl" else packed),
                **({"_ARRAY_DIMENSIONS": ["y", "x"]} if zarr_format == 2 else {}),
                "proj:epsg": spec.epsg,
                "proj:shape": [rows, cols],
                "proj:transform": [float(pixel), 0.0, spec.ulx, 0.0, -float(pixel), spec.uly, 0.0, 0.0, 1.0],
            },
            **_layout(zarr_format),
        )
        array[:] = counts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Zarr v3 has no such thing yet; products do
        zarr.consolidate_metadata(path)
    return path


def _layout(zarr_format: int) -> dict[str, Any]:
    if zarr_format == 2:
        return {
            "compressors": numcodecs.Blosc(cname="zstd", clevel=3, shuffle=numcodecs.Blosc.BITSHUFFLE),
            "chunk_key_encoding": {"name": "v2", "separator": "."},
            "filters": None,
        }
    return {"compressors": ZstdCodec(level=0), "dimension_names": ("y", "x")}


def _attributes(spec: SafeSpec) -> dict[str, Any]:
    """Identity as a STAC item, and the sun."""
    return {
        "other_metadata": {
            "horizontal_CRS_code": f"EPSG:{spec.epsg}",
            "mean_sensing_time": f"{spec.strip_start.isoformat()}Z",
            "mean_sun_zenith_angle_in_deg_for_all_bands_all_detectors": spec.sun_zenith,
        },
        "stac_discovery": {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": f"{spec.id}.SAFE",
            "geometry": {"type": "Polygon", "coordinates": [[list(point) for point in outline(spec)]]},
            "links": [],
            "assets": {},
            "properties": {
                "datetime": None,
                "start_datetime": f"{spec.datatake_start.isoformat()}+00:00",
                "created": f"{spec.processing_time.isoformat()}+00:00",
                "platform": f"sentinel-2{spec.platform[-1].lower()}",
                "eo:cloud_cover": 10.0,
                "eopf:baseline": spec.baseline,
                "product:type": "S02MSIL2A",
                "sat:relative_orbit": spec.relative_orbit,
            },
        },
    }
