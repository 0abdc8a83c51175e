from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from cube.geostationary.tilestore import open_tiles
from loaders import bench, stats
from loaders.counting import compute_statistics
from loaders.statistics import Statistics, make_decoder
from loaders.store import TileStore
from loaders.tiles import tile_loader
from stratacube.errors import UsageError

Maker = Callable[..., Path]


@pytest.mark.parametrize("quantity", ["radiance", "brightness_temperature"])
def test_statistics_are_exact(store: Path, quantity: str) -> None:
    truth = open_tiles(store, quantity, chunks=None)  # type: ignore[arg-type]
    found = compute_statistics([store], quantity=quantity)  # type: ignore[arg-type]
    splits = TileStore.open(store).table["split"].to_numpy()
    for split, bands in found.splits.items():
        tiles = np.arange(12) if split == "all" else np.flatnonzero(splits == split)
        for band, s in bands.items():
            values = truth[band].values[tiles].astype("f8")
            values = values[np.isfinite(values)]
            assert s.count == values.size
            assert (s.min, s.max) == (values.min(), values.max())
            assert s.mean == pytest.approx(values.mean(), rel=1e-9)
            assert s.std == pytest.approx(values.std(), rel=1e-9)
            assert s.percentiles["50"] == np.percentile(values, 50, method="inverted_cdf")
            assert s.percentiles["99"] == np.percentile(values, 99, method="inverted_cdf")
            assert sum(s.histogram) == s.count
    assert set(found.splits) == {"all", *splits}


def test_statistics_of_parts_add_up(make_store: Maker) -> None:
    first, second = make_store(tiles=20, seed=1), make_store(tiles=9, seed=2)
    together = compute_statistics([first, second], by="stratum")
    again = compute_statistics([second, first], by="stratum", workers=1)
    assert together.splits == again.splits
    assert together.splits["all"]["C01"].count == sum(together.splits[s]["C01"].count for s in ("random", "convection"))
    few = compute_statistics([first], sample=5, bands=[3])
    assert few.provenance["stores"][0]["tiles"] == 5
    assert list(few.splits["all"]) == ["C03"]


def test_statistics_command(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "s.json"
    assert stats.main([str(store.parent), "--output", str(output)]) == 0
    assert "C13" in capsys.readouterr().out
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (4 * 320, 200)
        assert len(picture.getcolors(100000) or []) > 4
    written = json.loads(output.read_text())
    assert written["provenance"]["stores"][0]["fingerprint"] == TileStore.open(store).fingerprint
    normalised = [b.pixels[b.valid] for b in tile_loader(store, 12, statistics=output, where="split == 'train'")]
    assert abs(float(normalised[0].mean())) < 1e-2
    assert float(normalised[0].std()) == pytest.approx(1, abs=1e-2)
    assert stats.main([str(store), "--where", "no == 1", "--output", str(output)]) == 2
    assert stats.main([str(tmp_path), "--output", str(output)]) == 2
    assert "error:" in capsys.readouterr().err
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(UsageError, match="format"):
        Statistics.load(tmp_path / "bad.json")
    with pytest.raises(UsageError, match="--quantity mixed"):
        make_decoder(output, "mixed")
    with pytest.raises(UsageError, match="preset"):
        make_decoder("nothing.json")


def test_statistics_of_a_damaged_store(make_store: Maker, tmp_path: Path) -> None:
    path = make_store(tiles=4)
    (path / "C01" / "c" / "0" / "0" / "0" / "0").write_bytes(b"nothing")
    assert stats.main([str(path), "--output", str(tmp_path / "s.json")]) == 1


def test_preset() -> None:
    decoder = make_decoder("satvision_pix4d")
    assert decoder.mean["C01"] == 127.34686819
    assert decoder.std["C16"] == 8.08676479


def test_bench_command(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([str(store), "--workers", "1", "--seconds", "0.05"]) == 0
    said = capsys.readouterr().out
    assert "zarr slices" in said
    assert "use workers=" in said
    assert bench.main([str(store.parent / "nothing.zarr")]) == 2
    for wrong in (["--batch-size", "0"], ["--workers", "-1"], ["--device", "abacus", "--workers"]):
        assert bench.main([str(store), "--seconds", "0.01", *wrong]) == 2
        assert capsys.readouterr().err.startswith("error: ")
    for flag in ("--workers=-1", "--sample=0"):
        assert stats.main([str(store), flag]) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_places_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for command in (stats.main, bench.main):
        assert command(["bogus://x"]) == 2
        assert "Protocol not known" in capsys.readouterr().err
    assert stats.main(["s3://nowhere/tiles.zarr", "--anonymous"]) == 1
    assert "check the address" in capsys.readouterr().err


def test_invalid_pixels_do_not_count(make_store: Maker) -> None:
    path = make_store()
    before = compute_statistics([path]).splits["all"]["C01"]
    group = zarr.open_group(path, mode="r+")
    counts, mask = group["C01"][:], group["valid"][:]
    group["C01"][:] = np.where(mask & 1, counts, 9999).astype("u2")
    assert compute_statistics([path]).splits["all"]["C01"] == before
