"""Statistics that a build counts as it cuts its tiles are those that loaders.stats reads from the store."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import cube
from cube.build import main
from cube.geostationary.counting import count_band
from cube.testing import write_abi_archive
from loaders.counting import compute_statistics
from loaders.statistics import Statistics


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two strata, three splits, three resolutions and a grown store."""
    root = tmp_path_factory.mktemp("counted")
    archive, out, events = root / "archive", root / "out", root / "events.csv"
    corner = (-0.030016, 0.090048)
    write_abi_archive(
        archive, sector="C", start=datetime(2020, 7, 1, 16), hours=1, corner=corner, channels=(1, 2, 7, 13),
        shape_2km=(130, 130), workers=1,
    )  # fmt: skip
    base = ["--domain", "C", "--channels", "1", "2", "7", "13", "--tile-size", "32", "--steps", "1", "--screen", "off"]
    rule = ["--split-km", "90", "--split-gap-km", "10", "--split-hours", "0.75", "--split-gap-hours", "0.1"]
    given = ["--output-dir", str(out), "--local-data-dir", str(archive), "--workers", "1", "--quiet"]
    probe = ["--output-dir", str(root / "probe"), *given[2:]]
    assert main(["abi", *probe, *base, "--num-tiles", "1", "--plan-only"]) == 0
    place = pd.read_parquet(root / "probe" / "plan.parquet").iloc[0]
    rows = [{"time": f"2020-07-01T16:{m}", "lat": place["latitude"], "lon": place["longitude"]} for m in (10, 30, 50)]
    pd.DataFrame(rows).to_csv(events, index=False)
    mixed = ["--strata", "random=4", "events=1", "--events", str(events), "--shard-mb", "0.01"]
    for tiles in (8, 14):
        code = main(
            ["abi", *given, *base, *rule, "--split-shares", "0.5", "0.3", "0.2", *mixed, "--num-tiles", str(tiles)]
        )
        assert code == 0
    return out


def told(statistics: Statistics, split: str) -> dict[str, object]:
    return {name: vars(band) for name, band in statistics.splits[split].items()}


@pytest.mark.parametrize("by", ["split", "stratum"])
def test_they_are_those_that_loaders_read(built: Path, by: str) -> None:
    counted, read = Statistics.load(built / "statistics.json"), compute_statistics([built], by=by)
    assert counted.quantity == read.quantity == "radiance"
    assert len(read.splits) > 2
    for split in read.splits:
        assert told(counted, split) == told(read, split)


def test_they_are_those_of_the_pixels(built: Path) -> None:
    plan = pd.read_parquet(built / "plan.parquet")
    tiles = cube.open_tiles(built, "radiance", chunks=None).load()
    counted = Statistics.load(built / "statistics.json")
    for name in ("C02", "C13"):
        for stratum in ("random", "events"):
            values = tiles[name].values[(plan["stratum"] == stratum).to_numpy()]
            values = values[np.isfinite(values)].astype("f8")
            band = counted.splits[stratum][name]
            assert band.count == len(values)
            assert (band.min, band.max) == (values.min(), values.max())
            assert band.mean == pytest.approx(values.mean(), rel=1e-12)
            assert band.std == pytest.approx(values.std(), rel=1e-9)
            exact = np.percentile(values, [1, 50, 99], method="inverted_cdf")
            assert [band.percentiles[p] for p in ("1", "50", "99")] == exact.tolist()
    assert counted.provenance["tiles"] == len(plan)
    assert json.loads((built / "statistics.json").read_text())["splits"].keys() >= {"all", "random", "events", "train"}


def test_a_lost_file_is_made_again(built: Path) -> None:
    path = built / "statistics.json"
    before = path.read_bytes()
    assert main(["verify", str(built), "--quiet"]) == 0
    path.unlink()
    assert main(["verify", str(built), "--quiet"]) == 1
    flags = ["--config", str(built / "config.yaml"), "--output-dir", str(built), "--workers", "1", "--quiet"]
    assert main(["abi", *flags]) == 0
    assert path.read_bytes() == before


def test_counting_takes_little() -> None:
    """A few nanoseconds a pixel; cutting one takes about fifty."""
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 4000, (1, 7, 512, 512), "u2")
    mask = np.full_like(counts, 3)
    mask[0, 2, :100] = 1
    valid = np.count_nonzero(mask & 2, axis=(2, 3))
    begun = time.process_time()
    found = count_band(counts, mask, 2, valid)
    seconds = time.process_time() - begun
    assert (found[0, 3] == np.bincount(counts[0, 3].ravel())).all()
    assert (found[0, 2] == np.bincount(counts[0, 2, 100:].ravel())).all()
    assert seconds / counts.size < 30e-9
