"""The order of samples: a pure function of seed, epoch and position, so that a stream resumes from three numbers.

An epoch is one global sequence of samples. It does not depend on how many ranks or workers read it: ranks take
consecutive runs of it in turn (:class:`Dealer`), and DataLoader workers take whole batches. A run of steps sees the
epochs as one sequence without an end (:class:`Endless`), of which every step takes the next part (:class:`Share`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from stratacube.errors import UsageError

__all__ = ["Dealer", "Endless", "Epoch", "Order", "Pick", "Share", "Tail", "picks"]

Ints = npt.NDArray[np.int64]
Tail = Literal["even", "drop", "pad"]
_MIX = 2**31
"""Stream number of the interleaving, beside those of the sources, which count from 0."""


class Pick(NamedTuple):
    """One draw of a sample: which, and the numbers that seed its augmentation."""

    sample: int
    seed: int = 0
    epoch: int = 0
    position: int = 0
    """Place in the epoch's global sequence, the same for any number of ranks and workers."""


@dataclass(frozen=True)
class Epoch:
    """The global sequence of one epoch."""

    samples: Ints
    """Sample numbers; those of the second source follow those of the first, and so on."""
    runs: Ints
    """Ends of the runs that batches must not straddle; the last is the length."""


@dataclass(frozen=True)
class Order:
    """Which sample comes where, in every epoch.

    Each source is an endless sequence of passes; a pass holds every sample once, or, with weights, each sample within
    one of its expected number of times (systematic resampling). An epoch takes the next part of each source's
    sequence, so nothing is seen twice before all is seen once, even where a source's share is not its size.
    """

    sizes: tuple[int, ...]
    """Samples of each source."""
    seed: int = 0
    shuffle: bool = True
    weights: tuple[npt.NDArray[np.float64] | None, ...] = ()
    """Of the samples of each source, relative; none for equal."""
    shares: tuple[float, ...] = ()
    """Of each source in an epoch, relative; none for every sample once."""
    length: int | None = None
    """Samples of an epoch; all by default."""
    block: int | None = None
    """Consecutive samples that come from one source, for sources of different shapes; None mixes freely."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UsageError(f"`seed` is {self.seed}; give 0 or more")
        if not self.sizes or min(self.sizes) < 1:
            raise UsageError(f"sources hold {list(self.sizes)} samples; each needs at least one: relax the filter")
        if self.shares and (len(self.shares) != len(self.sizes) or min(self.shares) < 0 or sum(self.shares) <= 0):
            raise UsageError(f"{len(self.sizes)} sources need as many shares of 0 or more, not {list(self.shares)}")
        for size, weights in zip(self.sizes, self.weights, strict=False):
            if weights is not None and (
                len(weights) != size or not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() <= 0
            ):
                raise UsageError(f"weights must be {size} finite numbers of 0 or more, not all 0")

    def __len__(self) -> int:
        return sum(self.sizes) if self.length is None else self.length

    @property
    def quotas(self) -> tuple[int, ...]:
        """Samples of each source in an epoch, by largest remainder."""
        shares = np.asarray(self.shares or self.sizes, "f8")
        exact = shares / shares.sum() * len(self)
        quotas = np.floor(exact).astype(int)
        quotas[np.argsort(quotas - exact, kind="stable")[: len(self) - quotas.sum()]] += 1
        return tuple(int(q) for q in quotas)

    @property
    def signature(self) -> str:
        """Digest of all that decides the order but the block."""
        digest = hashlib.sha256(repr((self.sizes, self.seed, self.shuffle, self.shares, len(self))).encode())
        for weights in self.weights:
            digest.update(b"-" if weights is None else np.ascontiguousarray(weights, "<f8").tobytes())
        return digest.hexdigest()[:16]

    def epoch(self, epoch: int) -> Epoch:
        """Lay out one epoch."""
        starts = np.concatenate([[0], np.cumsum(self.sizes)])
        parts = [self._part(k, epoch) + starts[k] for k in range(len(self.sizes))]
        if len(parts) == 1:
            return Epoch(parts[0], np.array([len(parts[0])]))
        if self.block is None:
            together = np.concatenate(parts)
            mixed = self._generator(_MIX, epoch).permutation(len(together)) if self.shuffle else slice(None)
            return Epoch(together[mixed], np.array([len(together)]))
        firsts, lengths = _pieces([len(part) for part in parts], self.block)
        if self.shuffle:
            mixed = self._generator(_MIX, epoch).permutation(len(firsts))
            firsts, lengths = firsts[mixed], lengths[mixed]
        ends = np.cumsum(lengths)
        places = np.repeat(firsts - (ends - lengths), lengths) + np.arange(ends[-1])
        return Epoch(np.concatenate(parts)[places], ends)

    def _part(self, source: int, epoch: int) -> Ints:
        """Take of one source what an epoch needs."""
        size, quota = self.sizes[source], self.quotas[source]
        first, last = epoch * quota, (epoch + 1) * quota
        passes = range(first // size, -(-last // size))
        if not passes or not quota:
            return np.empty(0, "i8")
        drawn = np.concatenate([self._pass(source, p) for p in passes])
        return drawn[first - passes[0] * size : last - passes[0] * size]

    def _pass(self, source: int, number: int) -> Ints:
        """One pass over a source."""
        size = self.sizes[source]
        weights = self.weights[source] if source < len(self.weights) else None
        generator = self._generator(source, number)
        samples = np.arange(size)
        if weights is not None:
            samples = _resample(weights, generator)
        return generator.permutation(samples) if self.shuffle else samples

    def _generator(self, stream: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream, number])


@dataclass(frozen=True)
class Dealer:
    """Deals an epoch to ranks in rounds of ``ranks * batch_size`` samples: the batches of a round are simultaneous.

    Every rank gets the same number of batches. What remains at the end of a run, too little for a whole round, is by
    ``tail``:

    - ``even``: spread evenly, so that every sample comes exactly once in smaller batches; only when fewer samples
      than ranks remain do ranks repeat some of them (at most ``ranks - 1``);
    - ``drop``: left out; being shuffled, each epoch leaves out others;
    - ``pad``: filled up with samples from the start of the run.
    """

    batch_size: int
    rank: int = 0
    ranks: int = 1
    tail: Tail = "even"

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not 0 <= self.rank < self.ranks:
            raise UsageError(
                f"batch size {self.batch_size}, rank {self.rank} of {self.ranks}: "
                "the batch size is at least 1 and ranks count from 0"
            )
        if self.tail not in ("even", "drop", "pad"):
            raise UsageError(f"tail {self.tail!r} is not known; choose even, drop or pad")

    def rounds(self, sequence: Epoch, position: int = 0) -> Iterator[tuple[int, Ints]]:
        """Deal from a position on.

        Yields
        ------
        end, positions
            The position after the round, and the positions that are this rank's batch.
        """
        size = self.batch_size * self.ranks
        start = 0
        for end in sequence.runs.tolist():
            for first in range(max(start, position), end, size):
                last = min(first + size, end)
                if last - first == size or self.tail != "drop":
                    yield last, self._hand(first, last, start)
            start = end

    def count(self, sequence: Epoch, position: int = 0) -> int:
        """Batches from a position on."""
        size = self.batch_size * self.ranks
        starts = np.maximum(np.concatenate([[0], sequence.runs[:-1]]), position)
        left = np.maximum(sequence.runs - starts, 0)
        return int((left // size if self.tail == "drop" else -(-left // size)).sum())

    def _hand(self, first: int, last: int, run: int) -> Ints:
        """Positions of this rank in the round from ``first`` to ``last``."""
        rest = last - first
        if rest < self.batch_size * self.ranks and self.tail == "even":
            if rest < self.ranks:
                return np.array([first + self.rank % rest])
            cuts = first + np.arange(self.ranks + 1) * rest // self.ranks
            return np.arange(cuts[self.rank], cuts[self.rank + 1])
        positions = first + self.rank * self.batch_size + np.arange(self.batch_size)
        return np.where(positions < last, positions, run + (positions - last) % (last - run))


def _pieces(lengths: Sequence[int], block: int) -> tuple[Ints, Ints]:
    """First places and lengths of the blocks of parts that follow one another; the last of a part may be shorter."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    firsts = np.concatenate([np.arange(start, end, block) for start, end in pairwise(starts.tolist())])
    ends = starts[1:][np.searchsorted(starts[1:], firsts, side="right")]
    return firsts, np.minimum(block, ends - firsts)


