"""``python -m loaders.stats STORE``: statistics of every band in one pass over tiles, composites or other cubes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cube.job.on_ranks import command_on_ranks, engine_here
from cube.job.ranks import joined
from stratacube.command import Answer, Parser, add_common, run
from stratacube.errors import UsageError
from stratacube.flags import Words
from stratacube.inside import refuse_other_json

if TYPE_CHECKING:
    from cube.engine_choice import EngineChoice
    from loaders.statistics import Statistics

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    return command_on_ranks(lambda: run(_parser(), given), lambda refusal: run(_parser(refusal), ["-"]))


def _parser(refusal: UsageError | None = None) -> Parser:
    """Parser of the command, or of one that does nothing but refuse."""
    parser = Parser("python -m loaders.stats", description=__doc__)
    parser.add_argument(
        "stores",
        nargs="+",
        metavar="STORE",
        help="folder of a build, tiles.zarr, composites.zarr, or a Zarr store with a variable a band; path or URL",
    )
    parser.add_argument("--output", type=Path, default=Path("statistics.json"), help="default: %(default)s")
    parser.add_argument("--picture", type=Path, help="histograms as PNG (default: beside the output)")
    parser.add_argument(
        "--quantity",
        help="one that the store's instrument has, such as reflectance, or mixed: the first of each band that is not "
        "its radiance (default: radiance of tiles, reflectance of other cubes)",
    )
    parser.add_argument("--bands", nargs="+", action=Words, help="such as C01 C13 (default: all)")
    parser.add_argument("--where", help="condition on the plan's columns, such as \"stratum == 'random'\"")
    parser.add_argument("--by", default="split", help="column to split by (default: %(default)s)")
    parser.add_argument("--sample", type=int, help="look at this many tiles (boxes of a cube's bands) only")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--workers", type=int, default=0, help="processes beside this one (default: %(default)s)")
    parser.add_argument(
        "--engine",
        nargs="+",
        metavar=("NAME", "KEY=VALUE"),
        help="where they are: local, dask or mpi, with options as builds have them (default: beside this process)",
    )
    parser.add_argument("--anonymous", action="store_true", help="read object storage without credentials")
    add_common(parser, answers=True)
    parser.set_defaults(run=_run if refusal is None else partial(_refuse, refusal))
    return parser


def _refuse(refusal: UsageError, _: argparse.Namespace) -> Answer:
    raise refusal


def _run(options: argparse.Namespace) -> Answer:
    refuse_other_json(options.output, "splits", "statistics")
    from loaders.counting import compute_statistics  # noqa: PLC0415  (--help does not wait for torch)
    from loaders.histogram import draw_histograms  # noqa: PLC0415

    statistics = compute_statistics(
        options.stores,
        quantity=options.quantity,
        bands=options.bands,
        where=options.where,
        by=options.by,
        sample=options.sample,
        seed=options.seed,
        workers=options.workers,
        engine=_engine(options.engine),
        storage_options={"anon": True} if options.anonymous else None,
    )
    statistics.save(options.output)
    picture = options.picture or options.output.with_suffix(".png")
    draw_histograms(statistics, picture)
    lines = (*_table(statistics), f"written: {options.output}, {picture}")
    return Answer(0, lines, {**asdict(statistics), "output": str(options.output), "picture": str(picture)})


def _engine(words: list[str] | None) -> EngineChoice | None:
    """Where parts are counted: as asked, or on the ranks there are; None for beside this process."""
    return engine_here(words) if words or joined() else None


def _table(statistics: Statistics) -> list[str]:
    """Numbers of each split as text."""
    lines = [
        f"{'split':10} {'band':5} {'valid pixels':>14} {'mean':>10} {'std':>10} {'min':>10} {'median':>10} {'max':>10}"
    ]
    for split, bands in statistics.splits.items():
        for band, s in bands.items():
            numbers = " ".join(f"{n:10.4g}" for n in (s.mean, s.std, s.min, s.percentiles.get("50", s.mean), s.max))
            lines.append(f"{split:10} {band:5} {s.count:14d} {numbers}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
