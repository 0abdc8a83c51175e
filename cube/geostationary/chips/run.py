"""Taking chips into a store."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr

from cube.config import default_workers
from cube.geostationary.chips.config import ImportConfig
from cube.geostationary.chips.forms import image_of, pixels_of, read_members, told_members
from cube.geostationary.chips.packing import Packing, distinct, packing_of
from cube.geostationary.chips.store import ChipLayout, create, row_of, write_chips
from cube.geostationary.chips.zarr_tiles import told_of_tile
from cube.job.folder import BuildFolder
from cube.job.job import run_job
from cube.job.ledger import Entry, Ledger, Problem
from cube.job.run import Run
from cube.job.source import Manner, Planned
from stratacube.choices import many
from stratacube.command import Answer
from stratacube.errors import SourceError, UsageError
from stratacube.files import write_json
from stratacube.parquet import read_frame, write_frame

__all__ = ["CHIPS", "ChipFolder", "run_import"]


@dataclass(frozen=True)
class ChipFolder(BuildFolder):
    """The folder of a store of chips."""

    SOURCE = "chips"
    PARTS = (*BuildFolder.PARTS, "chips.zarr", "chips.parquet", "packing.json", "rows")

    @property
    def store(self) -> Path:
        """The chips."""
        return self.root / "chips.zarr"

    @property
    def table(self) -> Path:
        """Their names, and what they hold of text."""
        return self.root / "chips.parquet"

    @property
    def packing(self) -> Path:
        """By band that is stored as counts, its packing."""
        return self.root / "packing.json"

    def rows_of(self, number: int) -> Path:
        """The rows of one task."""
        return self.root / "rows" / f"{number:06d}.parquet"


@dataclass(frozen=True)
class _Task:
    """Some chips that follow one another."""

    number: int
    first: int
    files: tuple[str, ...]
    layout: ChipLayout
    folder: ChipFolder

    @property
    def key(self) -> str:
        """Name in the ledger."""
        return f"chips-{self.number:06d}"


def _take(task: _Task) -> None:
    """Read some chips, and write them; a file that has changed since it was listed is an error."""
    chips, tiles = [], []
    for name in task.files:
        form, _ = told_members(Path(name))
        chips.append((form, read_members(Path(name))))
        tiles.append(told_of_tile(Path(name)) if Path(name).is_dir() else "")
    write_chips(task.folder.store, task.layout, task.first, chips)
    rows = [
        {"tile": task.first + i, "name": Path(name).name, **row_of(*chip), "zarr": tile}
        for i, (name, chip, tile) in enumerate(zip(task.files, chips, tiles, strict=True))
    ]
    task.folder.rows_of(task.number).parent.mkdir(exist_ok=True)
    write_frame(task.folder.rows_of(task.number), pd.DataFrame(rows))


@dataclass(frozen=True)
class _Look:
    """Some chips whose values are looked at."""

    key: str
    files: tuple[str, ...]


def _look(task: _Look) -> dict[str, npt.NDArray[np.float32] | None]:
    """The values that each band of some chips has; None where it has values that cannot be packed."""
    found: dict[str, npt.NDArray[np.float32] | None] = {}
    for path in task.files:
        form, _ = told_members(Path(path))
        members = read_members(Path(path))
        image = image_of(form, members[pixels_of(form, members)])
        for place in range(image.shape[1]):
            band = f"C{place + 1:02d}"
            found[band] = _both(found.get(band, _NOTHING), distinct(image[:, place]))
    return found


def _both(one: npt.NDArray[np.float32] | None, other: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32] | None:
    return None if one is None or other is None else distinct(np.concatenate([one, other]))


_NOTHING = np.empty(0, "f4")


class _Import:
    """An import, as the job runs it; see :class:`cube.job.source.Source`."""

    modules: Sequence[str] = (__name__,)
    problem_columns = {"kind": "kind", "reason": "reason", "product": "chip"}  # noqa: RUF012  (a constant of the class)

    def __init__(self, config: ImportConfig) -> None:
        self.config, self.folder = config, ChipFolder(config.output_dir)
        self.manner = Manner(workers=config.workers or default_workers(), overwrite=config.overwrite)

    def described(self) -> dict[str, Any]:
        """What determines the store."""
        return self.config.described()

    def digest(self) -> str:
        """Hash of that."""
        return self.config.digest()

    def estimate(self) -> Iterator[tuple[str, str]]:
        """Say what would be read."""
        yield "read", many(len(_found(self.config.chips)), "chip")

    def find(self, run: Run) -> None:
        """Nothing is listed but what the plan lists."""

    def plan(self, run: Run) -> Planned:
        """List the chips that can be read, and those that cannot."""

        def make() -> None:
            rows = []
            for path in _found(self.config.chips):
                try:
                    told_members(path)
                    rows.append({"path": str(path), "problem": ""})
                except SourceError as error:
                    rows.append({"path": str(path), "problem": str(error)})
            if all(row["problem"] for row in rows):
                raise UsageError(f"none of {many(len(rows), 'file')} is a chip: {rows[0]['problem']}")
            write_frame(self.folder.plan, pd.DataFrame(rows))

        run.keep("plan", make, lambda: [self.folder.plan], mark=self.folder.plan, fixed=True)
        return Planned(len(self._tasks), f"{many(len(self._files), 'chip')} in {many(len(self._tasks), 'task')}")

    @cached_property
    def _files(self) -> list[str]:
        plan = read_frame(self.folder.plan)
        return list(plan.loc[plan["problem"] == "", "path"])

    @cached_property
    def _layout(self) -> ChipLayout:
        return ChipLayout.of(told_members(Path(name)) for name in self._files)

    @cached_property
    def _tasks(self) -> list[_Task]:
        layout = self._layout
        step = layout.at_once
        return [
            _Task(number, first, tuple(self._files[first : first + step]), layout, self.folder)
            for number, first in enumerate(range(0, len(self._files), step))
        ]

    def build(self, run: Run) -> None:
        """Take every chip that is not there yet."""
        layout = replace(self._layout, packings=self._packings(run))
        run.keep(
            "arrays",
            lambda: create(self.folder.store, layout, self.config.codec),
            lambda: [self.folder.store / "zarr.json", *(self.folder.store / n / "zarr.json" for n in layout.arrays())],
        )
        done = run.done(task.key for task in self._tasks)
        tasks = [replace(task, layout=layout) for task in self._tasks if task.key not in done]
        for outcome in run.do(tasks, _take, "taking chips"):
            problems = [Problem("product", outcome.error, ", ".join(outcome.task.files))] if outcome.error else []
            run.record(outcome.task.key, "failed" if problems else "done", problems, files=outcome.written)

    def _packings(self, run: Run) -> dict[str, Packing]:
        """The packings of the bands that have one for all chips, looked for once."""
        if "arrays" in run.ledger.entries and "packing" not in run.ledger.entries:
            return {}  # begun before there were any

        def make() -> None:
            looks = [_Look(f"look-{task.number:06d}", task.files) for task in self._tasks]
            values: dict[str, npt.NDArray[np.float32] | None] = dict.fromkeys(self._layout.bands, _NOTHING)
            for outcome in run.do(looks if self._layout.kind == "<f4" else [], _look, "looking at values"):
                if outcome.result is not None:  # of what cannot be read, taking it tells
                    values = {band: _both(some, outcome.result[band]) for band, some in values.items()}
            found = {band: packing_of(some) for band, some in values.items() if some is not None}
            write_json(self.folder.packing, {band: told for band, told in found.items() if told is not None})

        run.keep("packing", make, lambda: [self.folder.packing], mark=self.folder.packing)
        return {band: Packing(*told) for band, told in json.loads(self.folder.packing.read_text()).items()}

    def problems(self, run: Run) -> Iterator[Problem]:
        """Files that are no chips."""
        for row in read_frame(self.folder.plan).itertuples():
            if row.problem:
                yield Problem("source", row.problem, Path(row.path).name)

    def publish(self, run: Run, problems: Sequence[Problem]) -> None:
        """Put the tables of the tasks together, and say what the store is."""

        def make() -> None:
            parts = [self.folder.rows_of(task.number) for task in self._tasks]
            write_frame(self.folder.table, pd.concat([read_frame(p) for p in parts if p.exists()], ignore_index=True))
            write_json(
                self.folder.catalog,
                {
                    "type": "Catalog",
                    "stac_version": "1.1.0",
                    "id": "chips",
                    "description": f"{many(len(self._files), 'chip')} of SatVision-Pix4D in {self.folder.store.name}.",
                    "links": [],
                },
            )

        run.keep("publish", make, lambda: [self.folder.table, self.folder.catalog], anew=run.changed)


def _found(pattern: str) -> list[Path]:
    paths = sorted(Path(p) for p in glob.glob(pattern, recursive=True))
    chips = [p for p in paths if p.suffix in (".npz", ".zarr")]
    if not chips:
        raise UsageError(f'no chip matches "{pattern}": give a glob of .npz files or .zarr folders')
    return chips


class _Chips:
    """Stores of chips, as they are looked at."""

    folder, tasks = ChipFolder, "chips-"

    def title(self, config: Mapping[str, Any]) -> str:
        """Say what a configuration makes."""
        return f"chips of {config['chips']}"

    def planned(self, folder: BuildFolder) -> Planned:
        """Read what was planned."""
        number = int((read_frame(folder.plan)["problem"] == "").sum())
        return Planned(number, many(number, "chip"))

    def faults(self, folder: BuildFolder, config: Mapping[str, Any], ledger: Ledger) -> Iterator[str]:
        """Every chip's name has its row, and every band as many chips."""
        there = ChipFolder(folder.root)
        if not there.table.exists():
            return
        rows = len(read_frame(there.table))
        for name, array in zarr.open_group(there.store, mode="r").arrays():
            if array.shape[0] != rows:
                yield f"{there.store}/{name} has {array.shape[0]} chips, and {there.table} has {rows}"

    def expected(self, folder: BuildFolder, config: Mapping[str, Any], entry: Entry) -> Iterator[str]:
        """There are none of 0.1.0."""
        return iter(())


CHIPS = _Chips()


def run_import(config: ImportConfig) -> Answer:
    """Take chips into one store.

    Raises
    ------
    UsageError
        If there are none, or they differ in size.
    """
    return run_job(_Import(config))
