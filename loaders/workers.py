"""Worker processes of a DataLoader: forked from a server that imports once what all of them need."""

from __future__ import annotations

from multiprocessing.context import BaseContext

from cube.job.engine.local import forking_server

__all__ = ["worker_context"]

_PRELOADED = ("loaders.tiles", "loaders.cubes", "loaders.mixture")
"""They import PyTorch, which takes each process that does it for itself some seconds."""


def worker_context(workers: int) -> BaseContext | None:
    """How a DataLoader starts its workers; None where there are none.

    Parameters
    ----------
    workers
        How many it will have.

    Returns
    -------
    BaseContext or None
        Of a server that is started, and imports meanwhile.
    """
    return forking_server(_PRELOADED) if workers else None
