"""``stratacube cube``: make, append, open, describe and export a virtual cube of an archive."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stratacube.command import Answer, Parser, add_common
from stratacube.flags import Words

__all__ = ["add_cube_commands"]


def add_cube_commands(parser: Parser) -> None:
    """Add the commands below ``cube``."""
    below = parser.add_subparsers(required=True, metavar="COMMAND")
    make = _command(below, "make", "make a cube of an archive, or go on with one", _make)
    make.add_argument("source", metavar="ARCHIVE", help="folder of ABI or AMI files, or s3://noaa-goesNN/ABI-L1b-RadF")
    _folder(make)
    _selection(make)
    make.add_argument("--platform", help="satellite, where the archive holds several")
    make.add_argument("--sector", help="such as F, C, M1 or FD, where the archive holds several")
    make.add_argument("--product", help="such as ABI-L1b-RadF-Reproc")
    _indexing(make)
    make.add_argument("--s3-endpoint", help="S3 endpoint instead of AWS")

    append = _command(below, "append", "add to a cube what its archive has got since", _append)
    _folder(append)
    _period(append, "look at scans from here on (default: a day before the last one of the band that lags most)")
    _indexing(append)

    opened = _command(below, "open", "show a cube as xarray has it", _open)
    opened.add_argument("folder", metavar="FOLDER", help="folder of the cube, on disk or s3://bucket/folder")
    opened.add_argument("--anonymous", action="store_true", help="read object storage without credentials")
    _selection(opened)
    opened.add_argument("--platform", help="satellite, where the cube holds several")
    opened.add_argument("--sector", help="sector, where the cube holds several")

    describe = _command(below, "describe", "tell what a cube holds", _describe, answers=True)
    _folder(describe)

    export = _command(below, "export", "write a cube as an Icechunk repository", _export)
    _folder(export)
    export.add_argument("target", type=Path, metavar="TARGET", help="folder of the repository, which is not there yet")
    _selection(export)
    export.add_argument("--s3-endpoint", help="S3 endpoint instead of AWS, for source files on S3")


def _command(below: Any, name: str, text: str, function: Callable[..., Answer], *, answers: bool = False) -> Parser:
    command: Parser = below.add_parser(name, help=text, description=text)
    add_common(command, answers=answers)
    command.set_defaults(run=function, resumes=name in ("make", "append"))
    return command


def _folder(command: Parser) -> None:
    command.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the cube")


def _selection(command: Parser) -> None:
    command.add_argument("--bands", nargs="+", action=Words, help="such as C02 C13, or C08-C10 (default: all)")
    _period(command, "scans that start from here on, UTC")


def _period(command: Parser, since: str) -> None:
    command.add_argument("--start", help=since)
    command.add_argument("--end", help="scans that start before this, UTC")


def _indexing(command: Parser) -> None:
    command.add_argument("--workers", type=int, default=1, help="processes that index files (default: 1)")
    command.add_argument(
        "--engine",
        nargs="+",
        metavar=("NAME", "KEY=VALUE"),
        help="where they are: local (default), dask or mpi, with options as builds have them",
    )
    command.add_argument("--cache", type=Path, help="folder of indexes (default: the user's cache folder)")


def _make(options: argparse.Namespace) -> Answer:
    from cube.geostationary.archive_cube import make_cube  # noqa: PLC0415

    names = ("bands", "start", "end", "platform", "sector", "product", "workers", "engine", "cache", "s3_endpoint")
    return _told(options, make_cube(options.source, options.folder, **{name: getattr(options, name) for name in names}))


def _append(options: argparse.Namespace) -> Answer:
    from cube.geostationary.archive_cube import append_cube  # noqa: PLC0415

    at = {"workers": options.workers, "engine": options.engine}
    change = append_cube(options.folder, options.start, options.end, **at, cache=options.cache)
    return _told(options, change)


def _told(options: argparse.Namespace, change: Any) -> Answer:
    left_out = [f"left out: {why}" for why in change.left_out.values()]
    more = [f"{len(left_out)} files cannot be read; make and append try them again"] if left_out else []
    return Answer(int(bool(left_out)), [*left_out, f"{change.added} files added to {options.folder}", *more])


def _open(options: argparse.Namespace) -> Answer:
    from cube.geostationary.open import open_abi  # noqa: PLC0415

    tree = open_abi(
        options.folder,
        options.bands,
        options.start,
        options.end,
        platform=options.platform,
        sector=options.sector,
        chunks=None,
        storage_options={"anon": True} if options.anonymous else None,
    )
    return Answer(0, [str(tree)])


def _describe(options: argparse.Namespace) -> Answer:
    from cube.geostationary.archive_cube import describe_cube, told_cube  # noqa: PLC0415

    described = describe_cube(options.folder)
    return Answer(0, told_cube(described), described)


def _export(options: argparse.Namespace) -> Answer:
    from cube.geostationary.icechunk_export import export_icechunk  # noqa: PLC0415

    groups = export_icechunk(
        options.folder,
        options.target,
        options.bands,
        options.start,
        options.end,
        s3_endpoint=options.s3_endpoint,
    )
    return Answer(0, [f"{options.target}: {len(groups)} groups", *(f"  {name}" for name in groups)])
