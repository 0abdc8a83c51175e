"""Tables of cloud systems without any scan, a pair a file: all there are, or those within limits."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cube.strata.base import Problem, SampleRequest
from cube.strata.convection import Chosen, ConvectionSampler, balanced
from cube.strata.labels import Ints
from cube.strata.masks import MaskFile, find_masks, survey_mask
from cube.strata.stages import SystemFilter
from cube.strata.table import SystemTable, write_csv
from stratacube.errors import UsageError

__all__ = ["write_tables_alone"]

Written = tuple[list[Path], Problem | None]


def write_tables_alone(
    options: Any, request: SampleRequest, latitudes: tuple[float, float] | None, directory: Path
) -> tuple[list[Path], list[Problem]]:
    """Write the metadata and lifetimes of each file of systems by itself, as SatVision-Pix4D's reader does.

    Without a limit each file is read alone, and so are its systems' lifetimes. With one, systems are judged by all
    files together, as a build does it, and lifetimes are whole.

    Parameters
    ----------
    options : ConvectionOptions
        Of which systems, and ``files``, a glob or a folder. Every record counts where ``systems`` is not set.
    request : SampleRequest
        Period, number of records, seed, and an executor that does a file a task.
    latitudes : tuple of float, optional
        Southern and northern bound of records' anchors, degrees, inclusive.
    directory : Path
        Where ``{stem}_metadata.csv``, one row a system and time, and ``{stem}_lifetimes.csv`` go.

    Returns
    -------
    paths : list of Path
        What was written.
    problems : list of Problem
        The files that could not be used, and why.

    Raises
    ------
    UsageError
        If nothing matches, two files have one name, or no record is within the limits.
    """
    files, problems = find_masks(options.files)
    stems = [Path(file.path).stem for file in files]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1}) if len(set(stems)) < len(stems) else []
    if twice:
        raise UsageError(
            f'"{options.files}" matches several files called {twice[0]}: give one folder of them at a time.'
        )
    if request.executor is None:
        raise AssertionError("tables are written by an executor")
    records = options.systems if "systems" in options.model_fields_set else "all"
    limited = (records != "all", SystemFilter(**options.arguments()["limits"]), request.start, request.end, latitudes)
    if any(limited) or request.num_tiles is not None:
        sampler = ConvectionSampler(request, **{**options.arguments(), "records": records})
        problems, parts = sampler.problems, _parts(sampler.table, _chosen(sampler, latitudes))
        results = request.executor.map(partial(_write_chosen, directory), parts)
    else:
        results = request.executor.map(partial(_write_all, directory), files)
    paths: list[Path] = []
    for written, problem in results:
        paths += written
        problems += [problem] if problem else []
    return paths, problems


def _chosen(sampler: ConvectionSampler, latitudes: tuple[float, float] | None) -> Chosen:
    """Records within the limits: of them as many as are asked for, those of a smaller number among them."""
    chosen = sampler.told_by_masks()
    if latitudes:
        south, north = latitudes
        keep = (chosen.steps.latitude >= south) & (chosen.steps.latitude <= north)
        chosen = sampler.some(chosen.take(keep), f"in the latitudes {south:g} to {north:g}")
    draw = np.random.default_rng(sampler.request.seed)
    if sampler.records == "balanced":
        chosen = balanced(chosen, draw)
    return chosen.take(draw.permutation(len(chosen.steps))[: sampler.request.num_tiles])


class _Part:
    """What is to be told of one file: some of its records, and the lives of their systems."""

    def __init__(self, file: MaskFile, system: Ints, time: npt.NDArray[np.datetime64], lives: pd.DataFrame) -> None:
        self.file, self.wanted, self.lives = file, pd.MultiIndex.from_arrays([system, time]), lives


def _parts(table: SystemTable, chosen: Chosen) -> Iterator[_Part]:
    lives = table.lifetimes()
    for file, first, last in table.files:
        mine = chosen.take((chosen.steps.time >= first) & (chosen.steps.time <= last))
        yield _Part(file, mine.steps.system_id, mine.steps.time, lives.iloc[np.unique(mine.system)])


def _write_chosen(directory: Path, part: _Part) -> Written:
    survey, stem = survey_mask(part.file), Path(part.file.path).stem
    if survey.problem or survey.steps is None:
        return [], survey.problem
    keep = pd.MultiIndex.from_arrays([survey.steps.system_id, survey.steps.time]).isin(part.wanted)
    steps = survey.steps.take(keep)
    table = SystemTable.of(survey.grid, [steps], survey.times, survey.names)
    lives = part.lives[part.lives["system_id"].isin(steps.system_id)]
    return [
        table.write_metadata_csv(directory, "all", f"{stem}_metadata.csv"),
        write_csv([lives], directory / f"{stem}_lifetimes.csv"),
    ], None


def _write_all(directory: Path, file: MaskFile) -> Written:
    survey, stem = survey_mask(file), Path(file.path).stem
    if survey.problem or survey.steps is None:
        return [], survey.problem
    table = SystemTable.of(survey.grid, [survey.steps], survey.times, survey.names)
    return [
        table.write_metadata_csv(directory, "all", f"{stem}_metadata.csv"),
        table.write_lifetimes_csv(directory, f"{stem}_lifetimes.csv"),
    ], None
