"""Virtual cubes on disk: kerchunk Parquet references, one virtual array for each band and encoding era.

::

    references/
      references.json               what this folder is
      collection.json               the same for STAC: an asset for each band and era, with the words that open it
      goes16-F/view.json            what there is of one satellite and sector: nothing else counts
      goes16-F/files/2020-07-....   one row a file: times, coefficients, grid, era; a table a month
      goes16-F/C13-1f3a.../         kerchunk Parquet of Rad and DQF, or what the files call them (time, y, x)

Each leaf opens by itself with ``xarray.open_dataset(leaf, engine="kerchunk")``, for one packing holds in it. Scans that
come after all that is there are appended, whatever is there before; others have the leaves of their bands written
anew, beside the old ones. ``view.json`` is replaced last, so that a killed writer has changed nothing, and the same
call goes on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from catalog.geostationary.naming import lineage_of
from catalog.geostationary.scans import Identity, better
from cube.geostationary.file_index import FileIndex
from cube.geostationary.reference_extend import IndexLater, Later, extended
from cube.geostationary.reference_leaf import count_of, refuse_mixed, shorten
from cube.geostationary.reference_stac import describe_references, read_derived
from cube.geostationary.reference_view import FILES, VIEW, Reference, View, day_references
from stratacube.claim import claimed
from stratacube.errors import SourceError, UsageError
from stratacube.files import remove, remove_strays, write_json

__all__ = [
    "IndexLater",
    "Reference",
    "is_reference_store",
    "read_references",
    "reference_views",
    "refuse_mixed",
    "write_references",
]

_MARK = "references.json"
_FORMAT = {"format": "stratacube references", "version": 2}


def is_reference_store(path: Path) -> bool:
    """Whether a folder holds references written here."""
    return (path / _MARK).exists()


def write_references(indexes: Iterable[FileIndex | IndexLater], root: Path) -> list[Path]:
    """Write or extend a reference store.

    Parameters
    ----------
    indexes
        Indexed files, in any order; files already there are kept, of two issues of one the better.
    root
        Folder of the store.

    Returns
    -------
    list of Path
        The folders of satellites and sectors that have changed.

    Raises
    ------
    UsageError
        If the folder cannot be made.
    ClaimedError
        If another process writes to it.
    SourceError
        If what is there cannot be read.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{root} cannot be made ({error.strerror}); give another folder") from error
    views: dict[str, list[Later]] = defaultdict(list)
    for index in indexes:
        source = index.source
        views[f"{source.platform}-{source.sector}{lineage_of(source.product)}"].append(index)
    with claimed(root, root / ".writing"):
        remove_strays(root)
        if not is_reference_store(root):
            write_json(root / _MARK, _FORMAT, indent=None)
        written = [root / name for name, files in sorted(views.items()) if _extend(root / name, files)]
        if written and read_derived(root / _MARK) != _FORMAT:
            write_json(root / _MARK, _FORMAT, indent=None)
        describe_references(root, reference_views(root))
    return written


def reference_views(root: Path, **wanted: str | None) -> list[View]:
    """What a store holds of each satellite and sector, or of those ``wanted`` by platform, sector and lineage."""
    found = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        lineage = lineage_of(folder.name)
        platform, _, sector = folder.name.removesuffix(lineage).partition("-")
        there = {"platform": platform, "sector": sector, "lineage": lineage}
        if all(value in (None, there[name]) for name, value in wanted.items()):
            found.append(View.read(folder))
    return found


def read_references(
    root: Path,
    *,
    platform: str | None = None,
    sector: str | None = None,
    channels: Sequence[int] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    lineage: str | None = None,
) -> list[Reference]:
    """References of a store within a period (start inclusive, end exclusive); no chunk table is read yet."""
    found: list[Reference] = []
    for view in reference_views(root, platform=platform, sector=sector, lineage=lineage):
        for month in sorted(view.months):
            first = datetime.strptime(month, "%Y-%m")
            if not (start and first + timedelta(days=31) <= start) and not (end and first >= end):
                found += view.references(month, channels)
        if not view.months:
            for day in _days(view.folder):
                date = datetime.strptime(day.name, "%Y-%j")
                if not (start and date + timedelta(days=1) <= start) and not (end and date >= end):
                    found += day_references(day)
    return [
        r
        for r in found
        if (channels is None or r.header.source.channel in channels)
        and (start is None or r.header.source.start >= start)
        and (end is None or r.header.source.start < end)
    ]


def _days(folder: Path) -> list[Path]:
    """Folders of days, as version 1 had them."""
    days = sorted(p for p in folder.iterdir() if "." not in p.name and (p / "files.parquet").exists())
    for day in days:
        try:
            datetime.strptime(day.name, "%Y-%j")
        except ValueError as error:
            raise SourceError(f"{day} is not a day of references, such as 2020-183; move it elsewhere") from error
    return days


def _extend(folder: Path, files: Sequence[Later]) -> bool:
    """Add files to what there is of one satellite and sector; return whether anything has changed."""
    folder.mkdir(exist_ok=True)
    view = View.read(folder)
    days = [] if view.months else _days(folder)
    if not days:
        _settle(view)
    else:  # of version 1: all of it is written anew
        files = [*(IndexLater(r.header.source, r.load) for day in days for r in day_references(day)), *files]
    news = _news(view, files)
    if not news:
        return False
    changed = extended(view, news)
    changed.write()
    _settle(changed)
    return True


def _settle(view: View) -> None:
    """Bring the folder to what is listed: a killed run left more."""
    leaves = {leaf.folder: leaf for leaf in view.leaves.values()}
    for path in [*view.folder.iterdir()]:
        if path.name not in (VIEW, FILES, *leaves) and not path.name.startswith("."):
            remove(path)
        elif path.name in leaves and count_of(path) != leaves[path.name].scans:
            shorten(path, leaves[path.name].scans)
    listed = {month.table for month in view.months.values()}
    for path in [*(view.folder / FILES).glob("*.parquet")]:
        if path.name not in listed:
            remove(path)


def _news(view: View, files: Iterable[Later]) -> dict[int, dict[str, list[Later]]]:
    """Files that are to be added, by channel and month; of two issues of one, the one to read."""
    by_month: dict[str, list[Later]] = defaultdict(list)
    for file in files:
        by_month[f"{file.source.start:%Y-%m}"].append(file)
    last = view.last
    news: dict[int, dict[str, list[Later]]] = defaultdict(dict)
    for month, members in sorted(by_month.items()):
        follows = all(f.source.start.isoformat() > last.get(f.source.channel, "") for f in members)
        known = {} if follows else {source.identity: source for source in view.sources(month)}
        added: dict[Identity, Later] = {}
        for file in members:
            source, there = file.source, known.get(file.source.identity)
            if there is None or (there != source and (there.href == source.href or better(source, there) is source)):
                known[source.identity] = source
                added[source.identity] = file
        for file in added.values():
            news[file.source.channel].setdefault(month, []).append(file)
    return news
