"""The archive of the demo holds what it says, and a build of it tells what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio

from catalog.sentinel2.safe import read_safe
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.run import run_sentinel2
from cube.testing import write_sentinel2_archive


@pytest.mark.slow
def test_demo_archive_builds_to_one_landscape(tmp_path: Path) -> None:
    archive = write_sentinel2_archive(tmp_path / "archive", side=220)
    products = [read_safe(p) for p in sorted(archive.root.glob("*.SAFE"))]
    assert {p.id for p in products} == set(archive.products)
    assert {p.baseline for p in products} == {"03.01", "04.00", "05.00", "05.10"}
    assert len({(p.tile, p.datatake_start) for p in products}) == len(products) - 2  # two processings, two halves
    values = {**archive.options(), "work_dir": tmp_path / "work", "workers": 1}
    assert run_sentinel2(Sentinel2Config.load(None, values)).code == 1
    errors = pd.read_csv(tmp_path / "work" / "errors.csv")
    assert set(errors["product"]) == {archive.corrupt}
    left_out = pd.read_csv(tmp_path / "work" / "indices" / "left_out.csv")
    assert left_out["id"].tolist() == [archive.products[0]]
    water, land = [], []
    for path in (tmp_path / "work").glob("composites/*/*_B8A_median_clip.tif"):
        with rasterio.open(path) as file:
            data = file.read(1, masked=True).compressed()
        water.append(data[data < 500])
        land.append(data[data >= 500])
    # water is dark and partly negative whichever baseline it was written with; nothing is left of clouds
    assert -150 < np.median(np.concatenate(water)) < 20
    assert np.concatenate(land).max() < 5500
    assert np.concatenate(water).min() < 0
