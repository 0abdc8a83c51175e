"""What a build would read, by file and byte, before any pixel is: told in words, as JSON, or as a table of ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from stratacube.addresses import plain_url
from stratacube.choices import many
from stratacube.command import Answer
from stratacube.files import human_bytes, write_text

__all__ = ["FileRead", "Part", "told"]


@dataclass(frozen=True)
class Part:
    """What is read of a file for one purpose."""

    what: str
    """Such as ``screening``, ``tiles`` or ``download``."""
    bytes: int
    """The sum of the ranges; a range that several tasks read counts as often."""
    ranges: tuple[tuple[int, int], ...] = ()
    """First byte, and the byte after the last; none where the file is read whole."""
    note: str = ""
    """What else there is to say, such as the pixels that are decoded."""


@dataclass(frozen=True)
class FileRead:
    """One file that a build would read."""

    href: str
    size: int | None
    """Bytes; None where nobody tells."""
    parts: Sequence[Part]
    error: str = ""
    """Why it cannot be read, where that is seen already."""


def told(reads: Iterable[FileRead], most: int, output: Path | None = None) -> Answer:
    """Say what would be read.

    Parameters
    ----------
    reads
        By file.
    most
        Files to list; all are in the sums and in what is written.
    output
        A CSV file to write, one row a range.
    """
    files = list(reads)
    lines = [_summary(files), *_purposes(files)]
    if most and files:
        lines += ["", f"{'read':>10} {'of':>10} {'ranges':>7}  file", *map(_line, files[:most])]
    if len(files) > most > 0:
        lines.append(f"and {many(len(files) - most, 'file')} more: list them by --files, or have all in --output FILE")
    if output is not None:
        write_text(
            output, pd.DataFrame(_rows(files), columns=["href", "what", "start", "stop", "note"]).to_csv(index=False)
        )
        lines.append(f"every range is in {output}")
    unreadable = [f for f in files if f.error]
    if unreadable:
        lines.append(f"{len(unreadable)} of them cannot be read; the first: {unreadable[0].error}")
    return Answer(int(bool(unreadable)), lines, [{**asdict(f), "href": plain_url(f.href)} for f in files])


def _summary(files: Sequence[FileRead]) -> str:
    parts = [part for file in files for part in file.parts]
    ranges = sum(max(1, len(part.ranges)) for part in parts)
    read, size = sum(part.bytes for part in parts), sum(file.size or 0 for file in files)
    again = read - sum(map(_once, files))
    told = human_bytes(read) + (f", {human_bytes(again)} of it again," if again else "")
    return f"reads {told} in {many(ranges, 'range')} of {many(len(files), 'file')} of {human_bytes(size)}"


def _once(file: FileRead) -> int:
    """Bytes of a file that are read at all."""
    read = end = 0
    for start, stop in sorted(r for part in file.parts for r in part.ranges or ((0, part.bytes),)):
        read += max(0, stop - max(start, end))
        end = max(end, stop)
    return read


def _purposes(files: Sequence[FileRead]) -> Iterator[str]:
    found: dict[str, list[int]] = {}
    for file in files:
        for part in file.parts:
            found.setdefault(part.what, []).append(part.bytes)
    for what, amounts in found.items():
        yield f"  {what}: {human_bytes(sum(amounts))} of {many(len(amounts), 'file')}"


def _line(file: FileRead) -> str:
    read = human_bytes(sum(part.bytes for part in file.parts))
    size = "?" if file.size is None else human_bytes(file.size)
    ranges = sum(max(1, len(part.ranges)) for part in file.parts)
    notes = "; ".join(dict.fromkeys(part.note for part in file.parts if part.note))
    return f"{read:>10} {size:>10} {ranges:>7}  {plain_url(file.href)}{f' ({notes})' if notes else ''}"


def _rows(files: Sequence[FileRead]) -> Iterator[tuple[str, str, int, int, str]]:
    for file in files:
        for part in file.parts:
            for start, stop in part.ranges or ((0, part.bytes),):
                yield plain_url(file.href), part.what, start, stop, part.note
