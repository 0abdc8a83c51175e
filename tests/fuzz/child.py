"""A process that takes many cases of one parser, one after the other, under limits of memory and time."""

from __future__ import annotations

import os
import random
import resource
import signal
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from stratacube.errors import StratacubeError
from tests.fuzz.parser import Parser
from tests.fuzz.plain import damaged_bytes

__all__ = ["CPU_SECONDS", "Finding", "Inputs", "take_cases"]

MEMORY = 2 << 30
"""Bytes that reading may take beyond what the process had."""
CPU_SECONDS = 10.0
"""That one case may take; a loaded machine takes longer by the clock."""
_LONGEST = 1200
"""Letters of a sentence."""
_CHECKOUT = Path(__file__).resolve().parents[2]


class _Hang(BaseException):
    """Not an Exception, so that no guard takes it for the input's fault."""


@dataclass(frozen=True)
class Finding:
    """What was found in one case."""

    parser: str
    case: int
    kind: str
    """What findings of one cause share."""
    told: str


class Inputs:
    """Whole inputs of a parser in a folder, one of which is damaged at a time."""

    def __init__(self, parser: Parser, folder: Path) -> None:
        self.parser, self.folder = parser, folder
        self.files = sorted(parser.lay(folder))
        self._whole = {path: path.read_bytes() for path in self.files}

    def damaged(self, seed: str, case: int) -> tuple[Path, bytes]:
        """The file that a case damages, and what it holds then: the same for the same seed."""
        rng = random.Random(f"{seed} {self.parser.name} {case}")
        path, way = rng.choice(self.files), rng.choice(self.parser.ways)
        others = [data for other, data in self._whole.items() if other != path and other.suffix == path.suffix]
        try:
            return path, way(rng, self._whole[path], others)
        except Exception:  # noqa: BLE001  (a library does not write what is asked of it: nothing of ours)
            return path, damaged_bytes(rng, self._whole[path], others)

    def is_whole(self, path: Path, data: bytes) -> bool:
        """Whether nothing was damaged after all."""
        return self._whole[path] == data

    def read(self, path: Path, data: bytes) -> Any:
        """What is read with a file damaged; it is whole again afterwards."""
        path.write_bytes(data)
        try:
            return self.parser.read(self.folder, path)
        finally:
            path.write_bytes(self._whole[path])

    def read_whole(self) -> Any:
        """What is read of the first file when nothing is damaged."""
        return self.parser.read(self.folder, self.files[0])


def take_cases(inputs: Inputs, seed: str, cases: range) -> Iterator[int | Finding]:
    """Yield each case's number before it is taken, and what was found in it."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, _stop)
    whole = {path: inputs.parser.read(inputs.folder, path) for path in inputs.files} if inputs.parser.same else {}
    inputs.read_whole()  # which must work, and loads what is loaded late
    _limit_memory()
    for case in cases:
        yield case
        path, data = inputs.damaged(seed, case)
        told = _judged(inputs, path, data, whole.get(path))
        if told is not None:
            yield Finding(inputs.parser.name, case, *told)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))


def _stop(_: int, frame: FrameType | None) -> None:
    raise _Hang(f"{CPU_SECONDS:g} s of CPU time were not enough")


def _judged(inputs: Inputs, path: Path, data: bytes, whole: Any) -> tuple[str, str] | None:
    """What is wrong with what comes of a case: its kind, and more words."""
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        found = inputs.read(path, data)
    except (StratacubeError, _Hang, Exception) as error:  # noqa: BLE001  (that is the question)
        signal.setitimer(signal.ITIMER_PROF, 0)
        return _fault(inputs, path, error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    same = inputs.parser.same
    if same is not None and not inputs.is_whole(path, data) and not same(found, whole):
        return "garbage was taken for what the digests guard", repr(found)[:_LONGEST]
    return None


def _fault(inputs: Inputs, path: Path, error: BaseException) -> tuple[str, str] | None:
    """What is wrong with an error, if it is not one sentence that names the file."""
    text = str(error)
    if any(isinstance(cause, MemoryError) for cause in _causes(error)):
        return f"memory at {_place(error)}", text[:_LONGEST]
    if not isinstance(error, StratacubeError):
        return f"{type(error).__name__} at {_place(error)}", "".join(traceback.format_exception(error))[-4000:]
    if "\n" in text or len(text) > _LONGEST:
        return f"more than a sentence at {_place(error)}", text[: 2 * _LONGEST]
    names = (path.name, str(path.parent), str(inputs.folder))
    if inputs.parser.is_told and not any(name in text for name in names):
        return f"no name of the file at {_place(error)}", text
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _place(error: BaseException) -> str:
    """The innermost place in the project's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if Path(f.filename).is_relative_to(_CHECKOUT) and "/tests/" not in f.filename]
    last = (own or frames)[-1]
    return f"{os.path.relpath(last.filename, _CHECKOUT)}:{last.lineno} ({last.name})"
