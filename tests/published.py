"""What a STAC document leads to on this machine, and whether any of it names a folder that is nobody's matter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet

__all__ = ["assert_names_no_folder", "led_to"]

_BINARY = (".png", ".tif", ".safetensors", ".nc")


def led_to(document: Path) -> Iterator[Path]:
    """All documents and files that links and assets lead to, the document itself among them."""
    waiting, seen = [document.resolve()], {document.resolve()}
    while waiting:
        path = waiting.pop()
        yield path
        content: Any = json.loads(path.read_text()) if path.suffix == ".json" else {}
        if not isinstance(content, dict) or "stac_version" not in content:
            continue
        links = [k["href"] for k in content["links"] if k["rel"] != "via"]
        for href in (*links, *(a["href"] for a in content.get("assets", {}).values())):
            if "://" in href:
                continue
            target = (path.parent / href).resolve()
            for inside in target.rglob("*") if target.is_dir() else [target]:
                if inside not in seen and inside.is_file():
                    seen.add(inside)
                    waiting.append(inside)


def assert_names_no_folder(document: Path, *folders: Path | str) -> list[Path]:
    """Nothing that a document leads to, its columns and attributes, names any of some folders."""
    found = [*led_to(document)]
    for path in found:
        content = path.read_bytes()
        if path.suffix == ".parquet":
            table = pyarrow.parquet.read_table(path)
            content = repr((table.to_pylist(), table.schema.metadata)).encode()
        for folder in folders if path.suffix not in _BINARY else ():
            at = content.find(str(folder).encode())
            assert at < 0, (path, content[max(0, at - 80) : at + 120])
    return found
