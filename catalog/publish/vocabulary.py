"""Names fixed by others: STAC extensions and media types."""

from __future__ import annotations

STAC_VERSION = "1.1.0"

DATACUBE = "https://stac-extensions.github.io/datacube/v2.3.0/schema.json"
EO = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
RASTER = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"
RENDER = "https://stac-extensions.github.io/render/v2.0.0/schema.json"
SAT = "https://stac-extensions.github.io/sat/v1.2.0/schema.json"
SCIENTIFIC = "https://stac-extensions.github.io/scientific/v1.0.0/schema.json"
VIEW = "https://stac-extensions.github.io/view/v1.1.0/schema.json"
XARRAY = "https://stac-extensions.github.io/xarray-assets/v1.0.0/schema.json"
ZARR = "https://stac-extensions.github.io/zarr/v1.1.0/schema.json"

JSON_TYPE = "application/json"
GEOJSON_TYPE = "application/geo+json"
PARQUET_TYPE = "application/vnd.apache.parquet"
ZARR_TYPE = "application/vnd.zarr; version=3"

GRID_METRES = {"1km": 1000.0, "2km": 2000.0, "native": 1000.0}
"""Nominal pixel of the build grid at nadir; a native build counts tiles in 1 km pixels."""

GRID_LINEAGE = {
    "1km": "500 m bands averaged and 2 km bands repeated to the 1 km fixed grid",
    "2km": "500 m and 1 km bands averaged to the 2 km fixed grid",
    "native": "each band at its own resolution on the fixed grid",
}
