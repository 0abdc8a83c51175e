"""Batches in order: shuffled, dealt to ranks, prefetched by workers, and resumable at any batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, Self

import torch
import torch.distributed
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from loaders.batch import Batch, Decoder, PackedBatch, as_is
from loaders.order import Dealer, Endless, Epoch, Order, Pick, Share, Tail, picks
from loaders.shared_room import room_told, with_room
from loaders.threads import ThreadedBatches
from loaders.workers import worker_context
from stratacube.errors import UsageError

__all__ = ["Loader", "Source", "Stream", "WorkerKind", "rank_and_ranks"]

WorkerKind = Literal["processes", "threads"]
_STATE_VERSION = 1


class Source(Protocol):
    """What a loader reads from: tiles, a cube, or a mixture of them."""

    fingerprint: str
    """Digest of the samples: a state of another source is refused."""
    sizes: tuple[int, ...]
    """Samples of each part."""
    shares: tuple[float, ...]
    """Of each part in an epoch; none for every sample once."""

    def sample_weights(self) -> tuple[Any, ...]:
        """Weights of the samples of each part, or None for equal."""

    def share_memory(self) -> None:
        """Put what every worker needs into shared memory."""

    def __getitems__(self, draws: Sequence[int | Pick]) -> PackedBatch:
        """Read a batch."""


class Cursor:
    """Where in the endless stream of epochs one rank is; the batches from there on."""

    def __init__(self, fingerprint: str, order: Order, dealer: Dealer) -> None:
        self.fingerprint, self.order, self.dealer = fingerprint, order, dealer
        self.epoch, self.position = 0, 0
        self._laid_out: tuple[Order, int, Epoch] | None = None

    def __len__(self) -> int:
        """Batches of the whole epoch, wherever the cursor stands."""
        return self.dealer.count(self.sequence())

    @property
    def left(self) -> int:
        """Batches of the epoch from here on."""
        return self.dealer.count(self.sequence(), self.position)

    def sequence(self) -> Epoch:
        """Lay out the epoch, once."""
        kept = self._laid_out
        if kept is None or kept[0] is not self.order or kept[1] != self.epoch:
            kept = self._laid_out = self.order, self.epoch, self.order.epoch(self.epoch)
        return kept[2]

    def batches(self) -> Iterator[tuple[int, list[Pick]]]:
        """Draws of each batch that is left of the epoch, and the position after it."""
        epoch, sequence = self.epoch, self.sequence()
        for end, positions in self.dealer.rounds(sequence, self.position):
            yield end, picks(self.order, sequence, epoch, positions)

    def state(self) -> dict[str, Any]:
        """All that is needed to go on: the same on every rank."""
        return {
            "version": _STATE_VERSION,
            "fingerprint": self.fingerprint,
            "order": self.order.signature,
            "block": self.order.block,
            "epoch": self.epoch,
            "position": self.position,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go to where a state was taken.

        Raises
        ------
        UsageError
            If the state is of another source, or of another order of it.
        """
        if state.get("version") != _STATE_VERSION:
            raise UsageError(f"loader state has version {state.get('version')}, this one reads {_STATE_VERSION}")
        self.check(state)
        self.order = replace(self.order, block=state["block"])
        self.epoch, self.position = int(state["epoch"]), int(state["position"])

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuse a state of another source, or of another order of it."""
        if state["fingerprint"] != self.fingerprint:
            raise UsageError(
                f"the state is of samples {state['fingerprint']}, these are {self.fingerprint}: "
                "resume with the same store, bands, view and filter, or start anew"
            )
        if state["order"] != self.order.signature:
            raise UsageError("the state is of another seed, shuffling, weights or shares; resume with the same")


class Loader:
    """An iterable of batches; each pass over it is the next epoch.

    The workers read; the order, and what was consumed, is kept here in one place, so the state is that of the last
    batch handed out, however many are prefetched, and can be resumed with other numbers of workers and ranks. For
    exact resume the state of rank 0 serves every rank.

    Parameters
    ----------
    source
        Where samples come from.
    batch_size
        Samples of one batch on one rank.
    shuffle, seed
        Order of the samples.
    length
        Samples of an epoch over all ranks; all by default.
    tail
        What becomes of the rest of an epoch (:class:`loaders.order.Dealer`).
    rank, ranks
        Of this process; by default from torch.distributed, else 0 of 1.
    workers
        How many read, each ``prefetch`` batches ahead; 0 reads when asked. Memory: ``workers * prefetch`` batches.
    workers_are
        ``processes``, started once, by forkserver, which serve every epoch; or ``threads`` of this process, which
        hand batches over at no cost and are the faster where reading is mostly decompression.
    device
        Where to decode; None hands out batches as stored.
    decoder
        How to decode; radiance without normalisation by default.
    pin_memory
        Page-locked batches, for copies to a GPU that do not wait; by default where ``device`` is a GPU.
    whole_batches
        Every batch from one part of a mixture, for parts of different shapes.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        length: int | None = None,
        tail: Tail = "even",
        rank: int | None = None,
        ranks: int | None = None,
        workers: int = 0,
        prefetch: int = 2,
        workers_are: WorkerKind = "processes",
        device: torch.device | str | None = "cpu",
        decoder: torch.nn.Module | None = None,
        pin_memory: bool | None = None,
        whole_batches: bool = False,
    ) -> None:
        rank, ranks = rank_and_ranks(rank, ranks)
        dealer = Dealer(batch_size, rank, ranks, tail)
        order = Order(
            source.sizes,
            seed,
            shuffle,
            source.sample_weights(),
            source.shares,
            length,
            batch_size * ranks if whole_batches else None,
        )
        if workers < 0 or (workers and prefetch < 1):
            raise UsageError(f"workers {workers} with prefetch {prefetch}: 0 or more workers, prefetch at least 1")
        if workers_are not in ("processes", "threads"):
            raise UsageError(f"workers are processes or threads, not {workers_are!r}")
        processes = workers if workers_are == "processes" else 0
        if processes:
            with room_told():
                source.share_memory()
        self.source = source
        self.device = None if device is None else torch.device(device)
        self.decoder: torch.nn.Module = decoder or Decoder()
        self.failed = 0
        """Samples skipped so far because a chunk was damaged (``on_error="skip"``)."""
        self._cursor = Cursor(source.fingerprint, order, dealer)
        self._resumed = True
        self._workers, self._prefetch, self._workers_are = workers, prefetch, workers_are
        self._pin = self.device is not None and self.device.type == "cuda" if pin_memory is None else pin_memory
        self._batches = self._reader(_Draws(self._cursor))

    def _reader(self, draws: Any) -> Iterable[PackedBatch]:
        """Read the batches that a sampler draws."""
        processes = self._workers if self._workers_are == "processes" else 0
        if self._workers > processes:
            return ThreadedBatches(self.source.__getitems__, draws, self._workers, self._prefetch, self._pin)
        return DataLoader(
            self.source,  # type: ignore[arg-type]
            batch_sampler=draws,
            collate_fn=as_is,
            num_workers=processes,
            prefetch_factor=self._prefetch if processes else None,
            persistent_workers=processes > 0,
            multiprocessing_context=worker_context(processes),
            pin_memory=self._pin,
            generator=torch.Generator(),  # each start draws a seed: not from the generator that models drop by
        )

    @property
    def epoch(self) -> int:
        """The epoch under way, or next."""
        return self._cursor.epoch

    def __len__(self) -> int:
        """Batches of the epoch on this rank; every rank has as many."""
        return len(self._cursor)

    def __iter__(self) -> Iterator[PackedBatch | Batch]:
        """Go through what is left of the epoch just resumed, else through the next epoch."""
        if not self._resumed:
            self.set_epoch(self.epoch + 1)
        self._resumed = False
        epoch = self.epoch
        ends = (end for end, _ in self._cursor.dealer.rounds(self._cursor.sequence(), self._cursor.position))
        for batch in with_room(self._batches):
            # The state counts a batch as consumed once it is handed out.
            self._cursor.position = next(ends)
            yield self._hand_out(batch)
            if self.epoch != epoch:
                return
        self.set_epoch(epoch + 1)

    def stream(self, share: Share, first: int = 0) -> Iterator[PackedBatch | Batch]:
        """Go through the epochs as one stream without an end: a rank's batches of the steps of a run.

        The set of samples of every step is the same for any number of ranks. What was read is told by the number of
        steps alone; :meth:`identity` names the stream.

        Parameters
        ----------
        share
            Which part of each step is ours; in place of the loader's batch size, rank and ranks.
        first
            Number in the stream at which the first step begins.

        Raises
        ------
        UsageError
            If batches were to come from one part of a mixture each.
        """
        order = self._cursor.order
        if order.block is not None:
            raise UsageError("a stream of steps mixes all parts; leave out `whole_batches`")
        for batch in self._reader(_Steps(Endless(order), share, first)):
            yield self._hand_out(batch)

    @property
    def samples(self) -> int:
        """Samples of an epoch, over all ranks."""
        return len(self._cursor.order)

    def identity(self) -> dict[str, Any]:
        """Name the samples and their order."""
        return {"fingerprint": self._cursor.fingerprint, "order": self._cursor.order.signature}

    def check(self, identity: Mapping[str, Any]) -> None:
        """Refuse the identity, or the state, of other samples or of another order of them.

        Raises
        ------
        UsageError
            If it is.
        """
        self._cursor.check(identity)

    def set_epoch(self, epoch: int) -> None:
        """Start the next iteration at the beginning of an epoch; does nothing within the epoch under way."""
        if epoch != self.epoch:
            self._cursor.epoch, self._cursor.position = epoch, 0
        self._resumed = True

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, after the last batch handed out."""
        state = self._cursor.state()
        if not self._cursor.left:
            state |= {"epoch": self.epoch + 1, "position": 0}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken, with any number of workers and ranks.

        Raises
        ------
        UsageError
            If the state is of other samples or of another order.
        """
        self._cursor.load(state)
        self._resumed = True

    def _hand_out(self, batch: PackedBatch) -> PackedBatch | Batch:
        self.failed += int(batch.meta["failed"].sum()) if "failed" in batch.meta else 0
        if self.device is None:
            return batch
        with torch.no_grad():
            decoded: Batch = self.decoder(batch.to(self.device, non_blocking=True))
        return decoded


