"""The sampler of a stratum, which may be anyone's: what fails in it is told with its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cube.plug import imported_of_plug
from cube.registry import STRATA
from cube.strata.base import Candidate, Problem, Sampler, SampleRequest
from cube.strata.plug import Options, Stratum

__all__ = ["NamedSampler"]


class NamedSampler:
    """A sampler by the name of its stratum; see :class:`cube.strata.base.Sampler`.

    Parameters
    ----------
    name
        Of the stratum in :data:`cube.registry.STRATA`.
    stratum
        What is known of it.
    request, options
        What the sampler is called with.

    Raises
    ------
    PlugError
        If it is another package's and fails: here, or when it is asked for candidates or tables.
    """

    def __init__(self, name: str, stratum: Stratum, request: SampleRequest, options: Options) -> None:
        self.name = name
        with STRATA.blamed(name):
            self._sampler: Sampler = imported_of_plug(stratum.sampler)(request, **options.arguments())
            self.stratum = self._sampler.stratum

    @property
    def problems(self) -> list[Problem]:
        """Inputs that could not be used."""
        with STRATA.blamed(self.name):
            return self._sampler.problems

    def candidates(self) -> Iterator[Candidate]:
        """Yield what it proposes."""
        with STRATA.blamed(self.name):
            for candidate in self._sampler.candidates():
                _refuse_other(candidate)
                yield candidate

    def shares(self, name: str) -> Mapping[str, float]:
        """Its ``quotas`` or ``class_shares``, if it has any."""
        with STRATA.blamed(self.name):
            return dict(getattr(self._sampler, name, {}))

    def write_tables(self, directory: Path) -> list[Path]:
        """Write its tables."""
        with STRATA.blamed(self.name):
            return self._sampler.write_tables(directory)


def _refuse_other(candidate: Any) -> None:
    if not isinstance(candidate, Candidate):
        raise TypeError(f"its sampler proposes {candidate!r}, which is not a Candidate")
