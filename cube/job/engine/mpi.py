"""Tasks on the ranks of ``mpirun`` or ``srun``: rank 0 drives, all others work, by mpi4py.futures.

No rank waits for another in a collective call while there is work. A rank that dies ends all of them, as MPI has it:
the launcher sees to that within seconds, and the same command goes on.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, wait
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from cube.job.engine.base import EngineExecutor
from cube.job.engine.local import interrupted_after
from cube.job.engine.worker import keep_to_one_thread, log_as
from cube.job.ranks import Ranks, joining, refuse
from stratacube.command import terminated_because
from stratacube.errors import StratacubeError, UsageError

if TYPE_CHECKING:
    from mpi4py.futures import MPIPoolExecutor

    from cube.job.engine.plugs import MpiOptions

__all__ = ["MpiExecutor", "mpi_executor", "together"]

T = TypeVar("T")

_pool: MPIPoolExecutor | None = None
"""Of rank 0, while the others work for it."""
_LATE = 0.5
"""Seconds for which a rank outlives SIGTERM; launchers wait a second or more before they kill what has not ended."""
_SOON = 3.0
"""Seconds in which tasks may end by themselves when a run is stopped."""


def together(work: Callable[[], T]) -> T:
    """Do something on rank 0, with all other ranks at its service.

    Parameters
    ----------
    work
        What rank 0 does; the others get its result.

    Raises
    ------
    UsageError
        If the ranks cannot be joined: mpi4py is not there, or is of another MPI than what started them.
    StratacubeError
        On all ranks, if rank 0 raises it; ``silent`` on the others.
    """
    ranks = Ranks.here()
    if not ranks.can_meet:
        refuse(ranks, f"{ranks.launcher} gave them no way to meet; start them by `mpirun`, or `srun --mpi=pmix`")
    try:
        from mpi4py import MPI  # noqa: PLC0415  (an extra; importing it is what joins the ranks)
        from mpi4py.futures import MPICommExecutor  # noqa: PLC0415
    except (ImportError, RuntimeError) as error:
        why = "mpi4py is not installed" if isinstance(error, ModuleNotFoundError) else f"mpi4py finds no MPI ({error})"
        refuse(ranks, f"{why}; run: pip install 'stratacube[mpi]'", error)
    world = MPI.COMM_WORLD
    if world.size != ranks.number:
        library = MPI.Get_library_version().partition(",")[0].partition("\n")[0]
        refuse(ranks, f"mpi4py uses {library}, another MPI than {ranks.launcher}; start them by that one's `mpirun`")
    if world.rank:
        keep_to_one_thread()
        log_as(f"pipeline_rank{world.rank}.log")
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 answers for all
        signal.signal(signal.SIGTERM, _end_late)
    places = world.gather((socket.gethostname(), os.getpid()), root=0) or []
    outcome: tuple[T | None, BaseException | None] = None, None
    executor: Any = MPICommExecutor(world, root=0)
    with executor as pool:
        if pool is not None:
            with terminated_because(lambda: _killed(places)):
                outcome = _lead(work, pool, world)
    result, told = world.bcast((outcome[0], _told(outcome[1])), root=0)
    if world.rank == 0 and outcome[1] is not None:
        raise outcome[1]
    if told is not None:
        told.silent = True
        raise told
    return result  # type: ignore[no-any-return]


def _end_late(number: int, _: FrameType | None) -> None:
    """End by SIGTERM, but not at once: the launcher sends it to all when one was killed, and rank 0 looks who was."""
    signal.signal(number, signal.SIG_DFL)
    time.sleep(_LATE)
    os.kill(os.getpid(), number)


def _killed(places: Sequence[tuple[str, int]]) -> str:
    """Say which ranks of this node are gone; nothing where all are there."""
    here = socket.gethostname()
    gone = [f"{rank} (process {pid})" for rank, (host, pid) in enumerate(places) if host == here and not _lives(pid)]
    if not gone:
        return ""
    what = f"rank {gone[0]} was" if len(gone) == 1 else f"ranks {', '.join(gone)} were"
    return f"{what} killed on {here}, perhaps for want of memory, and the launcher ended the others"


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _told(error: BaseException | None) -> StratacubeError | None:
    """What other ranks are told of an error."""
    if error is None or isinstance(error, StratacubeError):
        return error
    return StratacubeError(f"rank 0 has ended ({type(error).__name__})")


def _lead(work: Callable[[], T], pool: MPIPoolExecutor, world: Any) -> tuple[T | None, BaseException | None]:
    """Do rank 0's part; where tasks are left at work that will not end soon, end all ranks."""
    global _pool  # noqa: PLW0603  (of the process, as the ranks are)
    _pool = pool.bootup()
    result, fault = None, None
    try:
        with joining():
            result = work()
    except BaseException as error:  # noqa: BLE001  (raised again when the other ranks know)
        fault = error
    finally:
        _pool = None
    at_work = MpiExecutor.at_work
    if at_work and wait(at_work, timeout=_SOON).not_done:
        _end_all(world, result, fault)
    return result, fault


def _end_all(world: Any, result: object, fault: BaseException | None) -> NoReturn:
    code = result if isinstance(result, int) and result else 1
    if isinstance(fault, StratacubeError):
        sys.stderr.write(f"error: {fault}\n")
    elif fault is not None:
        traceback.print_exception(fault)
    sys.stdout.flush()
    sys.stderr.flush()
    world.Abort(code)
    raise AssertionError("what aborts does not return")


class MpiExecutor(EngineExecutor):
    """The other ranks.

    Parameters
    ----------
    pool
        Theirs.
    """

    grace = 30.0
    irreplaceable = "a rank does not answer, and ranks are not ours to start"
    at_work: set[Future[Any]] = set()  # noqa: RUF012  (of the process, as the ranks are)
    """Tasks that were not taken back and have not ended."""

    def __init__(self, pool: MPIPoolExecutor) -> None:
        self._pool = pool

    @property
    def number(self) -> int:
        """Ranks that work."""
        return int(self._pool.num_workers)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a rank call a function."""
        future: Future[Any] = self._pool.submit(_within, self.limit, fn, args, kwargs)
        self.at_work.add(future)
        future.add_done_callback(self.at_work.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take back what has not begun; the ranks stay for the next run."""
        for future in list(self.at_work) if cancel_futures else ():
            future.cancel()


def _within(limit: float, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call a function in a rank, for so long."""
    with interrupted_after(limit):
        return function(*args, **kwargs)


def mpi_executor(workers: int, modules: Sequence[str], options: MpiOptions) -> Executor:
    """Return an executor of the other ranks.

    Raises
    ------
    UsageError
        If there are none.
    """
    if _pool is None:
        raise UsageError(
            "`engine=mpi` needs several ranks: start the command by mpirun, such as mpirun -n 8, or leave `engine` out"
        )
    return MpiExecutor(_pool)
