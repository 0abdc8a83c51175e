"""What every command does alike: exit codes, errors as sentences, messages, ``--version``, ``--json``, completion.

Libraries raise, log and return; only here is anything printed, and only here do parameters become flags.

Exit codes: 0 all done; 1 something failed or is missing; 2 wrong use or configuration; 75 saved, to be started again
(EX_TEMPFAIL of sysexits.h); 130 stopped by Ctrl-C; 143 stopped by SIGTERM (128 and the signal's number, as shells say).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from stratacube import progress
from stratacube.colours import painted
from stratacube.errors import StratacubeError, UsageError
from stratacube.flags import Parser

__all__ = ["Answer", "Parser", "add_common", "program", "run", "terminated_because"]

FAILED, WRONG, STOPPED, INTERRUPTED, TERMINATED = 1, 2, 75, 130, 143
PACKAGES = ("stratacube", "catalog", "cube", "loaders", "training")
"""Whose messages are shown."""

_SOON = 0.05
"""Seconds after which a signal comes again that was lost: by then whoever lost it has returned."""


@dataclass(frozen=True)
class Answer:
    """What came of a command."""

    code: int = 0
    """Exit code."""
    lines: Sequence[str] = ()
    """What to print."""
    data: Any = None
    """The same as plain values, for ``--json``."""


Function = Callable[[argparse.Namespace], "Answer | int"]
"""What a command does: it is the default ``run`` of its parser. One that prints as it goes returns its exit code."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came; what tidies up after Ctrl-C tidies up after this. Its text is why, where that is known."""


_why: Callable[[], str] = str
"""Says why SIGTERM comes, where that is known when it does; else nothing."""


@contextmanager
def terminated_because(why: Callable[[], str]) -> Iterator[None]:
    """Within, ask this why SIGTERM comes, at once when it does; it is told in its words if it has any."""
    global _why  # noqa: PLW0603  (of the process, as signals are)
    before, _why = _why, why
    try:
        yield
    finally:
        _why = before


def program(module: str) -> str:
    """Name of the command as it was called: ``stratacube``, or ``python -m`` with a module."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return "stratacube" if Path(sys.argv[0]).name == "stratacube" else f"python -m {module}"
    return "python -m stratacube" if spec.name == "stratacube.__main__" else f"python -m {module}"


def add_common(parser: Parser, *, answers: bool = False) -> None:
    """Add the flags that every command has, and ``--json`` to one that returns an :class:`Answer` with data."""
    told = parser.add_argument_group("messages")
    told.add_argument("-v", "--verbose", action="count", default=argparse.SUPPRESS, help="more of them, with times")
    told.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="only warnings and errors")
    if answers:
        told.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON")
    parser.add_argument("--version", action=_Version, help="print the version and stop")


class _Version(argparse.Action):
    """Asks for the version only when it is wanted: that takes as long as all else before a command begins."""

    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, *_: Any) -> None:
        from stratacube import __version__  # noqa: PLC0415

        sys.stdout.write(f"stratacube {__version__}\n")
        sys.exit(0)


def run(parser: Parser, arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; its result and its errors are printed.

    Parameters
    ----------
    parser
        Of the command. Its defaults say what it does: ``run``, a :data:`Function`, and where that is so ``resumes``,
        that the same command goes on where this one was stopped, and ``timed``, that messages have times.
    arguments
        Those of the process by default.
    """
    options = parser.parse(sys.argv[1:] if arguments is None else arguments)
    function: Function = options.run
    again = "; run the same command again to go on from here" if getattr(options, "resumes", False) else ""
    with _messages(options), _terminable(), _not_lost():
        try:
            answer = function(options)
            return answer if isinstance(answer, int) else _print(answer, as_json=getattr(options, "json", False))
        except StratacubeError as error:
            code = WRONG if isinstance(error, UsageError) else FAILED
            return code if error.silent else _fail(code, f"error: {options.parser.worded(str(error))}")
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            return _fail(FAILED, f"error: {where}{error.strerror or error}; mend that and run the same command again")
        except KeyboardInterrupt as stop:
            _drop(stop)
            if isinstance(stop, Terminated):
                return _fail(TERMINATED, f"{str(stop) or 'stopped by SIGTERM'}{again}")
            return _fail(INTERRUPTED, f"stopped by Ctrl-C{again}")