def _resample(weights: npt.NDArray[np.float64], generator: np.random.Generator) -> Ints:
    """Draw as many samples as there are, each within one of its expected number, and each group of equal weight too."""
    shuffled = generator.permutation(len(weights))
    order = shuffled[np.argsort(weights[shuffled], kind="stable")]
    above = np.cumsum(weights[order])
    steps = (np.arange(len(weights)) + generator.random()) * (above[-1] / len(weights))
    drawn: Ints = order[np.searchsorted(above, steps, side="right").clip(max=len(weights) - 1)]
    return drawn


def picks(order: Order, sequence: Epoch, epoch: int, positions: Sequence[int] | Ints) -> list[Pick]:
    """Name the draws at some positions of an epoch."""
    return [Pick(int(sequence.samples[p]), order.seed, epoch, int(p)) for p in positions]


class Endless:
    """The epochs of an order one after another: number ``n`` has place ``n % length`` in epoch ``n // length``."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self._laid_out: tuple[int, Epoch] | None = None

    def samples(self, numbers: Ints) -> Ints:
        """Samples at some ascending numbers."""
        return np.concatenate([self._epoch(epoch).samples[places] for epoch, places in self._by_epoch(numbers)])

    def picks(self, numbers: Ints) -> list[Pick]:
        """Name the draws at some ascending numbers."""
        by_epoch = self._by_epoch(numbers)
        return [pick for e, places in by_epoch for pick in picks(self.order, self._epoch(e), e, places)]

    def _by_epoch(self, numbers: Ints) -> list[tuple[int, Ints]]:
        epochs, places = np.divmod(numbers, len(self.order))
        return [(epoch, places[epochs == epoch]) for epoch in np.unique(epochs).tolist()]

    def _epoch(self, epoch: int) -> Epoch:
        if self._laid_out is None or self._laid_out[0] != epoch:
            self._laid_out = epoch, self.order.epoch(epoch)
        return self._laid_out[1]


@dataclass(frozen=True)
class Share:
    """One rank's part of every step of a run.

    A step takes the next ``step`` numbers of the stream, whatever the number of ranks: it is dealt in rounds of
    ``ranks * batch_size``, in which the ranks take consecutive runs.
    """

    step: int
    """Samples of a step, over all ranks."""
    batch_size: int
    """Samples of one rank in a round."""
    rank: int = 0
    ranks: int = 1

    @classmethod
    def fit(cls, step: int, most: int, rank: int = 0, ranks: int = 1) -> Share:
        """Share a step evenly, in as few rounds as batches of at most ``most`` samples allow.

        Raises
        ------
        UsageError
            If the ranks do not divide the step.
        """
        if step % ranks:
            fitting = [str(n) for n in range(1, step + 1) if step % n == 0]
            raise UsageError(
                f"a step of this run takes {step} samples, which {ranks} ranks do not share evenly; take"
                f" {', '.join(fitting[:-1])} or {fitting[-1]} ranks"
            )
        own = step // ranks
        return cls(step, next(n for n in range(min(most, own), 0, -1) if own % n == 0), rank, ranks)

    @property
    def rounds(self) -> int:
        """Batches of a rank in a step."""
        return self.step // (self.batch_size * self.ranks)

    def batch(self, round_: int) -> Ints:
        """Numbers that this rank takes in a round, counted on from the first of the first step."""
        first = (round_ * self.ranks + self.rank) * self.batch_size
        return np.arange(first, first + self.batch_size)

    def batches(self, first: int) -> Iterator[Ints]:
        """Numbers of this rank's batches of the steps from number ``first`` on, without an end."""
        return (first + self.batch(round_) for round_ in count())
