"""One table of all items beside their JSON files: stac-geoparquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["write_index"]


def write_index(lines: Path, path: Path, collection: dict[str, Any]) -> None:
    """Write items as a stac-geoparquet table.

    Parameters
    ----------
    lines : Path
        The items, one JSON text a line. They are read twice, for the schema and for the rows, in batches:
        memory does not grow with their number.
    path : Path
        The Parquet file.
    collection : dict
        The collection they are of, kept in the file's metadata.

    References
    ----------
    https://github.com/radiantearth/stac-geoparquet-spec
    """
    # The library brings geopandas: a second that only this step should pay.
    from stac_geoparquet.arrow import parse_stac_ndjson_to_parquet  # noqa: PLC0415

    parse_stac_ndjson_to_parquet(
        lines, path, chunk_size=4096, collections={collection["id"]: collection}, compression="zstd"
    )
