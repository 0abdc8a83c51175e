"""Screening: which of the scans that tiles would be cut from are fit, and the record of it, a row a file."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd

from catalog.geostationary.scans import Scan, SourceFile
from cube.geostationary.dialect import dialect_of
from cube.geostationary.index import index_file
from cube.geostationary.index_cache import with_current_stat
from cube.geostationary.screen_file import FileRecord, record_of
from cube.geostationary.screen_rows import FLAGS, ROW_FAULTS
from cube.geostationary.screen_rules import NEAR, Verdict, judge, neighbours, strangers, told_unfit
from cube.job.run import Run
from stratacube.choices import many
from stratacube.errors import SourceError, UnavailableError
from stratacube.guard import guarded
from stratacube.parquet import read_frame, write_frame

__all__ = ["ScreenTask", "Screened", "Screening", "add_unfit"]

Unfit = dict[str, dict[int, str]]
_WORDS = ("fit", "flagged", "unfit")


@dataclass(frozen=True)
class ScreenTask:
    """Look at one file, in a worker."""

    source: SourceFile
    scan: str
    good: tuple[int, ...]
    full: bool
    cache: Path
    endpoint_url: str | None = None

    @property
    def key(self) -> str:
        """Name among the tasks of a run."""
        return self.source.href

    def look(self) -> FileRecord:
        """Return what is found of it; that it is damaged is a finding, that it cannot be read now is none.

        Raises
        ------
        UnavailableError
            If it could not be read now.
        """
        try:
            index = index_file(self.source, self.cache, self.endpoint_url)
            return record_of(index, self.scan, self.good, full=self.full, endpoint_url=self.endpoint_url)
        except UnavailableError:
            raise
        except SourceError as error:
            return FileRecord.damaged(with_current_stat(self.source), self.scan, str(error))


class Screening:
    """Screens scans as they are asked for, each once; see :data:`cube.geostationary.plan.Screen`.

    Parameters
    ----------
    run
        Whose workers look.
    good
        Flags whose pixels are valid.
    full
        Look at all chunks, not at a few.
    cache
        Folder of cached indexes.
    endpoint_url
        S3 endpoint, for files on S3.
    listed
        All scans there are, sorted by start: what a scan is compared with is told by them, not by what is asked for.
    """

    def __init__(
        self,
        run: Run,
        good: Sequence[int],
        full: bool,
        cache: Path,
        endpoint_url: str | None,
        listed: Iterable[Scan] = (),
    ) -> None:
        self.run, self.good, self.full, self.cache, self.endpoint_url = run, tuple(good), full, cache, endpoint_url
        self._by_sector: dict[Any, list[Scan]] = defaultdict(list)
        for scan in listed:
            self._by_sector[scan.platform, scan.sector].append(scan)
        self.records: dict[str, list[FileRecord]] = {}
        """By scan, also of those that others were compared with."""
        self.judged: set[str] = set()
        """Scans that were asked for."""
        self.verdicts: dict[str, Verdict] = {}
        """By address."""

    def __call__(self, scans: Sequence[Scan]) -> Unfit:
        """Screen scans that were not yet; return the channels of all of these that are not fit, and why, by scan.

        Raises
        ------
        UnavailableError
            If a file could not be read now.
        """
        fresh = [scan for scan in scans if scan.id not in self.judged]
        near = {scan.id: self._near(scan) for scan in fresh}
        self._look([*fresh, *(other for some in near.values() for other in some)])
        for scan in fresh:
            self._judge(scan, near[scan.id])
        return self._unfit(scans)

    def _near(self, scan: Scan) -> list[Scan]:
        """The scans before and after one, within an hour; where there is none on one side, two of the other."""
        scans = self._by_sector[scan.platform, scan.sector]
        at = bisect_left(scans, (scan.start, scan.id), key=lambda s: (s.start, s.id))
        places = [at - 1, at + 1, at - 2, at + 2]
        found = [scans[i] for i in places if 0 <= i < len(scans) and abs(scans[i].start - scan.start) <= NEAR]
        return found[:2]

    def _look(self, scans: Iterable[Scan]) -> None:
        """Look at the files of scans that were not looked at yet."""
        wanted = {scan.id: scan for scan in scans if scan.id not in self.records}
        tasks = [
            ScreenTask(file, scan.id, self.good, self.full, self.cache, self.endpoint_url)
            for scan in wanted.values()
            for _, file in sorted(scan.files.items())
        ]
        found: dict[str, list[FileRecord]] = defaultdict(list)
        for outcome in self.run.do(tasks, ScreenTask.look, "screening"):
            if outcome.result is None:
                raise UnavailableError(f"{outcome.task.key} could not be screened ({outcome.error})") from outcome.fault
            found[outcome.task.scan].append(outcome.result)
        self.records |= {scan: sorted(records, key=lambda r: r.channel) for scan, records in found.items()}

    def _judge(self, scan: Scan, near: Sequence[Scan]) -> None:
        records = self.records.get(scan.id, [])
        moves = scan.sector in dialect_of(scan.platform).names.moving
        aside = strangers(records, [] if moves else [r for n in near for r in self.records.get(n.id, ())])
        for record in records:
            if other := aside.get(record.href):
                self.verdicts[record.href] = Verdict("unfit", other)
                continue
            alike = {n.id: neighbours(record, self.records.get(n.id, ())) for n in near}
            others = {scan: found[0] for scan, found in alike.items() if found}
            foreign = [[r for r in self.records[n] if r.level == 2 and r.href != o.href] for n, o in others.items()]
            self.verdicts[record.href] = judge(record, [*others.values()], foreign)
        self.judged.add(scan.id)

    def _unfit(self, scans: Sequence[Scan]) -> Unfit:
        unfit: Unfit = defaultdict(dict)
        for scan in scans:
            for record in self.records.get(scan.id, ()):
                verdict = self.verdicts[record.href]
                if verdict.word == "unfit":
                    unfit[scan.id][record.channel] = _told(record, verdict)
        return dict(unfit)

    @property
    def words(self) -> str:
        """What came of it."""
        count = Counter(verdict.word for verdict in self.verdicts.values())
        found = f"{count['unfit']} not fit to be used" + f", {count['flagged']} flagged" * bool(count["flagged"])
        return f"screened {many(len(self.verdicts), 'file')} of {many(len(self.judged), 'scan')}: {found}"

    def write(self, path: Path) -> None:
        """Write the record: a row a file, in order of time and channel."""
        records = sorted(
            (r for scan in self.judged for r in self.records.get(scan, ())), key=lambda r: (r.start, r.scan, r.channel)
        )
        write_frame(path, pd.DataFrame([_row(r, self.verdicts[r.href]) for r in records], columns=_COLUMNS))


class Screened:
    """What a screening found, read from its record.

    Parameters
    ----------
    path
        Of the record.
    """

    def __init__(self, path: Path) -> None:
        with guarded(f"{path} is not the record of a screening", "run the same command again to have it made anew"):
            table = read_frame(path, ["scan", "channel", "href", "size", "tag", "verdict", "reason"])
            worst = table.groupby("scan")["verdict"].agg(lambda verdicts: max(verdicts, key=_WORDS.index))
        self.by_scan: dict[str, str] = {str(scan): str(word) for scan, word in worst.items()}
        """The worst verdict on a file of each scan: ``fit``, ``flagged`` or ``unfit``."""
        self._rows: dict[str, list[Any]] = defaultdict(list)
        for row in table[table["verdict"] == "unfit"].itertuples():
            self._rows[row.scan].append(row)

    def __call__(self, scans: Sequence[Scan]) -> Unfit:
        """Channels of scans that are not fit, and why; what was not screened is taken as fit."""
        return {
            scan.id: {row.channel: row.reason for row in self._rows[scan.id]} for scan in scans if scan.id in self._rows
        }

    def lost(self, files: Mapping[int, SourceFile], scan: str) -> dict[str, str]:
        """Of a scan's files, those that are not fit and still what they were when they were screened, and why.

        A file that was fetched since is what it was on S3.
        """
        lost = {}
        for row in self._rows.get(scan, ()):
            file = files.get(row.channel)
            now = None if file is None else with_current_stat(file)
            if now is not None and _is_same(now, row):
                lost[now.href] = row.reason
        return lost


def _is_same(now: SourceFile, row: Any) -> bool:
    """Whether a file is still what it was when it was screened; one that was fetched since has another tag."""
    if row.href.startswith("s3://") and not now.href.startswith("s3://"):
        return now.size == row.size and PurePath(now.href).name == PurePath(row.href).name
    return (now.href, now.size, now.tag) == (row.href, row.size, row.tag)


def add_unfit(path: Path, found: Sequence[FileRecord]) -> None:
    """Change the record of a screening where tiles showed that files are not fit to be used; ``error`` says why."""
    table = read_frame(path)
    for record in found:
        at = np.flatnonzero((table["scan"] == record.scan) & (table["channel"] == record.channel))
        if not len(at):
            row = pd.DataFrame([_row(record, Verdict("unfit", record.error))], columns=table.columns)
            table = pd.concat([table, row.astype(table.dtypes.to_dict())], ignore_index=True)
            continue
        table.loc[at[0], ["href", "size", "tag"]] = [record.href, record.size, record.tag]
        table.loc[at[0], ["verdict", "reason"]] = ["unfit", record.error]
    write_frame(path, table.sort_values(["start", "scan", "channel"], ignore_index=True))


def _told(record: FileRecord, verdict: Verdict) -> str:
    return verdict.reason if record.error else told_unfit(record.href, verdict.reason)


_COLUMNS = [
    *("scan", "platform", "sector", "channel", "start", "href", "size", "tag", "verdict", "reason", "level"),
    *("seconds", "stored_bytes", "earth_chunks", "constant_chunks", "unwritten_chunks", "told_valid", "chunks"),
    *("rows", *(f"{name}_rows" for name in ROW_FAULTS), "valid", *(f"flag_{n}" for n in range(FLAGS)), "flag_other"),
    *("empty", "seams", "stripes", "spread", "middle", "small"),
]


def _row(record: FileRecord, verdict: Verdict) -> dict[str, Any]:
    values = asdict(record)
    shares = {f"{name}_rows": share for name, share in record.row_shares.items()}
    names = [*(f"flag_{n}" for n in range(FLAGS)), "flag_other"]
    told = {"verdict": verdict.word, "reason": _told(record, verdict) if verdict.word == "unfit" else verdict.reason}
    return values | shares | dict(zip(names, record.flags, strict=False)) | told
