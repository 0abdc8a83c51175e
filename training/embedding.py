"""From a trained model and a source to a folder of features: resumable, in the memory of one row of windows."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

import numpy as np

from catalog.publish.public import link_to, without_folders
from cube.engine_choice import EngineChoice
from cube.job.engine import Workers, run_tasks
from loaders.device import device_of
from stratacube.claim import claimed
from stratacube.errors import StratacubeError
from stratacube.files import remove
from training.embed_asked import Asked, statistics_of
from training.embed_sources import FeatureSource
from training.feature_store import FeatureStore
from training.features import Grid, Strip, strips
from training.folders import refuse_foreign
from training.models import MaskedAutoencoder
from training.neighbours import draw_map
from training.pooling import Floats, pooled, row_sums
from training.runs import Opened

__all__ = ["Manner", "embed", "embed_on", "statistics_of"]

_log = logging.getLogger(__name__)

_LEFT = {"features.zarr", "features.parquet", "strips"}
_EACH = 3
"""Parts of an image for each worker, so that none waits long for another's last."""
_LEAST = 4
"""Strips of a part: above each part a row of windows is encoded that another part encodes too."""


@dataclass(frozen=True)
class Manner:
    """How features are made and kept."""

    tokens: bool = True
    """Keep the features of every patch; else only those pooled over cells of the size of a window."""
    overlap: int | None = None
    """Of neighbouring windows, pixels; half a window by default."""
    batch: int = 8
    """Windows encoded together."""
    device: str = "cpu"
    """Where to compute."""


def embed(
    opened: Opened,
    source: FeatureSource,
    output: Path,
    *,
    tokens: bool = True,
    overlap: int | None = None,
    batch: int = 8,
    device: str = "cpu",
) -> FeatureStore:
    """Make features of all images of a source.

    What a run that was stopped has done is not done again.

    Parameters
    ----------
    opened
        The model.
    source
        What to make features of.
    output
        Folder to write into.
    tokens
        Keep the features of every patch; else only those pooled over cells of the size of a window.
    overlap
        Of neighbouring windows, pixels; half a window by default.
    batch
        Windows encoded together.
    device
        Where to compute.

    Raises
    ------
    UsageError
        If the folder holds other features, or the source does not fit the model.
    """
    refuse_foreign(output, _LEFT, "training.embed")
    output.mkdir(parents=True, exist_ok=True)
    with claimed(output):
        work = _Work.begin(opened, source, output, Manner(tokens, overlap, batch, device))
        for sample in work.left():
            for part in work.parts(sample):
                work.make(part)
            work.finish_image(sample)
        return work.finish()


