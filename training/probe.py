"""``python -m training.probe``: how much frozen features tell of what samples are labelled by, classes or numbers.

A linear model, whose penalty is tuned on training samples, and their nearest neighbours are judged on validation
samples. Beside the model's features stand those of the same model with random weights, plain statistics of the pixels,
and the commonest class (of numbers the mean).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stratacube.command import Answer, Parser, add_common, run
from stratacube.files import write_text
from stratacube.inside import refuse_other_json

__all__ = ["main"]

_SCORES = ("accuracy", "balanced", "rmse", "r2")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser("python -m training.probe", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of a run, a checkpoint, or a published model")
    parser.add_argument("--label", help="column of the plan, or landcover, if not the config's data.label")
    parser.add_argument(
        "--task",
        choices=("classes", "numbers"),
        help="what the label holds (default: classes where it is text or whole numbers)",
    )
    parser.add_argument("--part", default="", help="source of a run on a mixture (default: the first)")
    parser.add_argument("--batches", type=int, help="batches to fit on (default: one epoch)")
    parser.add_argument(
        "--output",
        type=Path,
        help="JSON file to write (default: probe.json in CHECKPOINT, of a mixture probe-PART.json)",
    )
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
    from training.probing import probe  # noqa: PLC0415  (--help does not wait for torch)
    from training.runs import judged_on, open_run  # noqa: PLC0415

    changes = {"data": {"label": options.label}} if options.label else {}
    if options.output is not None:  # before anything is opened
        refuse_other_json(options.output, "scores", "scores of a probe")
    opened = judged_on(open_run(options.checkpoint, changes, part=options.part), options.data, fitted=True)
    output = options.output or options.checkpoint / f"{opened.named('probe')}.json"
    refuse_other_json(output, "scores", "scores of a probe")
    result = probe(opened, batches=options.batches, task=options.task)
    write_text(output, json.dumps(result, indent=1) + "\n")
    return Answer(0, tuple(_lines(result)), result)


def _lines(result: dict[str, Any]) -> Iterator[str]:
    """A table: features, method, scores."""
    for name, scores in result["scores"].items():
        yield f"{name:17s} {_told(scores)}"
        if "neighbours" in scores:
            yield f"{'  ' + 'neighbours':17s} {_told(scores['neighbours'])}"


def _told(scores: dict[str, Any]) -> str:
    numbers = {key: value for key, value in scores.items() if isinstance(value, float | int)}
    return "  ".join(f"{key} {value:.3f}" if key in _SCORES else f"{key} {value:g}" for key, value in numbers.items())


if __name__ == "__main__":
    sys.exit(main())
