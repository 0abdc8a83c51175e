"""A head learns the classes of a real CloudSat granule, on tiles of written scans along its track."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import zarr

from cube.config import AbiConfig
from cube.geostationary.run import run_abi
from cube.strata.cloudsat.granule import read_granule
from cube.testing import write_abi_archive
from tests.training.test_data import tiles_run
from training import finetune, probe
from training.trainer import Trainer


@pytest.mark.slow
@pytest.mark.long
def test_a_head_is_taught_and_judged_by_a_real_granule(data_folder: Path, tmp_path: Path) -> None:
    paths = sorted((data_folder / "cloudsat").glob("*2B-CLDCLASS*.hdf"))
    if not paths:
        pytest.skip(f"{data_folder}/cloudsat has no granule")
    granule = read_granule(paths[0])
    seen = granule.valid & (granule.longitude > -110) & (granule.longitude < -60) & (abs(granule.latitude) < 30)
    middle = int(np.flatnonzero(seen)[seen.sum() // 2])
    write_abi_archive(
        tmp_path / "abi",
        start=granule.time[middle].astype(datetime) - timedelta(minutes=2),
        hours=0.1,
        cadence_minutes=3.0,
        channels=(13,),
        centre=(float(granule.longitude[middle]), float(granule.latitude[middle])),
        workers=1,
    )
    config = AbiConfig(
        stratification="cloudsat",
        cloudsat_root=str(paths[0].parent),
        output_dir=tmp_path / "tiles",
        local_data_dir=tmp_path / "abi",
        domain="M1",
        channels=[13],
        tile_size=32,
        steps=1,
        workers=1,
        screen="off",
        profile_selection="chip",
    )
    assert run_abi(config).code == 0
    store = zarr.open_group(tmp_path / "tiles" / "tiles.zarr", mode="r")
    tiles = store["cloudsat_profile_count"].shape[0]
    assert tiles >= 8
    learned = tiles * 2 // 3
    data = {
        "statistics": "own",
        "where": f"tile < {learned}",
        "validation_where": f"tile >= {learned}",
        "label": "cloudsat",
    }
    model = {"kind": "temporal", "bands": ["C13"], "groups": None, "image_size": 32, "frames": 1}
    run = tiles_run(tmp_path / "run", tmp_path / "tiles", model=model, data=data)
    trainer = Trainer(run)
    trainer.fit(1)
    assert finetune.main([str(tmp_path / "run"), "--steps", "3", "--output-dir", str(tmp_path / "head")]) == 0
    told = json.loads((tmp_path / "head" / "finetune.json").read_text())
    first = int(store["cloudsat_profile_start"][learned])
    classes, valid = (np.asarray(store[f"cloudsat_{name}"][first:]) for name in ("class", "valid"))
    rows, columns = (np.asarray(store[f"cloudsat_{name}"][first:]) for name in ("row", "col"))
    inside = (valid != 0) & (rows >= 0) & (rows < 32) & (columns >= 0) & (columns < 32)
    assert told["scores"]["head"]["judged"] == (classes[inside] >= 0).sum() > 1000
    assert told["levels"] == classes.shape[1]
    names = ("clear", "cirrus", "altostratus", "altocumulus", "stratus", "stratocumulus", "cumulus", "nimbostratus")
    occurring = {names[n] for n in np.unique(classes[inside]) if 0 <= n < 8}
    assert {*told["scores"]["head"]["by_class"]} - {"deep_convection"} == occurring
    assert probe.main([str(tmp_path / "run")]) == 2  # it is a head that tells classes by height
