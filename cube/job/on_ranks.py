"""Where a command runs that mpirun or srun may have started in several copies, and which engine it takes there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from cube.job.ranks import Ranks, joined
from stratacube.errors import StratacubeError, UsageError

if TYPE_CHECKING:
    from cube.engine_choice import EngineChoice

__all__ = ["command_on_ranks", "engine_here", "on_ranks"]

T = TypeVar("T")


def on_ranks(work: Callable[[], T]) -> T:
    """Do something, on the first of several ranks with the others at its service.

    Raises
    ------
    UsageError
        If there are ranks that cannot be joined.
    StratacubeError
        On all ranks, if the first one raises it.
    """
    if joined() or Ranks.here().number == 1:
        return work()
    from cube.job.engine.mpi import together  # noqa: PLC0415

    return together(work)


def command_on_ranks(work: Callable[[], int], refuse: Callable[[UsageError], int]) -> int:
    """Run a command, once for all ranks.

    Parameters
    ----------
    work
        The command, which gives its exit code.
    refuse
        Tells why the ranks cannot be joined, and gives the exit code.

    Returns
    -------
    int
        The exit code; of ranks but the first one 0, for launchers end all with the first that fails.
    """
    try:
        code = on_ranks(work)
    except UsageError as refusal:
        return refuse(refusal)
    except StratacubeError:  # of rank 0, which has told it
        return 0
    return code if joined() or Ranks.here().mine == 0 else 0


def engine_here(given: Any) -> EngineChoice:
    """Choose where tasks run: where the caller says, or on the ranks there are, or here.

    Parameters
    ----------
    given
        What names an engine (:func:`cube.engine_choice.choose_engine`); None for the default.

    Raises
    ------
    UsageError
        If it is no engine, or there are ranks that would have nothing to do.
    """
    from cube.engine_choice import EngineChoice, choose_engine  # noqa: PLC0415  (--help does not wait for pydantic)

    try:
        asked = choose_engine(given)
    except UsageError as error:
        told = " ".join(map(str, given)) if isinstance(given, list) else given
        raise UsageError(f"`engine` is {told}; {error}") from error
    if not joined():
        return asked or EngineChoice("local")
    if asked is not None and asked.name != "mpi":
        ranks = Ranks.here()
        raise UsageError(
            f"{ranks.launcher} started {ranks.number} ranks, which `engine={asked.name}` has no use for; "
            f"leave `engine` out, or start the command once, without {ranks.launcher}"
        )
    return EngineChoice("mpi")