class _Draws:
    """The batch sampler of a loader: its cursor's batches, without their ends.

    It knows the cursor and not the loader, which must end its workers as soon as it is let go.
    """

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor

    def __iter__(self) -> Iterator[list[Pick]]:
        return (draws for _, draws in self._cursor.batches())

    def __len__(self) -> int:
        return len(self._cursor)


class _Steps:
    """The batch sampler of a stream: one rank's batches of the steps from a number on."""

    def __init__(self, samples: Endless, share: Share, first: int) -> None:
        self.samples, self.share, self.first = samples, share, first

    def __iter__(self) -> Iterator[list[Pick]]:
        return (self.samples.picks(numbers) for numbers in self.share.batches(self.first))


class Stream(IterableDataset[PackedBatch]):
    """The same batches as an iterable dataset, for loaders of one's own; ``batch_size=None`` there.

    Workers take whole batches in turn. Its ``state_dict`` is each worker's own: torchdata's ``StatefulDataLoader``
    resumes it with the same number of workers; :class:`Loader` resumes with any.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        tail: Tail = "even",
        rank: int | None = None,
        ranks: int | None = None,
    ) -> None:
        rank, ranks = rank_and_ranks(rank, ranks)
        order = Order(source.sizes, seed, shuffle, source.sample_weights(), source.shares)
        self.source = source
        self._cursor = Cursor(source.fingerprint, order, Dealer(batch_size, rank, ranks, tail))

    def __len__(self) -> int:
        return len(self._cursor)

    def __iter__(self) -> Iterator[PackedBatch]:
        """Go through what is left of the epoch; the next iteration is the next epoch."""
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        done = len(self._cursor) - self._cursor.left
        for round_, (end, draws) in enumerate(self._cursor.batches(), start=done):
            if round_ % count == number:
                batch = self.source.__getitems__(draws)
                self._cursor.position = end
                yield batch
        self._cursor.epoch, self._cursor.position = self._cursor.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where this worker stands."""
        return self._cursor.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken."""
        self._cursor.load(state)

    def at_epoch(self, epoch: int) -> Self:
        """Start at the beginning of an epoch."""
        self._cursor.epoch, self._cursor.position = epoch, 0
        return self


def rank_and_ranks(rank: int | None = None, ranks: int | None = None) -> tuple[int, int]:
    """Fill in what is None from torch.distributed, where that is running."""
    running = torch.distributed.is_available() and torch.distributed.is_initialized()
    if ranks is None:
        ranks = torch.distributed.get_world_size() if running else 1
    if rank is None:
        rank = torch.distributed.get_rank() if running else 0
    return rank, ranks
