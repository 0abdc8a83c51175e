"""``python -m training.embed CHECKPOINT SOURCE``: features of tiles, of composites or of an archive.

Written are ``features.zarr`` (features of every patch with the share of its valid pixels, and pooled ones),
``features.parquet`` (GeoParquet: pooled features with place and time), ``item.json`` (STAC) and ``map.png`` (the three
main components). The same command started again goes on where it was stopped. ``--like ROW`` of features that are there
lists the cells most like one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from cube.job.on_ranks import command_on_ranks, engine_here
from cube.job.ranks import joined
from stratacube.choices import require_least
from stratacube.command import Answer, Parser, add_common, run
from stratacube.errors import UsageError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    return command_on_ranks(lambda: run(_parser(), given), lambda refusal: run(_parser(refusal), ["-"]))


def _parser(refusal: UsageError | None = None) -> Parser:
    """Parser of the command, or of one that does nothing but refuse."""
    parser = Parser("python -m training.embed", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of a run, a checkpoint, or a published model")
    parser.add_argument(
        "source",
        nargs="?",
        help="tile store or its build, Zarr store of a cube, or with --grid an archive; path or URL",
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="folder of the features")
    parser.add_argument("--which", choices=("last", "best"), default="last", help="checkpoint of a run (default: last)")
    parser.add_argument("--part", default="", help="source of a run on a mixture (default: the first)")
    parser.add_argument("--where", help="condition on the columns of a tile store's plan (default: all tiles)")
    parser.add_argument("--bbox", nargs=4, type=float, metavar=("W", "S", "E", "N"), help="part of a cube, degrees")
    parser.add_argument("--grid", help="SOURCE is an archive for cube.open_abi, of which this group is taken: 2km, 1km")
    parser.add_argument("--start", help="first scan of an archive, UTC")
    parser.add_argument("--end", help="end of the scans of an archive, exclusive")
    parser.add_argument("--overlap", type=int, help="of neighbouring windows, pixels (default: half a window)")
    parser.add_argument("--pooled", action="store_true", help="keep pooled features only")
    parser.add_argument("--batch", type=int, default=8, help="windows encoded together (default: 8)")
    parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda (default: cpu)")
    parser.add_argument("--workers", type=int, default=1, help="images made at once, by so many processes (default: 1)")
    parser.add_argument(
        "--engine",
        nargs="+",
        metavar=("NAME", "KEY=VALUE"),
        help="where they are made: local, dask or mpi, with options as builds have them (default: here)",
    )
    parser.add_argument("--like", type=int, metavar="ROW", help="list the cells most like one of features.parquet")
    parser.add_argument("--neighbours", type=int, default=5, help="how many of them (default: 5)")
    add_common(parser, answers=True)
    parser.set_defaults(run=_run if refusal is None else partial(_refuse, refusal), resumes=True)
    return parser


def _refuse(refusal: UsageError, _: argparse.Namespace) -> Answer:
    raise refusal


def _run(options: argparse.Namespace) -> Answer:
    if options.like is not None:
        return _alike(options)
    if options.source is None:
        raise UsageError("give a source: a tile store, a cube, or an archive with `grid`")
    require_least(1, batch=options.batch, workers=options.workers)
    from training.embed_asked import Asked  # noqa: PLC0415  (--help does not wait for torch)
    from training.embedding import Manner, embed, embed_on  # noqa: PLC0415

    asked = Asked(
        options.checkpoint,
        options.source,
        options.which,
        options.where,
        None if options.bbox is None else tuple(options.bbox),
        options.grid,
        options.start,
        options.end,
        options.part,
    )
    manner = Manner(not options.pooled, options.overlap, options.batch, options.device)
    if options.engine or options.workers > 1 or joined():
        _, source = embed_on(asked, options.output_dir, manner, engine_here(options.engine), options.workers)
    else:
        opened, source = asked.open()
        embed(opened, source, options.output_dir, **asdict(manner))
    data = {"samples": source.samples, "output_dir": str(options.output_dir)}
    return Answer(0, (f"{source.samples} images", str(options.output_dir)), data)


def _alike(options: argparse.Namespace) -> Answer:
    from training.neighbours import nearest_cells  # noqa: PLC0415

    found = nearest_cells(options.output_dir, options.like, options.neighbours)
    lines, data = [], []
    for row, cell in found.iterrows():
        place = cell.geometry.centroid
        told = {"row": int(row), "sample": int(cell["sample"]), "similarity": round(float(cell["similarity"]), 4)}
        data.append(
            {**told, "longitude": round(place.x, 4), "latitude": round(place.y, 4), "start": str(cell["start"])}
        )
        lines.append("  ".join(f"{key} {value}" for key, value in data[-1].items()))
    return Answer(0, tuple(lines), data)


if __name__ == "__main__":
    sys.exit(main())
