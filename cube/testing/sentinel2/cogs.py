"""Sentinel-2 L2A as Earth Search and Planetary Computer keep it: GeoTIFFs, each band once, and the STAC item.

Keys, properties and their spelling are those of items of both (sentinel-2-l2a of Earth Search v1, 2025).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from affine import Affine

from cube.testing.sentinel2.safe import SafeSpec, outline

__all__ = ["write_cog_item"]

_NAMES = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2",
    "B07": "rededge3", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B11": "swir16", "B12": "swir22", "SCL": "scl",
}  # fmt: skip
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def write_cog_item(
    spec: SafeSpec, folder: str | Path, archive: Literal["earth-search", "planetary-computer"] = "earth-search"
) -> dict[str, Any]:
    """Write the images of a product as GeoTIFFs, and return its item.

    Parameters
    ----------
    spec
        The product. Of ``images`` each band may be there at one size only.
    folder
        Where the GeoTIFFs go; addresses in the item are paths.
    archive
        Whose item. Earth Search adds the offset to the pixels, as it says in the item; Planetary Computer does not.
    """
    earth_search = archive == "earth-search"
    added = 1000 if earth_search and spec.baseline >= "04.00" else 0
    name = (
        f"{spec.platform}_{spec.tile}_{spec.datatake_start:%Y%m%d}_0_L2A" if earth_search else _without_baseline(spec)
    )
    ring = [list(point) for point in outline(spec)]
    assets = {}
    for key, counts in spec.images.items():
        band, pixel = key.rpartition("_")[0], int(key[-3:-1])
        path = Path(folder) / name / f"{band}.tif"
        transform = Affine(pixel, 0, spec.ulx, 0, -pixel, spec.uly)
        if band != "SCL" and added:
            counts = np.where(counts > 0, np.clip(counts.astype("i4") - added, 1, None), 0).astype("u2")  # noqa: PLW2901
        _write(path, counts, transform, spec.epsg)
        fields = {
            "href": str(path),
            "type": _COG,
            "gsd": pixel,
            "proj:shape": list(counts.shape),
            "proj:transform": list(transform)[:6],
            "roles": ["data"],
        }
        assets[_NAMES[band] if earth_search else band] = fields
    made, begun = f"{spec.processing_time:%Y-%m-%dT%H:%M:%S}.000000Z", f"{spec.datatake_start:%Y%m%dT%H%M%S}"
    strip = f"{spec.platform}_OPER_MSI_L2A_DS_2APS_{spec.processing_time:%Y%m%dT%H%M%S}"
    properties: dict[str, Any] = {
        # Earth Search gives the time of the tile, Planetary Computer that of the datatake
        "datetime": f"{spec.strip_start if earth_search else spec.datatake_start:%Y-%m-%dT%H:%M:%S}.024000Z",
        "platform": f"sentinel-2{spec.platform[-1].lower()}" if earth_search else f"Sentinel-2{spec.platform[-1]}",
        "proj:epsg": spec.epsg,
        "eo:cloud_cover": 10.0,
        "s2:product_type": "S2MSI2A",
        "s2:processing_baseline": spec.baseline,
        "s2:product_uri": f"{spec.id}.SAFE",
        "s2:generation_time": made,
        "s2:datatake_id": f"G{spec.platform}_{begun}_026274_N{spec.baseline}",
        "s2:datastrip_id": f"{strip}_S{spec.strip_start:%Y%m%dT%H%M%S}_N{spec.baseline}",
    }
    if earth_search:
        properties |= {"grid:code": f"MGRS-{spec.tile}", "earthsearch:boa_offset_applied": bool(added)}
    else:
        properties |= {"s2:mgrs_tile": spec.tile, "sat:relative_orbit": spec.relative_orbit}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
            "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
        ],
        "id": name,
        "collection": "sentinel-2-l2a",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [*map(min, zip(*ring, strict=True)), *map(max, zip(*ring, strict=True))],
        "properties": properties,
        # relative to a catalogue that is not there, as items that were saved on their own have them
        "links": [{"rel": "parent", "href": "../collection.json", "type": "application/json"}],
        "assets": assets,
    }


def _without_baseline(spec: SafeSpec) -> str:
    """Id of Planetary Computer: the product's name without its baseline."""
    return spec.id.replace(f"_N{spec.baseline.replace('.', '')}", "")


def _write(path: Path, counts: Any, transform: Affine, epsg: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="COG", height=counts.shape[0], width=counts.shape[1], count=1, dtype=counts.dtype,
        crs=f"EPSG:{epsg}", transform=transform, nodata=0, COMPRESS="DEFLATE", PREDICTOR="YES", BLOCKSIZE=256,
    ) as file:  # fmt: skip
        file.write(counts, 1)
