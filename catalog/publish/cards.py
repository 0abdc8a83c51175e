"""A data card and Croissant metadata beside a store, made of what its STAC collection says.

Sources: MLCommons Croissant 1.0 (https://docs.mlcommons.org/croissant/docs/croissant-spec.html); the media type of
Parquet is the one that MLCommons' own library reads, not the registered one. The headings of a data card follow those
that hubs of data sets show.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catalog.publish.public import file_fields
from stratacube.files import write_json, write_text

__all__ = ["CARD", "CARDS", "CROISSANT", "write_cards"]

CARD = "DATACARD.md"
CROISSANT = "croissant.json"
CARDS = (
    ("datacard", CARD, "text/markdown", "Data card", "metadata"),
    ("croissant", CROISSANT, "application/ld+json", "Croissant metadata", "metadata"),
)
"""Key, path below the output folder, media type, title and role of the assets."""

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "sc": "https://schema.org/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{
        name: f"cr:{name}"
        for name in (
            *("citeAs", "column", "extract", "field", "fileProperty", "fileObject", "fileSet", "format", "includes"),
            *("isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
            *("equivalentProperty", "repeated", "replace", "samplingRate", "separator", "source", "subField"),
            "transform",
        )
    },
}
_TYPES = {
    "int": "sc:Integer",
    "uint": "sc:Integer",
    "float": "sc:Float",
    "double": "sc:Float",
    "timestamp": "sc:DateTime",
    "bool": "sc:Boolean",
    "string": "sc:Text",
    "large_string": "sc:Text",
}
"""Croissant's types of columns of a table, by how Arrow's begin; what has none is left out."""


def write_cards(folder: Path, output: Path, collection: Mapping[str, Any], store: str | None, table: str) -> None:
    """Write both.

    Parameters
    ----------
    folder
        Where to write them.
    output
        Folder of the build.
    collection
        Its STAC collection.
    store
        The Zarr store, relative to the folder; None where there are images alone.
    table
        The Parquet table of one row a tile or cell, relative to the folder.
    """
    write_json(folder / CROISSANT, _croissant(output, collection, store, table))
    write_text(folder / CARD, _card(collection, store))


def _license(collection: Mapping[str, Any]) -> str:
    return next((k["href"] for k in collection["links"] if k["rel"] == "license"), str(collection["license"]))


def _croissant(output: Path, collection: Mapping[str, Any], store: str | None, table: str) -> dict[str, Any]:
    interval = collection["extent"]["temporal"]["interval"][0]
    files = [_file(output / table, table, "application/x-parquet")] if (output / table).is_file() else []
    images = {"includes": f"{store}/**", "encodingFormat": "application/vnd.zarr"} if store else {
        "includes": "composites/*/*.tif", "encodingFormat": "image/tiff"}  # fmt: skip
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": collection["id"],
        "description": collection["description"],
        "license": _license(collection),
        "citeAs": collection["sci:citation"],
        "creator": [
            {"@type": "sc:Organization", "name": p["name"], **({"url": p["url"]} if "url" in p else {})}
            for p in collection["providers"]
        ],
        "keywords": collection["keywords"],
        "datePublished": collection["created"],
        "version": "1.0.0",
        "temporalCoverage": "/".join(interval),
        "distribution": [*files, {"@type": "cr:FileSet", "@id": "images", "name": "images", **images}],
        "recordSet": [_records(output / table, table)] if files else [],
    }


def _file(path: Path, name: str, kind: str) -> dict[str, Any]:
    told = file_fields(path)
    digest = {"sha256": told["file:checksum"][4:]} if "file:checksum" in told else {}
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{told['file:size']} B",
        "encodingFormat": kind,
        **digest,
    }


def _records(path: Path, table: str) -> dict[str, Any]:
    """One record a row of the table; columns of lists are left out."""
    import pyarrow.parquet  # noqa: PLC0415  (names of the files are asked for where none is written)

    fields = []
    for column in pyarrow.parquet.read_schema(path):
        kind = next((kind for begin, kind in _TYPES.items() if str(column.type).startswith(begin)), None)
        if kind is not None:
            source = {"fileObject": {"@id": table}, "extract": {"column": column.name}}
            fields.append(
                {
                    "@type": "cr:Field",
                    "@id": f"rows/{column.name}",
                    "name": column.name,
                    "dataType": kind,
                    "source": source,
                }
            )
    return {"@type": "cr:RecordSet", "@id": "rows", "name": "rows", "field": fields}


def _card(collection: Mapping[str, Any], store: str | None) -> str:
    box = ", ".join(f"{v:g}" for v in collection["extent"]["spatial"]["bbox"][0])
    start, end = collection["extent"]["temporal"]["interval"][0]
    lineage = next((p["processing:lineage"] for p in collection["providers"] if "processing:lineage" in p), "")
    opened = (
        f'import xarray as xr\n\ndata = xr.open_zarr("{store}")\nprint(data)\n'
        if store
        else 'import pystac\n\nfor item in pystac.Catalog.from_file("catalog.json").get_items(recursive=True):\n'
        "    print(item.id, [*item.assets])\n"
    )
    parts = [
        f"# {collection['title']}",
        collection["description"],
        f"- Identifier: `{collection['id']}`\n- Period: {start} to {end} (UTC)\n- West, south, east, north: {box} "
        f"degrees\n- Keywords: {', '.join(collection['keywords'])}",
        "## How it was made",
        lineage + " `catalog.json` leads to each tile or cell, its bands, and the scans or products that it was made "
        "of; `report.md` says what was asked for, made and left out.",
        "## How to open it",
        f"```python\n{opened}```",
        "## Terms and citation",
        f"The pixels are those of {collection['providers'][0]['name']}; terms: {_license(collection)}",
        collection["sci:citation"],
        *(f"{p['citation']} doi:{p['doi']}" for p in collection.get("sci:publications", ())),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"
