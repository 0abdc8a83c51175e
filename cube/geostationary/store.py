"""The store of a build of tiles: its template, written first, and what its tasks found in headers, gathered last."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from catalog.publish.public import shown
from cube.config import AbiConfig
from cube.geostationary.folder import AbiFolder
from cube.geostationary.layout import TileLayout
from cube.geostationary.numbers import gather, gathered_names
from cube.geostationary.plan_table import PlanTable
from cube.geostationary.projections import Views
from cube.geostationary.template import create_tile_store, describe_packings, fills_of
from cube.geostationary.tiles import shard_key
from cube.job.folder import FORMAT
from cube.job.run import Run
from cube.job.store import enlarge_store, write_region
from cube.plug import imported_of_plug
from cube.registry import STRATA
from cube.strata.labelling import Labeller, PlannedTiles
from stratacube.files import write_text

__all__ = ["TileStore"]


@dataclass(frozen=True)
class TileStore:
    """The tile store of a build."""

    config: AbiConfig
    folder: AbiFolder
    layout: TileLayout
    table: PlanTable

    def fills(self) -> dict[int, int]:
        """Fill value of each channel."""
        return fills_of(self.layout, self.folder.tiles)

    def describe(self, run: Run) -> bool:
        """Write the store's template, unless it is there as it was written.

        Returns
        -------
        bool
            Whether it was there.
        """
        store = self.folder.tiles
        of_old = (store / "packing_scale" / "zarr.json").exists()  # 0.1.0 recorded no arrays
        known = "arrays" in run.ledger.entries
        enlarged = known and bool(self.table.grown) and enlarge_store(store, self.layout.images, self.table.tiles)
        if known and not enlarged and run.holds(["arrays"]):
            return True
        run.clear(["arrays"])
        attributes = {
            "title": f"{self.config.dialect.names.title} tiles, {self.config.stratification}",
            "stratacube_version": importlib.metadata.version("stratacube"),
            "stratacube_format": FORMAT,
            "config": yaml.safe_dump(shown(self.config.described()), sort_keys=False),
            "config_hash": self.config.digest(),
            "source": self.config.dialect.source,
            **({"time_means": self.table.time_means} if self.table.time_means else {}),
            "grid": self.config.grid,
            **({"store": self.config.store} if self.layout.is_view else {}),
            "tile_size": self.config.tile_size,
        }
        views = Views(self.table.projections, self.config.dialect.grid_mapping)

        def make() -> None:
            labels = [*self._labels()]
            arrays = {name: spec for label in labels for name, spec in label.arrays().items()}
            create_tile_store(store, self.layout, self.table, views, attributes, self.config.codec, arrays)
            for label in labels:
                for name, start, values in label.values():
                    write_region(store, name, start, values)

        run.keep("arrays", make, self._template, anew=True)
        return of_old and not known

    def _labels(self) -> Iterator[Labeller]:
        """What the strata say of the tiles, if anything."""
        tiles = PlannedTiles(
            self.table.tiles,
            self.table.blocks,
            self.table.projections,
            self.layout.tile_size,
            self.layout.pixel,
            self.layout.full_disk,
        )
        for part in self.config.parts:
            if part.stratum.labels:
                with STRATA.blamed(part.name):
                    made: Labeller = imported_of_plug(part.stratum.labels)(tiles, **part.options.arguments())
                yield made

    def _template(self) -> Iterator[Path]:
        """Descriptions of all arrays, and those that hold what the plan tells."""
        store = self.folder.tiles
        images = self.layout.images
        yield store / "zarr.json"
        for array in sorted(p for p in store.iterdir() if p.is_dir()):
            yield array / "zarr.json" if array.name in images or array.name in self._gathered else array

    @cached_property
    def _gathered(self) -> list[str]:
        return gathered_names(self.layout)

    def gather(self, run: Run, *, anew: bool) -> None:
        """Put what the tasks found in headers into the store's arrays, and say where one packing serves a band.

        Parameters
        ----------
        run
            Whose tasks are done.
        anew
            In any case, else only where the arrays hold something other than what the tasks wrote.
        """
        keys = [shard_key(n) for n in self.table.shard_numbers]
        written = (f for _, files in run.ledger.files_of(keys) for f in files or ())
        found = sorted(f"{f.path} {f.digest}" for f in written if f.path.startswith(self.folder.numbers.name))
        digest = hashlib.sha256("\n".join(found).encode()).hexdigest()
        mark = self.folder.gathered

        def make() -> None:
            packings = gather(self.folder.tiles, self.table, self.layout, self.folder.numbers_of)
            describe_packings(self.folder.tiles, self.layout, packings)
            write_text(mark, digest)

        def parts() -> Iterator[Path]:
            yield from (c for n in self._gathered if (c := self.folder.tiles / n / "c").exists())
            yield mark

        stale = anew or not mark.exists() or mark.read_text() != digest
        if run.keep("numbers", make, parts, anew=stale):
            run.keep("arrays", lambda: None, self._template, anew=True)
