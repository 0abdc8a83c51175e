"""A work dir of the predecessor taken over: its imagery linked into another folder, each file checked first."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from catalog.sentinel2.checksums import file_digest
from catalog.sentinel2.convert import products_from_items
from catalog.sentinel2.places import place
from catalog.sentinel2.saved import load_items
from catalog.sentinel2.transfers import Transfers
from cube.config import default_workers
from cube.job.ledger import Entry, Ledger
from cube.sentinel2.config import AdoptConfig
from cube.sentinel2.digests import kind_of, manifest_of
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.intact import refuse_damaged
from cube.sentinel2.predecessor import fetched_files, next_command, not_there, safe_folders
from stratacube.choices import many
from stratacube.claim import claimed
from stratacube.command import Answer
from stratacube.errors import SourceError, UsageError
from stratacube.files import human_bytes, write_text
from stratacube.progress import iterate

__all__ = ["run_adopt"]

_NAMED = 10
"""Damaged files and missing products that are named one by one; adopted.csv has all."""


@dataclass(frozen=True)
class _Listed:
    """What a catalogue or a manifest says of a file."""

    size: int | None = None
    digest: str | None = None


@dataclass(frozen=True)
class _Found:
    """One file of the old folder, and what came of it."""

    path: Path
    name: str
    """From the folder of products on."""
    size: int
    modified: int
    checked: str
    """How: MD5, SHA3-256, decoded, parsed, or not checked."""
    reason: str = ""
    """Why it is not taken over."""
    digest: str = ""
    """The one that it has, where one is listed."""


def run_adopt(config: AdoptConfig) -> Answer:
    """Link what a work dir of the predecessor holds of imagery into another folder; the old one is only read.

    Parameters
    ----------
    config
        What to take over, and where to.

    Returns
    -------
    Answer
        Code 0 if all that is there was whole, 1 if something is cut or damaged: it is named and not linked, so that
        a build fetches it.

    Raises
    ------
    UsageError
        If the old folder is none of the predecessor's, one folder lies in the other, or the new one holds something
        else.
    """
    old, folder = config.old, Sentinel2Folder(config.work_dir, imagery=config.imagery_dir)
    safes = safe_folders(old, (folder.root, folder.archive))
    folder.refuse_foreign()
    try:
        folder.archive.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder.archive} cannot be made ({error.strerror}); give another `work_dir`") from error
    with claimed(folder.archive):
        listed = _listed(config.items or (folder.items if folder.items.is_file() else None))
        ledger, transfers = Ledger(folder.archive / "adopted.jsonl"), Transfers(folder.archive)
        found: list[_Found] = []
        with ThreadPoolExecutor(config.workers or default_workers()) as threads:
            checked = threads.map(lambda safe: _check(safe, listed, ledger), safes)
            for of_product in iterate(checked, "checking", len(safes)):
                _link(of_product, folder.archive, transfers)
                _remember(of_product, ledger)
                found += of_product
        _write_list(folder.archive / "adopted.csv", found)
    return _told(config, folder, found, not_there(old, safes))


def _listed(items: Path | None) -> dict[str, _Listed]:
    """Sizes and digests of files, by their names, as a saved search lists them."""
    if items is None:
        return {}
    found: dict[str, _Listed] = {}
    products, _ = products_from_items(load_items(items), "https")
    for product in products:
        for key, asset in product.assets.items():
            with suppress(SourceError):  # of an address that leads elsewhere there is no file
                found[str(place(product, key, asset))] = _Listed(asset.size, asset.checksum)
    return found


def _check(safe: Path, listed: Mapping[str, _Listed], ledger: Ledger) -> list[_Found]:
    """Check all files of a product, but for those that were found whole before and have not changed."""
    try:
        manifest = manifest_of(safe)
    except SourceError:  # which is not linked, for it cannot be parsed
        manifest = {}
    found = []
    for path in fetched_files(safe):
        inner = path.relative_to(safe).as_posix()
        name = f"{safe.name}/{inner}"
        told = listed.get(name, _Listed())
        told = _Listed(told.size, told.digest or manifest.get(inner))
        known = ledger.entries.get(name)
        status = path.stat()
        stamp = {"source": str(path), "size": str(status.st_size), "modified": str(status.st_mtime_ns)}
        same = known is not None and known.status == "done" and {**known.facts, **stamp} == known.facts
        same = same and told.size in (None, status.st_size)
        if known is not None and same and told.digest in (None, known.facts["digest"]):
            found.append(_whole(path, name, known.facts["checked"], known.facts["digest"]))
        else:
            found.append(_checked(path, name, told))
    return found


def _whole(path: Path, name: str, checked: str, digest: str) -> _Found:
    status = path.stat()
    return _Found(path, name, status.st_size, status.st_mtime_ns, checked, digest=digest)


def _checked(path: Path, name: str, told: _Listed) -> _Found:
    status = path.stat()
    checked, reason = "", ""
    try:
        if name.endswith(".part"):
            raise SourceError(f"{path} is a download that was cut off")
        if told.size is not None and status.st_size != told.size:
            raise SourceError(f"{path} is cut or another's: it has {status.st_size} bytes where {told.size} are listed")
        if told.digest is not None:
            checked = kind_of(told.digest)
            if file_digest(path, told.digest) != told.digest:
                raise SourceError(f"{path} has other bytes than its {checked} is of ({told.digest})")
        else:
            checked = refuse_damaged(path)
    except OSError as error:
        reason = str(error) if isinstance(error, SourceError) else f"{path} cannot be read ({error.strerror})"
    return _Found(path, name, status.st_size, status.st_mtime_ns, checked, reason, "" if reason else told.digest or "")


def _link(found: Sequence[_Found], archive: Path, transfers: Transfers) -> None:
    """Link what is whole, and take away links to what is not any more; a file that lies there itself is left alone."""
    for one in found:
        target = archive / one.name
        ours = target.is_symlink() and Path(os.readlink(target)) == one.path
        if one.reason:
            if ours:
                target.unlink()
            continue
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_symlink():  # to what was moved away since
                target.unlink()
            target.symlink_to(one.path)
            ours = True
        if ours and one.digest and not transfers.is_good(target, one.digest):
            transfers.record(target, 0, one.digest)  # so that no build makes its digest once more


def _remember(found: Sequence[_Found], ledger: Ledger) -> None:
    entries = []
    for one in found:
        facts = {"source": str(one.path), "size": str(one.size), "modified": str(one.modified)}
        facts |= {"checked": one.checked, "digest": one.digest, "reason": one.reason}
        known = ledger.entries.get(one.name)
        if known is None or dict(known.facts) != facts:
            entries.append(Entry(one.name, "failed" if one.reason else "done", facts=facts))
    if entries:
        ledger.record(*entries)


def _write_list(path: Path, found: Sequence[_Found]) -> None:
    rows = [
        {"file": f.name, "size_bytes": f.size, "checked": f.checked, "linked": int(not f.reason), "reason": f.reason}
        for f in found
    ]
    columns = ["file", "size_bytes", "checked", "linked", "reason"]
    write_text(path, pd.DataFrame(rows, columns=columns).to_csv(index=False))


def _told(config: AdoptConfig, folder: Sentinel2Folder, found: Sequence[_Found], missing: Sequence[str]) -> Answer:
    whole, bad = [f for f in found if not f.reason], [f for f in found if f.reason]
    then = next_command(config.old, folder.root, [f.name for f in found], config.imagery_dir)
    data = {
        "linked": len(whole),
        "damaged": [{"file": f.name, "reason": f.reason} for f in bad],
        "products_without_files": list(missing),
        "next": then,
    }
    lines = [*_lines(folder.archive, whole, bad, missing), f"go on with, for example: {then}"]
    return Answer(int(bool(bad)), lines, data)


def _lines(archive: Path, whole: Sequence[_Found], bad: Sequence[_Found], missing: Sequence[str]) -> Iterator[str]:
    told = ", ".join(f"{n} {way}" for way, n in sorted(Counter(f.checked for f in whole).items()))
    size = human_bytes(sum(f.size for f in whole))
    yield f"{many(len(whole), 'file')}, {size}, linked in {archive}" + (f" ({told})" if told else "")
    if bad:
        yield f"{many(len(bad), 'file')} cut or damaged, and not linked; a build fetches them:"
        yield from _some([f.reason for f in bad], f"in {archive / 'adopted.csv'}")
    if missing:
        yield f"{many(len(missing), 'product')} of its query_manifest.csv without a file; a build fetches them:"
        yield from _some(missing, "in its query_manifest.csv")


def _some(texts: Sequence[str], where: str) -> Iterator[str]:
    yield from (f"  {text}" for text in texts[:_NAMED])
    if len(texts) > _NAMED:
        yield f"  and {len(texts) - _NAMED} more, {where}"
