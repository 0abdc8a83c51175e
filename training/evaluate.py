"""``python -m training.evaluate``: judge a checkpoint on its validation data, beside baselines, with pictures.

Written are ``evaluation.csv``, ``evaluation.json``, ``evaluation.md`` and ``pictures/``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from stratacube.command import Answer, Parser, add_common, run
from stratacube.flags import Words

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser("python -m training.evaluate", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of a run, a checkpoint, or a published model")
    parser.add_argument("--which", choices=("last", "best"), default="last", help="checkpoint of a run (default: last)")
    parser.add_argument("--part", default="", help="source of a run on a mixture (default: the first)")
    parser.add_argument(
        "--output-dir",
        type=Path,
        help="where to write (default: evaluation/ in CHECKPOINT, of a mixture evaluation-PART/)",
    )
    parser.add_argument("--batches", type=int, help="judge on so many batches (default: all)")
    parser.add_argument("--pictures", type=int, default=4, help="samples to draw (default: 4)")
    parser.add_argument("--bands", nargs="+", action=Words, help="bands to draw (default: the first of each group)")
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="STORE",
        help="stores in place of those of the run, which a published model names only",
    )
    add_common(parser, answers=True)
    parser.set_defaults(run=_run)
    return run(parser, arguments)


def _run(options: argparse.Namespace) -> Answer:
    from training.evaluation import evaluate, table  # noqa: PLC0415  (--help does not wait for torch)
    from training.runs import judged_on, open_run  # noqa: PLC0415

    opened = judged_on(open_run(options.checkpoint, which=options.which, part=options.part), options.data)
    output = options.output_dir or options.checkpoint / opened.named("evaluation")
    report = evaluate(opened, output, batches=options.batches, pictures=options.pictures, bands=options.bands)
    data = {"loss": report.loss, "samples": report.samples, "rows": report.rows, "output_dir": str(output)}
    return Answer(0, (table(report), str(output)), data)


if __name__ == "__main__":
    sys.exit(main())
