"""Reading ahead with threads of this process: decompression does not hold Python's lock, and nothing is handed over."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from loaders.batch import PackedBatch
from loaders.order import Pick

__all__ = ["ThreadedBatches"]


class ThreadedBatches:
    """Batches read by threads, in order.

    Parameters
    ----------
    read
        Makes a batch of draws; called by several threads at once.
    draws
        Of each batch; iterated anew for each iteration.
    threads
        How many.
    prefetch
        Batches ahead for each thread.
    pin_memory
        Whether to put batches into page-locked memory.
    """

    def __init__(
        self,
        read: Callable[[list[Pick]], PackedBatch],
        draws: Iterable[list[Pick]],
        threads: int,
        prefetch: int,
        pin_memory: bool,
    ) -> None:
        self.read = read
        self.draws = draws
        self.threads = threads
        self.prefetch = prefetch
        self.pin_memory = pin_memory

    def __iter__(self) -> Iterator[PackedBatch]:
        """Read ahead; what is left unread when the iteration is left is not waited for."""
        pending: deque[Future[PackedBatch]] = deque()
        executor = ThreadPoolExecutor(self.threads, thread_name_prefix="loaders")
        try:
            for draws in self.draws:
                pending.append(executor.submit(self._read, draws))
                if len(pending) >= self.threads * self.prefetch:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            executor.shutdown(wait=False, cancel_futures=True)

    def _read(self, draws: list[Pick]) -> PackedBatch:
        batch = self.read(draws)
        return batch.pin_memory() if self.pin_memory else batch
