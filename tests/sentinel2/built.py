"""The pixels of a small build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio

from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.run import run_sentinel2


def built(work: Path, code: int = 0, **values: Any) -> dict[str, npt.NDArray[np.generic]]:
    """Run a build of one process, and return the pixels of each of its GeoTIFFs by name."""
    config = Sentinel2Config.load(None, {"work_dir": work, "workers": 1, **values})
    assert run_sentinel2(config).code == code
    pixels = {}
    for path in sorted(work.glob("composites/*/*.tif")):
        with rasterio.open(path) as image:
            pixels[path.name] = image.read(1)
    return pixels
