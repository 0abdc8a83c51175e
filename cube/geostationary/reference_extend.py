"""How files get into a virtual cube: appended to their band's leaves, or put between what is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pandas as pd

from catalog.geostationary.scans import SourceFile
from cube.geostationary.dialect import dialect_of
from cube.geostationary.file_index import FileIndex
from cube.geostationary.reference_leaf import Leaf
from cube.geostationary.reference_view import LeafEntry, Month, View, row_of

__all__ = ["IndexLater", "Later", "extended"]


class IndexLater(NamedTuple):
    """A file whose index is loaded when it is written: a day of full disks holds a hundred megabytes of them."""

    source: SourceFile
    load: Callable[[], FileIndex]


Later = FileIndex | IndexLater


def extended(view: View, news: Mapping[int, Mapping[str, Sequence[Later]]]) -> View:
    """Write files of one satellite and sector; what is listed stays readable until the result is written.

    Parameters
    ----------
    view
        What there is.
    news
        Files by channel and month (``YYYY-MM``), none of which is there.

    Returns
    -------
    View
        What is to be listed.
    """
    bands = [_Band(view, channel, files) for channel, files in sorted(news.items())]
    months = dict(view.months)
    for month in sorted({month for band in bands for month in band.months}):
        rows = [row for band in bands if month in band.months for row in band.write(month)]
        first = dict(months[month].first) if month in months else {}
        for band in bands:
            for name in band.own if band.inserts and month in band.months else ():
                first.pop(name, None)
            first |= band.first.get(month, {})
        if rows:
            frame, anew = view.frame(month), [b.channel for b in bands if b.inserts and month in b.news]
            if len(frame):
                frame = pd.concat([frame[~frame["channel"].isin(anew)], pd.DataFrame(rows)], ignore_index=True)
            else:
                frame = pd.DataFrame(rows)
            months[month] = Month(view.save_table(month, frame), len(frame), first)
        else:
            months[month] = replace(months[month], first=first)
    own = {name for band in bands for name in band.own}
    leaves = {name: leaf for name, leaf in view.leaves.items() if name not in own}
    for band in bands:
        leaves |= band.close()
    return View(view.folder, dict(sorted(months.items())), dict(sorted(leaves.items())))


@dataclass
class _Band:
    """One band to which files are added."""

    view: View
    channel: int
    news: Mapping[str, Sequence[Later]]
    first: dict[str, dict[str, int]] = field(default_factory=dict)
    """Positions of the first scans of months that were written, by leaf."""

    def __post_init__(self) -> None:
        self.own = {name: leaf for name, leaf in self.view.leaves.items() if leaf.channel == self.channel}
        begin = min(file.source.start for files in self.news.values() for file in files)
        self.inserts = begin.isoformat() <= self.view.last.get(self.channel, "")
        """Whether some come before the end of what is there; then all from their month on is written anew."""
        self.kept = {name: leaf.scans for name, leaf in self.own.items()}
        self.months = {*self.news}
        if self.inserts:
            later = [month for month in self.view.months if month >= min(self.news)]
            self.months |= {*later}
            for name in self.own:
                firsts = [self.view.months[m].first[name] for m in later if name in self.view.months[m].first]
                self.kept[name] = min([self.kept[name], *firsts])
        self.writers: dict[str, Leaf] = {}
        self.last: dict[str, str] = {}

    def write(self, month: str) -> list[dict[str, Any]]:
        """Write the band's files of a month; return their rows, of months that nothing is added to none."""
        files: dict[Any, Later] = {}
        if self.inserts and month in self.view.months:
            for reference in self.view.references(month, [self.channel]):
                files[reference.header.source.identity] = IndexLater(reference.header.source, reference.load)
                if self.kept.get(name := _name(reference.header), 0) > 0:  # the rest of it may be replaced by another
                    self._writer(name, reference.header)
        files |= {file.source.identity: file for file in self.news.get(month, ())}
        first = self.first.setdefault(month, {})
        rows = []
        for file in sorted(files.values(), key=lambda f: f.source.start):
            index = file.load() if isinstance(file, IndexLater) else file
            name = _name(index)
            position = self._writer(name, index.without_chunks()).add(index)
            self.last[name] = index.source.start.isoformat()
            base = self._base(month, name, position)
            if month in self.news:
                rows.append(row_of(index) | {"leaf": name, "position": position - base})
            first[name] = base
        return rows

    def _base(self, month: str, name: str, position: int) -> int:
        known = self.first[month].get(name)
        if known is None and not self.inserts and month in self.view.months:
            known = self.view.months[month].first.get(name)
        return position if known is None else known

    def _writer(self, name: str, header: FileIndex) -> Leaf:
        if name not in self.writers:
            old, kept, folder = self.own.get(name), self.kept.get(name, 0), self.view.folder
            if old is None:
                leaf = Leaf(folder / name, header)
            elif kept == old.scans:
                leaf = Leaf(folder / old.folder, header, kept)
            else:  # beside what it replaces
                leaf = Leaf(
                    folder / (name if old.folder != name else f"{name}.1"), header, kept, of=folder / old.folder
                )
            self.writers[name] = leaf
        return self.writers[name]

    def close(self) -> dict[str, LeafEntry]:
        """Finish what was written; return the band's leaves."""
        leaves = {name: leaf for name, leaf in self.own.items() if self.kept[name] == leaf.scans}
        for name, writer in self.writers.items():
            writer.close()
            last = self.last.get(name) or self.own[name].last
            leaves[name] = LeafEntry(writer.folder.name, writer.scans, self.channel, last)
        return leaves


def _name(index: FileIndex) -> str:
    return f"{dialect_of(index.source.platform).names.bands[index.source.channel].name}-{index.signature}"
