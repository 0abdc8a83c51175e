"""A build of Sentinel-2 composites, as the job runs it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from catalog.sentinel2.items import Product
from catalog.sentinel2.lists import write_scene_files, write_scene_index
from catalog.sentinel2.select import Dropped, refuse_lacking
from cube.config import default_workers
from cube.job.job import run_job
from cube.job.ledger import Problem
from cube.job.parts import Part
from cube.job.ranks import refuse_ranks
from cube.job.run import Run
from cube.job.source import Manner, Planned
from cube.sentinel2.arrays import describe_arrays, told_digest
from cube.sentinel2.composite import CellResult
from cube.sentinel2.config import GridConfig, Sentinel2Config
from cube.sentinel2.estimate import estimate
from cube.sentinel2.extend import extend, products_of
from cube.sentinel2.extension import searched_until
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.grid import PANARCTIC, Cell, make_grid, write_grid
from cube.sentinel2.grid_presets import grid_of_preset
from cube.sentinel2.layers import layers_of, refuse_reducers
from cube.sentinel2.limits import refuse_other_file
from cube.sentinel2.lists import write_phase1_errors, write_phase2_errors, write_selected
from cube.sentinel2.making import MODULES, Making, cell_key, make_again, shard_key
from cube.sentinel2.plan import (
    Plan,
    PlannedCell,
    cells_gaining,
    cells_of_tile,
    choose_cells,
    make_plan,
    plan_frame,
    plan_words,
    refuse_other_cells,
    write_plan,
)
from cube.sentinel2.products import Shard, ZarrLayout
from cube.sentinel2.publish import publish
from cube.sentinel2.record import SceneRecord
from cube.sentinel2.splitting import split_words, splits_of, splits_of_cells
from cube.sentinel2.supply import find, with_mended, write_lists, write_unread
from stratacube.choices import many
from stratacube.claim import claimed
from stratacube.command import Answer
from stratacube.errors import StratacubeError, UsageError
from stratacube.files import remove

__all__ = ["Sentinel2Build", "run_make_grid", "run_sentinel2"]


def run_make_grid(config: GridConfig) -> Answer:
    """Write a grid of cells.

    Raises
    ------
    UsageError
        If the bounds are no whole number of cells, the CRS is unknown, or the file cannot be written, or is there and
        not a grid.
    """
    refuse_ranks()
    refuse_other_file(config.output)
    if config.preset is not None:
        frame = grid_of_preset(config.preset, config.cell_size, config.bbox)
    else:
        xmin, ymin, xmax, ymax = config.bounds or PANARCTIC
        frame = make_grid(config.cell_size or 0.25, (xmin, ymin, xmax, ymax), config.crs or "EPSG:4326")
    output = config.output
    with claimed(output.parent, output.with_name(f".{output.name}.claim"), told=output):
        write_grid(frame, output)
    return Answer(
        0, [f"{many(len(frame), 'cell')}: {config.output}"], {"cells": len(frame), "output": str(config.output)}
    )


def run_sentinel2(config: Sentinel2Config, products: Sequence[Product] | None = None) -> Answer:
    """Run all of a build that is not yet done.

    Parameters
    ----------
    config
        What to make.
    products
        Products to choose from instead of a search.

    Returns
    -------
    Answer
        Code 0 if every product was made whole, 1 if something is missing from them; ``errors.csv`` says what.

    Raises
    ------
    StratacubeError
        If the build cannot be made at all.
    """
    return run_job(Sentinel2Build(config, products), dry_run=config.dry_run)


class Sentinel2Build:
    """What is Sentinel-2's in the five steps; see :class:`cube.job.source.Source`.

    Parameters
    ----------
    config
        What to make.
    products
        Products to choose from instead of a search.
    """

    modules: Sequence[str] = MODULES
    problem_columns = {  # noqa: RUF012  (a constant of the class)
        "kind": "kind",
        "reason": "reason",
        "product": "cell",
        "input": "product",
        "href": "href",
    }

    def __init__(self, config: Sentinel2Config, products: Sequence[Product] | None = None) -> None:
        self.config, self.given = config, products
        self.folder = Sentinel2Folder(config.work_dir, imagery=config.imagery_dir)
        self.manner = Manner(
            engine=config.engine,
            workers=config.workers or default_workers(),
            retries=config.retries,
            task_minutes=config.task_minutes,
            overwrite=config.overwrite,
            plan_only=config.plan_only,
            shard=config.shard,
            publish_only=config.publish_only,
        )
        refuse_reducers(config.reducer, config.also)
        self.cells: list[Cell] = choose_cells(config)
        self.found: tuple[Product, ...] = ()
        self.faults: tuple[Dropped, ...] = ()
        self.mended: frozenset[str] = frozenset()

    def described(self) -> dict[str, Any]:
        """What determines the composites."""
        return self.config.described()

    def digest(self) -> str:
        """Hash of that."""
        return self.config.digest()

    def estimate(self) -> Iterator[tuple[str, str]]:
        """Say what would be read and written."""
        found = products_of(self.config, self.folder, self.cells, self.given)
        plan = make_plan(self.config, self.cells, found)
        return estimate(self.config, plan, self.folder.archive, self.manner.workers)

    def find(self, run: Run) -> None:
        """Search for products, or list a folder of them; a run can be replayed from the list."""

        def search() -> None:
            sources = find(self.config, self.folder, self.cells, self.given)
            self.found, self.faults = sources.products, sources.faults

        def parts() -> list[Path]:
            return [p for p in (self.folder.items,) if p.exists()]

        since = searched_until(run.ledger)
        if self.given is None and since is not None and since < self.config.end:
            extend(run, self.config, self.folder, self.cells, since)
        made = run.keep("find", search, parts, mark=self.folder.items, fixed=True)
        if self.given is None:
            folder, unread = self.folder, self.faults if made else None
            run.keep("unread", lambda: write_unread(self.config, folder, self.cells, unread), lambda: [folder.unread])
        if self.given is None or not made:
            search()  # from the list, though it was just made: products must not depend on which run found them
        run.keep(
            "lists",
            lambda: write_lists(self.config, self.folder, self.cells, self.given),
            lambda: [p for p in (self.folder.manifest, self.folder.left_out) if p.exists()],
            mark=self.folder.left_out,
        )
        if self.given is None:
            sources, self.mended = with_mended(self.config, self.folder, self.cells, self.found)
            self.found, self.faults = sources.products, sources.faults
        if not self.folder.scene_index.exists():
            self._index_scenes(run)
        run.say("%d products, those left out are in %s", len(self.found), self.folder.left_out)

    def plan(self, run: Run) -> Planned:
        """Lay the cells on the lattice, and find what reaches each."""
        refuse_lacking(self.found, [key for _, key in self.config.asset_keys()])
        frame = plan_frame(self.planned)
        longer = self.folder.plan.exists() and refuse_other_cells(frame, self.folder.plan)
        gained = self._make_again(run) or longer

        def write() -> None:
            splits = splits_of(self.config, self.planned)
            write_selected(self.folder.selected, self.planned, splits_of_cells(self.planned, splits))
            write_plan(frame.assign(split=frame["cell"].map(splits)) if splits else frame, self.folder.plan)
            for line in split_words(self.config, self.planned, splits):
                run.say("%s", line)

        run.keep(
            "plan",
            write,
            lambda: [self.folder.plan, self.folder.selected],
            anew=gained,
        )
        run.say(
            "planned %s from %d acquisitions: %s",
            plan_words(frame),
            len(self.planned.acquisitions),
            self.folder.plan,
        )
        return Planned(len(self.planned.cells), plan_words(frame))

    def _make_again(self, run: Run) -> bool:
        """Have the cells made once more that gain a product: it can be read by now, or the period has grown."""
        extended = searched_until(run.ledger) is not None
        wanted = {p.id for p in self.found} if extended else self.mended
        gained = {}
        if wanted and self.folder.plan.exists():
            gained = cells_gaining(self.planned, wanted, self.folder.plan)
        for cell, names in gained.items():
            why = "can be read by now" if self.mended.issuperset(names) else "came with a later `end`"
            make_again(run, cell, f"{', '.join(names)} {why}, and is not in it yet")
        return bool(gained)

    def _index_scenes(self, run: Run) -> None:
        record = SceneRecord(run.ledger, self.folder.archive)
        of = self.found, self.folder.archive, record.told
        write_scene_files(self.folder.scene_files, *of)
        write_scene_index(self.folder.scene_index, *of, self.config.bands_res)

    @cached_property
    def planned(self) -> Plan:
        """What to make, once the products are found."""
        return make_plan(self.config, self.cells, self.found)

    @cached_property
    def layout(self) -> ZarrLayout:
        """Of the Zarr store."""
        return ZarrLayout.of([p.window for p in self.planned.cells])

    def _shards_of(self, planned: PlannedCell) -> list[Shard]:
        return self.layout.shards_of(planned.window, planned.step)

    @property
    def _to_store(self) -> bool:
        return self.config.one_store

    def describe(self, run: Run) -> None:
        """Write the metadata and coordinates of the Zarr store, where there is one."""
        if self._to_store:
            describe_arrays(run, self.config, self.folder, self.planned, self.layout)

    def build(self, run: Run) -> None:
        """Make every cell that the ledger does not know as done, as many at a time as tmp has room for."""
        self.describe(run)
        to_do = self._to_do(run, self.planned.cells)
        making = Making(self.config, self.folder, self.planned, self.layout, run)
        for turn in making.turns(to_do):
            making.make(turn)
            if not self.config.keep_tmp:
                remove(self.folder.scenes)
        failed = any(e.status == "failed" for e in run.ledger.entries.values())
        if not self.config.keep_tmp and not failed:
            remove(self.folder.tmp)
        empty = sorted(cell for cell, result in self.results(run) if result.valid_share == 0) if to_do else []
        if empty:
            run.say(
                "%d cells hold no pixel valid in all bands, such as %s; their products say so", len(empty), empty[0]
            )

    def build_part(self, run: Run, part: Part) -> str:
        """Make a part's share of the cells: the scenes that reach them in a folder of its own.

        Of the Zarr store a job writes the shards that hold its own cells alone. Cells that share one with other jobs'
        are kept in tmp; whoever publishes puts them in.
        """
        if self._to_store:
            run.require("arrays", self.folder.store)
        if not self.folder.holds(self.digest()):
            raise UsageError(
                f"{self.folder.root} is planned until {self.folder.known_until()}, not {self.config.end}; run the "
                "same command with `plan_only` instead of `shard` first"
            )
        if self.given is None:
            run.require("find", self.folder.items)
        sources = find(self.config, self.folder, self.cells, self.given)
        self.found, self.faults = sources.products, sources.faults
        refuse_other_cells(plan_frame(self.planned), self.folder.plan)
        mine = part.share(self.planned.cells)
        names = {p.name for p in mine}
        others = [p for p in self.planned.cells if p.name not in names]
        foreign = {i for p in others for i in self._shards_of(p)} if self._to_store else set()
        folder = replace(self.folder, job=part.name)
        making = Making(self.config, folder, self.planned, self.layout, run, foreign)
        for turn in making.turns(self._to_do(run, mine, foreign)):
            making.make(turn)
            if not self.config.keep_tmp:
                remove(folder.scenes)
        return many(len(mine), "cell")

    def _to_do(
        self, run: Run, cells: Sequence[PlannedCell], foreign: Container[Shard] = frozenset()
    ) -> list[PlannedCell]:
        """Cells that were not made, or of whose products something is not as it was written."""
        keys = {cell_key(p.name): p for p in cells}
        done = run.done(keys, self.manner.standing)
        lost: set[Shard] = set()
        if self._to_store:
            shards = {p.name: self._shards_of(p) for p in cells}
            kept = [k for k, p in keys.items() if any(i in foreign for i in shards[p.name])]
            done |= run.done(kept, ("begun", *self.manner.standing))
            own = {i for found in shards.values() for i in found if i not in foreign}
            whole = run.done(shard_key(i) for i in own)
            lost = {i for i in own if shard_key(i) not in whole}
            self._clear(lost)
        if self.manner.publish_only:
            return self._begun(run, cells, lost)
        return [p for key, p in keys.items() if key not in done or (lost and not lost.isdisjoint(self._shards_of(p)))]

    def _begun(self, run: Run, cells: Sequence[PlannedCell], lost: set[Shard]) -> list[PlannedCell]:
        """Cells that lack nothing but their place in the store, where all that is lost of it is theirs."""
        entries = run.ledger.entries
        of_status = {p.name: entries[cell_key(p.name)].status for p in cells}
        for p in cells:
            if of_status[p.name] in ("begun", "failed"):
                lost = lost.difference(self._shards_of(p))
        if lost:
            raise StratacubeError(
                f"of {self.folder.store}, {many(len(lost), 'shard')} of cells that are done are missing "
                f"({shard_key(min(lost))} is one); run the build's command to make them"
            )
        return [p for p in cells if of_status[p.name] == "begun"]

    def _clear(self, shards: Iterable[Shard]) -> None:
        """Remove what lies there of shards that the ledger does not know as done: half of one may be lost.

        All cells in them are made anew. Shards are read before cells are put into them.
        """
        names = (*self.config.bands, "count", *layers_of(self.config.also, self.config.months_seen()))
        arrays = [a for a in (self.folder.store / n for n in names) if (a / "c").exists()]
        for array, index in product(arrays, shards):
            remove(array.joinpath("c", *map(str, index)))

    def results(self, run: Run) -> Iterator[tuple[str, CellResult]]:
        """Yield what each finished cell holds."""
        for planned in self.planned.cells:
            entry = run.ledger.entries.get(cell_key(planned.name))
            if entry is not None and entry.status in ("done", "partial"):
                yield planned.name, CellResult.load(self.folder.result(planned.name))

    def problems(self, run: Run) -> Iterator[Problem]:
        """What could not be read when it was found, for each cell that its tile reaches."""
        for fault in self.faults:
            cells = cells_of_tile(self.planned, fault.id)
            for cell in cells:
                yield Problem("source", fault.reason, cell, fault.id, href=fault.href)

    def publish(self, run: Run, problems: Sequence[Problem]) -> None:
        """Draw and describe the composites."""
        write_phase1_errors(self.folder.phase1_errors, problems)
        write_phase2_errors(self.folder.phase2_errors, problems, self.planned, self.config.bands)
        laps = {step: run.seconds(step) or 0.0 for step in ("find", "plan", "arrays")}
        cells = (entry.figures for key, entry in run.ledger.entries.items() if key.startswith("cell "))
        laps["cells"] = sum(figures.get("seconds", 0.0) for figures in cells)
        run.keep(
            "scenes",
            lambda: self._index_scenes(run),
            lambda: [self.folder.scene_index, self.folder.scene_files],
            anew=run.changed,
        )

        marked = SceneRecord(run.ledger, self.folder.archive).marked()

        def parts() -> list[Path]:
            previews = sorted(self.folder.composites.glob("*/preview*.png"))
            return [*(p for p in self.folder.published if p.exists()), *previews]

        run.keep(
            "publish",
            lambda: publish(
                self.config, self.folder, self.planned, dict(self.results(run)), problems, laps, marked, run
            ),
            parts,
            mark=self.folder.catalog,
            anew=run.changed or told_digest(self.folder.root / "collection.json", "id") != f"sentinel2-{self.digest()}",
        )
