"""What is told to others: no folder of the machine that built it, sizes and digests, and how to cite it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["LARGEST_READ", "file_fields", "is_public", "link_to", "shown", "without_folders"]

LARGEST_READ = 256 << 20
"""Bytes of a file up to which it is read again for its digest."""

_FOLDERS = re.compile(r"(?:file://|(?<![\w.:/~*-]))/(?:[^\s/'\",;()\[\]{}]+/)+")
"""The folders of an absolute path on disk; addresses with a scheme are none."""
_WHOLE = re.compile(r"(?:file://)?/(?!.*[\s(]/)(?:[^/\n]+/)+([^/\n]*)")
"""An absolute path and nothing else, with the name of its file; no second one begins in it."""
_LOCAL = re.compile(rb'"(?:href"\s*:\s*"(?:/|file:)|remote_protocol"\s*:\s*"file")')
"""What tells in JSON that something lies on disk."""
_SHA2_256 = "1220"
"""How a multihash of SHA2-256 begins: the function's code and the number of bytes."""


def without_folders(text: str) -> str:
    """Return a text in which paths on disk are the names of their files alone."""
    return _FOLDERS.sub("", text)


def shown(value: Any) -> Any:
    """Return a value of a configuration, or a path, as it is published; sentences are for :func:`without_folders`."""
    if isinstance(value, str):
        whole = _WHOLE.fullmatch(value)  # of which a folder may be named with spaces and brackets
        return without_folders(value) if whole is None else whole[1]
    if isinstance(value, Mapping):
        return {key: shown(inner) for key, inner in value.items()}
    return [*map(shown, value)] if isinstance(value, list | tuple) else value


def is_public(path: Path) -> bool:
    """Whether what a list of scans or a virtual cube leads to lies on no machine alone.

    Parameters
    ----------
    path
        STAC items as JSON or stac-geoparquet; the folder of a virtual cube, or its ``collection.json``.
    """
    if path.is_dir():
        path = path / "collection.json"
        if not path.exists():
            return True
    if path.suffix == ".parquet":
        return not any(_local_addresses(path))
    with path.open("rb") as file:  # a line is an item, or less
        return not any(_LOCAL.search(line) for line in file)


def _local_addresses(path: Path) -> Iterator[bool]:
    """Whether each part of each column of addresses has one on disk."""
    import pyarrow.compute as pc  # noqa: PLC0415  (few builds list so many scans that they need a table)
    import pyarrow.parquet as pq  # noqa: PLC0415

    with pq.ParquetFile(path, pre_buffer=False) as file:
        columns = [name for name in file.schema.to_arrow_schema().names if name == "assets"]
        for batch in file.iter_batches(columns=columns, use_threads=False):
            for asset in batch.column("assets").flatten():
                hrefs = asset.field("href")
                yield pc.any(pc.or_(pc.starts_with(hrefs, "/"), pc.starts_with(hrefs, "file:"))).as_py() or False


def link_to(place: str | Path, folder: Path) -> str:
    """Address of a file or folder as seen from another, so that both may be moved together; a URL stays as it is."""
    text = str(place).removeprefix("file://")
    return text if "://" in text else os.path.relpath(Path(text).absolute(), folder.absolute())


def file_fields(path: Path) -> dict[str, Any]:
    """Size and digest of a file, as STAC's extension ``file`` spells them; nothing of a folder."""
    if not path.is_file():
        return {}
    size = path.stat().st_size
    if size > LARGEST_READ:
        return {"file:size": size}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file:size": size, "file:checksum": _SHA2_256 + digest}
