"""What is fuzzed: a parser, how its inputs are laid down, and what is owed of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Parser", "Way"]

Way = Callable[[random.Random, bytes, Sequence[bytes]], bytes]
"""Damages an input; the last argument holds others of its kind, to splice from."""


@dataclass(frozen=True)
class Parser:
    """One reader of foreign bytes."""

    name: str
    lay: Callable[[Path], Sequence[Path]]
    """Writes whole inputs into an empty folder, and returns the files of them that are damaged, one a case."""
    read: Callable[[Path, Path], Any]
    """Reads, as a user does, what lies in the folder, of which one file is damaged."""
    ways: tuple[Way, ...]
    """How it is damaged."""
    is_told: bool = True
    """Whether a sentence has to name the file, or its folder."""
    same: Callable[[Any, Any], bool] | None = None
    """Where digests or checksums guard it: whether what was read is right, by what is read of the whole inputs."""
    share: float = 1.0
    """Of the cases asked for; less for what is slow."""
    imports: str = ""
    """A module that takes seconds to import, as all of torch: imported once, before processes are forked."""
