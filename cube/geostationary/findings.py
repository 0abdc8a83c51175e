"""Files that jobs of parts found not fit to be used in the pixels of their tiles: told by each, taken in by all.

In a build that is made in one, such a file is left out of all tiles. A job of a part knows those that it found itself,
and leaves them out of its own; whoever publishes knows them all, and has what is left made once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cube.geostationary.folder import AbiFolder
from cube.geostationary.screen_file import FileRecord
from cube.geostationary.screening import add_unfit
from cube.job.parts import Part
from cube.job.run import Run
from stratacube.files import remove
from stratacube.parquet import read_frame, write_frame

__all__ = ["Findings"]

_CHANGED = ["href", "size", "tag", "verdict", "reason"]
"""Columns of a screening that a finding changes; the others tell of the file as it was screened."""


class Findings:
    """What jobs found.

    Parameters
    ----------
    folder
        Of the build.
    part
        That of the job, for one that finds.
    """

    def __init__(self, folder: AbiFolder, part: Part | None = None) -> None:
        self.folder = folder
        self.path = folder.unfit_of("" if part is None else part.name)
        found = sorted(folder.numbers.glob(folder.unfit_of("*").name), key=_number, reverse=True)
        self.there = {path: read_frame(path) for path in found}
        """By file of a job, the last part first: of several that tell of one file, the first part is quoted."""

    def lost(self) -> dict[str, str]:
        """What this job has found, and why it is not fit, by address."""
        return _reasons(self.there[self.path]) if self.path in self.there else {}

    def note(self, records: Sequence[FileRecord]) -> None:
        """Write down what this job has found."""
        if self.path not in self.there:
            write_frame(self.path, read_frame(self.folder.screening).iloc[:0])
        add_unfit(self.path, records)
        self.there[self.path] = read_frame(self.path)

    def take_in(self, run: Run) -> dict[str, str]:
        """Have the screening tell what all jobs found; return it."""
        if not self.there:
            return {}
        run.keep("screen", self._join, lambda: [self.folder.screening], anew=True)
        return {href: why for frame in self.there.values() for href, why in _reasons(frame).items()}

    def _join(self) -> None:
        table = read_frame(self.folder.screening)
        for frame in self.there.values():
            for place in range(len(frame)):
                row = frame.iloc[[place]]
                same = (table["scan"] == row["scan"].item()) & (table["channel"] == row["channel"].item())
                at = np.flatnonzero(same)
                if len(at):
                    table.loc[at[0], _CHANGED] = row[_CHANGED].to_numpy()[0]
                else:
                    table = pd.concat([table, row.astype(table.dtypes.to_dict())], ignore_index=True)
        write_frame(self.folder.screening, table.sort_values(["start", "scan", "channel"], ignore_index=True))

    def knowing(self, shards: Sequence[int]) -> dict[int, set[str]]:
        """By shard, what the job that made it knew."""
        known: dict[int, set[str]] = {}
        for path, frame in self.there.items():
            known |= {shard: set(frame["href"]) for shard in _part(path).share(shards)}
        return known

    def put_away(self) -> None:
        """Forget what is taken in, once no tile holds pixels of it."""
        for path in self.there:
            remove(path)


def _part(path: Path) -> Part:
    number, _, of = path.stem.removeprefix("unfit-").partition("-of-")
    return Part(int(of), int(number))


def _number(path: Path) -> int:
    return _part(path).number


def _reasons(frame: pd.DataFrame) -> dict[str, str]:
    pairs: Iterable[tuple[str, str]] = zip(frame["href"], frame["reason"], strict=True)
    return dict(pairs)
