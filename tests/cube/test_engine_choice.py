"""What names an engine and its options: words, a section of a file, an executor; nothing heavy is imported for it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cube.config import AbiConfig
from cube.engine_choice import EngineChoice, choose_engine
from cube.job.engine import Workers
from cube.job.engine.plugs import DaskOptions
from cube.sentinel2.config import Sentinel2Config
from stratacube.errors import UsageError

JOBS = {"cluster": "slurm", "queue": "compute", "cores": 40, "memory": "180GB", "walltime": "02:00:00"}
WORDS = ["dask", "cluster=slurm", "queue=compute", "cores=40", "memory=180GB", "walltime=02:00:00"]


@pytest.mark.parametrize("given", [WORDS, " ".join(WORDS), {"name": "dask", **JOBS}])
def test_options_are_words_or_a_section(given: Any, tmp_path: Path) -> None:
    expected = EngineChoice("dask", DaskOptions(**JOBS))  # type: ignore[arg-type]
    assert choose_engine(given) == expected
    config = AbiConfig.load(None, {"output_dir": tmp_path, "engine": given})
    assert config.engine == expected


def test_an_engine_is_no_part_of_what_is_built(tmp_path: Path) -> None:
    plain = {"work_dir": tmp_path, "start": "2021-06-01", "end": "2021-06-02", "cells": ["a"]}
    with ProcessPoolExecutor(1) as pool:
        for engine in ("local", WORDS, pool):
            config = Sentinel2Config.load(None, {**plain, "engine": engine})
            assert config.digest() == Sentinel2Config.load(None, plain).digest()
            assert "engine" not in config.described()
        assert config.engine.executor is pool


def test_a_section_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "build.yaml"
    file.write_text("output-dir: out\nengine:\n  name: dask\n  scheduler: tcp://10.0.0.1:8786\n")
    config = AbiConfig.load(file)
    assert config.engine.options.scheduler == "tcp://10.0.0.1:8786"
    assert AbiConfig.load(file, {"engine": "local"}).engine == EngineChoice("local")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("dusk", "`engine` is 'dusk': give local, dask or mpi (did you mean dask?)"),
        (["dask", "que=x"], "unknown key `que`; did you mean `queue`?"),
        (["dask", "cores=many"], "`cores` is 'many': give a whole number"),
        (["dask", "slurm"], "'slurm' is not an option; write options as KEY=VALUE"),
        (["local", "cores=2"], "local has no options; leave 'cores' out"),
        (["mpi", "n=2"], "unknown key `n`"),
        (["dask", "queue=compute"], "`queue` is of jobs; give `cluster=slurm` too"),
        (["dask", "cluster=slurm"], "`memory` is required with `cluster=slurm`"),
        (["dask", "scheduler=a", "scheduler_file=b"], "`scheduler` and `scheduler_file` are both given; give one"),
        (["dask", "scheduler=a", "cluster=slurm", "memory=1GB"], "`cluster` goes with workers that are started here"),
        ([], "give a name"),
        (7, "give a name"),
    ],
)
def test_what_is_no_engine(given: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        AbiConfig.load(None, {"output_dir": tmp_path, "engine": given})
    assert sentence in str(error.value)


def test_ranks_without_a_launcher() -> None:
    with (
        pytest.raises(UsageError, match="`engine=mpi` needs several ranks: start the command by mpirun"),
        Workers(2, "mpi"),
    ):
        pass


def test_reading_options_imports_neither_numpy_nor_the_engine() -> None:
    code = (
        "import sys; from cube.engine_choice import choose_engine;"
        "choose_engine('dask cores=2 cluster=slurm memory=1GB');"
        "print([m for m in ('numpy', 'dask', 'distributed', 'mpi4py') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
