"""Real files beside the written ones, where there are some: ``STRATACUBE_DATA``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["real_files"]


def real_files(pattern: str, folder: Path, most: int, *, largest: int = 300_000) -> list[Path]:
    """Copy the first real files of a pattern into a folder; none where real data are not set."""
    root = os.environ.get("STRATACUBE_DATA")
    found = sorted(p for p in Path(root).glob(pattern) if p.stat().st_size <= largest) if root else []
    copied = []
    for i, path in enumerate(found[:most]):
        target = folder / f"real{i}" / path.name
        target.parent.mkdir(parents=True)
        copied.append(Path(shutil.copyfile(path, target)))
    return copied
