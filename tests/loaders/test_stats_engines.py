"""Statistics counted on an engine are the same to the last bit, whoever ends first."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cube.job.engine import InlineExecutor, run_tasks
from loaders import engines, stats
from loaders.counting import compute_statistics
from stratacube.errors import SourceError
from tests.job.test_ranks import mpirun, needs_mpirun

Maker = Callable[..., Path]


def backwards(*given: Any, **words: Any) -> Iterator[Any]:
    yield from reversed([*run_tasks(*given, **words)])


def test_statistics_do_not_depend_on_the_engine(
    make_store: Maker, write_cube: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_store(tiles=70, seed=1), make_store(tiles=9, seed=2)
    rng = np.random.default_rng(5)
    images = {band: (("y", "x"), rng.normal(300, 40, (90, 120)).astype("f4")) for band in ("B02", "B8A")}
    cube = write_cube(xr.Dataset(images), chunks=(32, 32))
    monkeypatch.setattr("loaders.moments._PIXELS", 32 * 32)
    monkeypatch.setattr(engines, "run_tasks", backwards)
    for source, words in (([first, second], {"by": "stratum"}), ([cube], {})):
        expected = compute_statistics(source, **words)
        found = compute_statistics(source, **words, workers=2, engine=InlineExecutor())
        assert found.splits == expected.splits
        assert found.provenance["pixels"] == expected.provenance["pixels"]
        assert found.provenance["stores"] == expected.provenance["stores"]


def test_every_item_is_read_once_and_few_tasks_bring_the_dataset() -> None:
    for number, most in ((1, 4), (7, 4), (64, 4), (1000, 48)):
        parts = [*engines.read_on_engine(range(number), number, list, InlineExecutor(), most // 8 or 1, "parts")]
        assert [n for part in parts for n in part] == [*range(number)]
        assert len(parts) == min(number, 8 * (most // 8 or 1))


def test_a_part_that_cannot_be_read_is_one_sentence(
    make_store: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tiles=4)
    output = ["--output", str(tmp_path / "s.json")]
    chunk = next(p for p in store.glob("C01/c/*/*/*/*") if p.is_file())
    chunk.write_bytes(b"nothing of this")
    with pytest.raises(SourceError, match="C01"):
        compute_statistics([store], engine=InlineExecutor())
    assert stats.main([str(store), "--engine", "dsk", *output]) == 2
    assert "--engine is dsk; give local, dask or mpi (did you mean dask?)" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("engine", ["local", "dask", pytest.param("mpi", marks=needs_mpirun)])
def test_the_command_counts_on_real_engines(store: Path, tmp_path: Path, engine: str) -> None:
    words = [str(store), "--output", str(tmp_path / "s.json")]
    if engine == "mpi":
        done = mpirun(3, "-m", "loaders.stats", *words)
    else:
        command = [sys.executable, "-m", "loaders.stats", *words, "--engine", engine, "--workers", "2"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written:") == 1
    found = json.loads((tmp_path / "s.json").read_text())
    assert stats.main([str(store), "--output", str(tmp_path / "here.json")]) == 0
    assert found["splits"] == json.loads((tmp_path / "here.json").read_text())["splits"]
