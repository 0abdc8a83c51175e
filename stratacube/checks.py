"""What was found when something was tried: whether it works here, and how to mend it where it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from stratacube.errors import StratacubeError

__all__ = ["Check", "Checks", "OfflineError", "State", "tried"]

State = Literal["works", "lacks", "broken"]
"""``lacks``: not here, and needed by some builds alone. ``broken``: nothing goes well before it is mended."""

_LONGEST = 200
"""Letters of what another library says of a fault."""


class OfflineError(StratacubeError):
    """A service that no connection leads to."""


@dataclass(frozen=True)
class Check:
    """One thing that was tried."""

    what: str
    state: State
    told: str
    """What was found."""
    remedy: str = ""
    """What to do, where it does not work."""


@dataclass(frozen=True)
class Checks:
    """What a source has tried: on this machine, and on the services that it asks."""

    title: str
    here: Callable[[], Iterator[Check]]
    live: Callable[[Mapping[str, str]], Iterator[Check]]
    """Called with other addresses of services, by name; raises :class:`OfflineError` where none leads there."""
    services: Sequence[str] = field(default_factory=tuple)
    """Names of the addresses that it knows."""


def tried(what: str, look: Callable[[], str], remedy: str, *, otherwise: State = "broken") -> Check:
    """Try one thing.

    Parameters
    ----------
    what
        Its name.
    look
        Uses it and says what was found; raises whatever it does where it fails.
    remedy
        What to do then.
    otherwise
        What it is then.
    """
    try:
        return Check(what, "works", look())
    except StratacubeError as error:
        return Check(what, otherwise, str(error))  # which names its own remedy
    except Exception as error:  # noqa: BLE001  (what a broken installation raises is what is asked for)
        text = " ".join(str(error).split())[:_LONGEST]
        return Check(what, otherwise, f"{type(error).__name__}: {text}" if text else type(error).__name__, remedy)
