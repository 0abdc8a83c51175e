"""Processes that share the writing of an archive."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import TypeVar

__all__ = ["spread"]

Task = TypeVar("Task")
Result = TypeVar("Result")


def spread(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int | None) -> list[Result]:
    """Do tasks in processes of their own; in this one where one is enough.

    Parameters
    ----------
    function : callable
        Of a module: it is imported anew by each process.
    tasks : sequence
        Arguments, those that take longest first.
    workers : int, optional
        Processes; all cores by default.

    Returns
    -------
    list
        Results, in the order of the tasks.
    """
    count = max(1, min(workers or os.cpu_count() or 1, len(tasks)))
    if count == 1:
        return [function(task) for task in tasks]
    # HDF5 keeps locks that do not survive a fork; and a fork server would be left to whoever uses the kit.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_begin_worker) as pool:
        return list(pool.map(function, tasks))


def _begin_worker() -> None:
    """Leave Ctrl-C to the process that waits, and end with it, though it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(parent: int) -> None:
    wait([parent])
    os._exit(1)