def embed_on(
    asked: Asked, output: Path, manner: Manner, engine: EngineChoice, workers: int
) -> tuple[FeatureStore, FeatureSource]:
    """Make features as `embed` does, to the bit; images, and parts of large ones, each by a worker of an engine.

    Parameters
    ----------
    asked
        The model and the source, which each worker opens for itself.
    output, manner
        As of `embed`.
    engine, workers
        Where, and how many parts at once.

    Raises
    ------
    UsageError
        As of `embed`.
    StratacubeError
        If an image failed; the others are done, and the same call goes on with it.
    """
    refuse_foreign(output, _LEFT, "training.embed")
    output.mkdir(parents=True, exist_ok=True)
    with claimed(output) as fence, Workers(workers, engine, (), fence) as pool:
        opened, source = asked.open()
        work = _Work.begin(opened, source, output, manner)
        run, left = uuid4().hex, work.left()
        waiting, failed = dict.fromkeys(left, 0), dict[int, str]()
        tasks = []
        for sample in left:
            parts = work.parts(sample, shared_by=-(-workers // len(left)))
            waiting[sample] = len(parts)
            tasks += [_Task(asked, output, manner, part, run) for part in parts]
            if not parts:  # a run was stopped when all of it was made
                work.finish_image(sample)
        for outcome in run_tasks(tasks, _embed_part, pool, label="parts of images"):
            sample = outcome.task.part.sample
            waiting[sample] -= 1
            if outcome.error is not None:
                failed.setdefault(sample, f"image {sample}: {outcome.error}")
            elif not waiting[sample] and sample not in failed:
                work.finish_image(sample)
        if failed:
            raise StratacubeError(
                f"{len(failed)} of {len(left)} images failed, such as {next(iter(failed.values()))}; run the same"
                " command again to go on"
            )
        return work.finish(), source


@dataclass(frozen=True)
class _Part:
    """Some strips of an image."""

    sample: int
    first: int
    end: int


@dataclass(frozen=True)
class _Task:
    """What a worker is given."""

    asked: Asked
    output: Path
    manner: Manner
    part: _Part
    run: str
    """A word for the run: workers that outlive it open anew what the next one asks for."""

    @property
    def key(self) -> str:
        return f"image {self.part.sample}, strips {self.part.first} to {self.part.end - 1}"


def _embed_part(task: _Task) -> None:
    _opened(task.asked, task.output, task.manner, task.run).make(task.part)


@lru_cache(maxsize=1)
def _opened(asked: Asked, output: Path, manner: Manner, _run: str) -> _Work:
    """What a worker opens once; its driver keeps the ledger."""
    return _Work.begin(*asked.open(), output, manner, ours=False)


@dataclass(frozen=True)
class _Work:
    """Features that are being made."""

    opened: Opened
    model: MaskedAutoencoder
    source: FeatureSource
    store: FeatureStore
    grid: Grid
    step: int
    """Rows of patches of a chunk of the store."""
    batch: int

    @classmethod
    def begin(cls, opened: Opened, source: FeatureSource, output: Path, manner: Manner, *, ours: bool = True) -> _Work:
        """Open or create the folder; not ``ours``: beside the process that keeps its ledger."""
        config = opened.config.model
        model = opened.model.to(device_of(manner.device)).eval()
        overlap = min(config.height_width) // 2 if manner.overlap is None else manner.overlap
        grid = Grid.of(model, source.size, overlap)
        about = {
            "model": opened.config.name,
            "config_hash": opened.manifest["config_hash"],
            "step": opened.step,
            "source": without_folders(source.name),
            "bands": list(config.bands),
            "groups": [[config.bands[band] for band in group] for group in config.group_indices],
            "patch_size": config.patch_size,
            "overlap": overlap,
            "size": list(source.size),
            "samples": source.samples,
            "tokens": manner.tokens,
        }
        shape = (source.samples, config.frames, len(model.groups), grid.rows, grid.columns, config.dimensions.embed_dim)
        # Whole windows, so that strips are whole chunks: the first rows of windows are multiples of this.
        step = grid.down[1] - grid.down[0] if len(grid.down) > 2 else grid.rows
        cell = (grid.rows, grid.columns) if source.one_cell else grid.window
        store = FeatureStore(output, about, shape, cell, tokens=manner.tokens, strip=step, ours=ours)
        return cls(opened, model, source, store, grid, step, manner.batch)

    def left(self) -> list[int]:
        """Images that are not done."""
        return [sample for sample in range(self.source.samples) if sample not in self.store.done]

    def parts(self, sample: int, shared_by: int = 1) -> list[_Part]:
        """Cut what is left of an image, by runs of strips, into parts for so many workers."""
        count = len(self.grid.down)
        done = self.store.scratch.done(sample, count)
        left = [strip for strip in range(count) if strip not in done]
        most = max(_LEAST, -(-len(left) // (_EACH * shared_by))) if shared_by > 1 else count
        parts: list[_Part] = []
        for strip in left:
            before = parts[-1] if parts else None
            # The last strips may share a chunk of the store, which two workers may not write to.
            apart = strip - before.first >= most and self.grid.down[strip] % self.step == 0 if before else True
            if before is None or before.end != strip or apart:
                parts.append(_Part(sample, strip, strip + 1))
            else:
                parts[-1] = _Part(sample, before.first, strip + 1)
        return parts

    def make(self, part: _Part) -> None:
        """Make the features of some strips of an image, each of which is kept."""
        store, grid, sample = self.store, self.grid, part.sample
        made = strips(
            self.model,
            lambda top, bottom: self.source.read(sample, top, bottom),
            grid,
            batch=self.batch,
            begin=part.first,
            end=part.end,
        )
        for number, strip in enumerate(made, start=part.first):
            kept = Strip(strip.first, strip.features.cpu(), strip.weight.cpu())
            if store.tokens:
                rows = slice(strip.first, grid.end(number))
                store.write("tokens", (sample, slice(None), slice(None), rows), kept.features.numpy())
                store.write("weight", (sample, slice(None), slice(None), rows), kept.weight.numpy())
            store.scratch.write(sample, number, row_sums(kept, store.cell[1]))

    def finish_image(self, sample: int) -> None:
        """Pool the strips of an image, and record that it is done."""
        count = len(self.grid.down)
        features, share = pooled(self.store.scratch.take(sample, count), self.store.cell[0], self._patches())
        self.store.write("pooled", (sample,), features)
        self.store.write("valid_share", (sample,), share)
        times = self.source.place(sample, (self.grid.rows, self.grid.columns)).times
        self.store.write("time", (sample,), times.astype("M8[us]").astype("i8"))
        self.store.mark(sample)
        self.store.scratch.drop(sample, count)
        _log.info("%d of %d images done", self.source.samples - len(self.left()), self.source.samples)

    def _patches(self) -> Floats:
        """Patches of each cell, of all frames and groups."""
        down, across = (
            np.diff([*range(0, side, cell), side])
            for side, cell in zip((self.grid.rows, self.grid.columns), self.store.cell, strict=True)
        )
        return (down[:, None] * across * self.model.config.frames * len(self.model.groups)).astype("f8")

    def finish(self) -> FeatureStore:
        """Write what tells of all images."""
        cell = (self.store.cell[0] * self.model.config.patch_size, self.store.cell[1] * self.model.config.patch_size)
        places = [self.source.place(sample, cell) for sample in range(self.source.samples)]
        remove(self.store.scratch.folder)
        draw_map(self.store, self.store.folder / "map.png")
        origins = {"derived_from": self.source.name, "via": str(self.opened.folder)}
        links = [{"rel": rel, "href": link_to(place, self.store.folder)} for rel, place in origins.items()]
        self.store.finish(
            places, f"Features of {without_folders(self.source.name)} by {self.opened.config.name}", links
        )
        return self.store
