"""Cubes of archives made and appended to on engines are the same to the bit as those made in one process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import cube
from cube.build import main
from cube.job.engine import InlineExecutor
from cube.testing import write_abi_archive
from stratacube.errors import UsageError
from tests.job.test_ranks import mpirun, needs_mpirun

SMALL: dict[str, Any] = {"channels": (13,), "shape_2km": (130, 130), "workers": 1, "hours": 0.2}
MONTHS = datetime(2020, 6, 30, 16), datetime(2020, 7, 1, 16)


class Counting(InlineExecutor):
    """Does what it is given at once, and counts it."""

    tasks = 0

    def submit(self, *call: Any, **words: Any) -> Future[Any]:
        self.tasks += 1
        return super().submit(*call, **words)


def halves(root: Path) -> list[Path]:
    """An archive of one month, and what comes to it later."""
    made = [root / "archive", root / "later"]
    for folder, start in zip(made, MONTHS, strict=True):
        write_abi_archive(folder, start=start, **SMALL)
    return made


def content(folder: Path) -> dict[str, bytes]:
    """All files by their names, but those of the claim."""
    paths = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def grown(archive: Path, later: Path, folder: Path, **engine: Any) -> tuple[int, int]:
    """A cube made and appended to; how many files each brought."""
    cache = folder.parent / f"index-{folder.name}"
    made = cube.make_cube(archive, folder, cache=cache, **engine).added
    shutil.copytree(later, archive, dirs_exist_ok=True)
    return made, cube.append_cube(folder, cache=cache, **engine).added


def test_files_of_a_cube_are_indexed_by_the_engine_that_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, later = halves(tmp_path)
    shutil.copytree(archive, tmp_path / "fresh")
    executor = Counting()
    assert grown(archive, later, tmp_path / "engine", engine=executor, workers=3) == (2, 2)
    assert executor.tasks == 4
    archive.rename(tmp_path / "whole")
    (tmp_path / "fresh").rename(archive)  # the same addresses for the other cube
    assert grown(archive, later, tmp_path / "here") == (2, 2)
    assert content(tmp_path / "engine") == content(tmp_path / "here")
    for command in (["make", str(archive), str(tmp_path / "new")], ["append", str(tmp_path / "here")]):
        assert main(["cube", *command, "--engine", "dsk"]) == 2
        assert "--engine is dsk; give local, dask or mpi (did you mean dask?)" in capsys.readouterr().err
    with pytest.raises(UsageError, match="dsk"):
        cube.append_cube(tmp_path / "here", engine="dsk")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("engine", ["local", "dask", pytest.param("mpi", marks=needs_mpirun)])
def test_the_commands_make_the_same_cube_on_real_engines(tmp_path: Path, engine: str) -> None:
    archive, later = halves(tmp_path)
    shutil.copytree(archive, tmp_path / "fresh")
    folder = tmp_path / "engine"
    for words in (["make", str(archive), str(folder)], ["append", str(folder)]):
        words += ["--cache", str(tmp_path / "index")]
        if engine == "mpi":
            done = mpirun(3, "-m", "stratacube", "cube", *words)
        else:
            more = ["--engine", engine, "--workers", "2"]
            command = [sys.executable, "-m", "stratacube", "cube", *words, *more]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("2 files added") == 1
        shutil.copytree(later, archive, dirs_exist_ok=True)
    archive.rename(tmp_path / "whole")
    (tmp_path / "fresh").rename(archive)
    assert grown(archive, later, tmp_path / "here") == (2, 2)
    assert content(folder) == content(tmp_path / "here")
