"""Which engine a build takes, with its options: a name, words, a section of a file, or an executor of the caller's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from cube.registry import ENGINES
from stratacube.choices import Told, Worded, nearest, one_of
from stratacube.errors import UsageError
from stratacube.settings import Settings

__all__ = ["Engine", "EngineChoice", "choose_engine"]


@dataclass(frozen=True)
class EngineChoice:
    """An engine and its options."""

    name: str
    """In :data:`cube.registry.ENGINES`; of an executor of the caller's, its class."""
    options: Settings | None = None
    executor: Executor | None = None
    """The caller's own, which is used and not ended."""

    def __str__(self) -> str:
        """Return its name."""
        return self.name

    def start(self, workers: int, modules: Sequence[str]) -> Executor:
        """Return an executor with so many workers.

        Raises
        ------
        UsageError
            If its options are not complete, or it cannot run here.
        """
        if self.executor is not None:
            return self.executor
        engine = ENGINES.load(self.name)
        started: Executor = engine(workers, modules, *[self.options] * (self.options is not None))
        return started


def choose_engine(given: Any) -> EngineChoice | None:
    """Understand what names an engine.

    Parameters
    ----------
    given
        A name; a name and words ``KEY=VALUE``; a mapping with ``name`` and options; an executor; None for the default.

    Raises
    ------
    UsageError
        If it is no engine, or an option is unknown or does not fit.
    """
    if given is None or isinstance(given, EngineChoice):
        return given
    if isinstance(given, Executor):
        return EngineChoice(type(given).__name__, executor=given)
    name, options = _parts(given)
    if name not in ENGINES.names():
        raise UsageError(f"give {one_of(ENGINES.names())}{nearest(name, ENGINES.names())}")
    if not options:
        return EngineChoice(name)
    model: type[Settings] | None = getattr(ENGINES.load(name), "options", None)
    if model is None:
        raise UsageError(f"{name} has no options; leave {next(iter(options))!r} out")
    return EngineChoice(name, model.check(options))


def _parts(given: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(given, Mapping):
        options = {str(key).replace("-", "_"): value for key, value in given.items()}
        return str(options.pop("name", "")), options
    if isinstance(given, str):
        given = given.split()
    if not isinstance(given, Sequence) or not given or not all(isinstance(word, str) for word in given):
        raise UsageError("give a name, `name` and options, or an executor")
    name, *words = given
    wrong = next((word for word in words if "=" not in word), None)
    if wrong is not None:
        raise UsageError(f"{wrong!r} is not an option; write options as KEY=VALUE")
    pairs = [word.partition("=") for word in words]
    return name, {key.replace("-", "_"): value for key, _, value in pairs}


Engine = Annotated[
    Any,
    BeforeValidator(choose_engine),
    PlainSerializer(lambda choice: None if choice is None else str(choice)),
    Worded("NAME", "KEY=VALUE"),
    Told(lambda: one_of(ENGINES.names())),
]
"""An engine, in a configuration: an :class:`EngineChoice`, or None where none is given."""
