"""Parts of a store read on an engine: the workers of this machine, of Dask or of MPI."""

from __future__ import annotations

import hashlib
import itertools
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from cube.job.engine import Workers, run_tasks
from cube.job.on_ranks import engine_here
from stratacube.errors import SourceError, StratacubeError

__all__ = ["read_on_engine"]

R = TypeVar("R")
_PER_WORKER = 8
"""Tasks of a worker: each brings the dataset along, and few make it wait for the last."""


@dataclass(frozen=True)
class _Some:
    """Some items of a dataset."""

    key: str
    dataset: bytes
    """Pickled once, for it goes with every task."""
    digest: str
    numbers: range
    fold: Callable[[list[Any]], Any]

    def read(self) -> Any:
        """Read them, and put them together."""
        dataset = _unpickled(_Content(self.dataset, self.digest))
        return self.fold([dataset[number] for number in self.numbers])


@dataclass(frozen=True)
class _Content:
    """Bytes that are told apart by their digest."""

    content: bytes
    digest: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Content) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@lru_cache(maxsize=1)
def _unpickled(dataset: _Content) -> Any:
    """Of a worker that has many tasks of one dataset; the driver of the run pickled it, as engines do tasks."""
    return pickle.loads(dataset.content)


def read_on_engine(
    dataset: Any, number: int, fold: Callable[[list[Any]], R], engine: Any, workers: int, label: str
) -> Iterator[R]:
    """Read a dataset on an engine.

    Parameters
    ----------
    dataset
        Picklable, with items 0, 1, ... that are read when asked for.
    number
        Of its items.
    fold
        Picklable; puts some items that follow each other together.
    engine
        As :func:`cube.engine_choice.choose_engine` takes it.
    workers
        How many, where the engine has no number of its own.
    label
        What the progress line calls the tasks.

    Yields
    ------
    Any
        What ``fold`` gives, in the order of the items whoever read them.

    Raises
    ------
    StratacubeError
        If an item cannot be read, or the engine cannot run.
    """
    content = pickle.dumps(dataset, pickle.HIGHEST_PROTOCOL)
    digest = hashlib.sha256(content).hexdigest()
    with Workers(max(1, workers), engine_here(engine), ("loaders.engines",)) as pool:
        tasks = [_Some(str(r.start), content, digest, r, fold) for r in _ranges(number, _PER_WORKER * pool.number)]
        waiting: dict[int, R] = {}
        turn = 0
        for outcome in run_tasks(tasks, _Some.read, pool, label=label):
            if outcome.fault is not None:
                told = isinstance(outcome.fault, StratacubeError)
                raise outcome.fault if told else SourceError(str(outcome.error)) from outcome.fault
            waiting[outcome.task.numbers.start] = outcome.result  # type: ignore[assignment]
            while turn in waiting:
                yield waiting.pop(turn)
                turn = next(iter(t.numbers.stop for t in tasks if t.numbers.start == turn))


def _ranges(number: int, most: int) -> Sequence[range]:
    """So many numbers in about equal ranges, at most so many."""
    pieces = max(1, min(number, most))
    ends = [number * i // pieces for i in range(pieces + 1)]
    return [range(a, b) for a, b in itertools.pairwise(ends)]