def _drop(stop: KeyboardInterrupt) -> None:
    """Let go of what was at work when the command was stopped: that a coroutine was not awaited is no news then."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        traceback.clear_frames(stop.__traceback__)


def _fail(code: int, sentence: str) -> int:
    word = "error:"
    if sentence.startswith(word):
        sentence = painted(word, "red", sys.stderr) + sentence.removeprefix(word)
    sys.stderr.write(sentence + "\n")
    return code


def _print(answer: Answer, *, as_json: bool) -> int:
    text = json.dumps(answer.data, indent=1, ensure_ascii=False) if as_json else "\n".join(answer.lines)
    try:
        sys.stdout.write(text + "\n" if text else "")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough; nor may the interpreter complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return answer.code


class _Formatter(logging.Formatter):
    """Messages as sentences; warnings say so."""

    def __init__(self, form: str, parser: Parser) -> None:
        super().__init__(form)
        self.parser = parser

    def formatMessage(self, record: logging.LogRecord) -> str:
        if record.levelno >= logging.WARNING:
            colour = "yellow" if record.levelno == logging.WARNING else "red"
            record.message = f"{painted(f'{record.levelname.lower()}:', colour, sys.stderr)} {record.message}"
        return self.parser.worded(super().formatMessage(record))


@contextmanager
def _messages(options: argparse.Namespace) -> Iterator[None]:
    """Show what the packages log, on standard error, while a command runs."""
    verbose = getattr(options, "verbose", 0)
    form = "%(message)s"
    if verbose or getattr(options, "timed", False):
        form = "%(asctime)s %(name)s: %(message)s" if verbose else "%(asctime)s %(message)s"
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(form, options.parser))
    handler.addFilter(lambda record: bool(verbose) or not record.exc_info)  # tracebacks are for logs
    level = logging.WARNING if getattr(options, "quiet", False) else logging.DEBUG if verbose else logging.INFO
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(level)
    progress.bars(sys.stderr.isatty() and level <= logging.INFO)
    try:
        yield
    finally:
        progress.bars(False)
        for logger, old in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(old)


@contextmanager
def _terminable() -> Iterator[None]:
    """Within, SIGTERM stops the command as Ctrl-C does, unless someone else answers it."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    _answer_terminate(os.getpid())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _answer_terminate(owner: int) -> None:
    def stop(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends what does not stop
        if os.getpid() != owner:  # a worker that was forked
            os.kill(os.getpid(), number)
        else:
            raise Terminated(_why())

    signal.signal(signal.SIGTERM, stop)


@contextmanager
def _not_lost() -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM are not lost in what libraries call back from C code, such as pyproj's log.

    Python shows what is raised there, and goes on. A signal that comes while C code runs is raised in the first line of
    Python that follows, so that this is no rare case.
    """
    ignored, shown = sys.unraisablehook, sys.excepthook

    def come_again(lost: sys.UnraisableHookArgs) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            ignored(lost)
            return
        number = signal.SIGINT
        if issubclass(lost.exc_type, Terminated):
            number = signal.SIGTERM
            _answer_terminate(os.getpid())
        later = threading.Timer(_SOON, signal.pthread_kill, [threading.main_thread().ident, number])
        later.daemon = True
        later.start()

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):  # Cython shows here what it is about to ignore
            shown(kind, error, trace)

    sys.unraisablehook, sys.excepthook = come_again, show
    try:
        yield
    finally:
        sys.unraisablehook, sys.excepthook = ignored, shown
