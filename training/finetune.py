"""``python -m training.finetune CHECKPOINT``: a head that tells labels, on the encoder, frozen or tuned with it.

Labels are a column of the plan (a class or a number of each tile), or what strata say of tiles: ``landcover`` (shares
of each tile), ``cloudsat`` (classes of cloud by height along a track), ``system_number`` or ``life_stage`` (of each
pixel). The head is trained on the run's training tiles and judged on its validation tiles, beside what is told without
looking; ``--compare`` trains the same head on the encoder with random weights, and on the pixels alone, too.

The same command started again goes on where the last checkpoint was written, to the same numbers. Exit codes are those
of ``training.pretrain``: 75 where a signal stopped it and all is saved.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stratacube.command import INTERRUPTED, STOPPED, Answer, Parser, add_common, run

__all__ = ["main"]

_log = logging.getLogger("training")

_SHOWN = ("accuracy", "balanced", "iou", "rmse", "r2")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser("python -m training.finetune", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of a run, a checkpoint, or a published model")
    parser.add_argument("--label", help="what is to be told, if not the config's data.label")
    parser.add_argument(
        "--task",
        choices=("classes", "numbers"),
        help="what a column of the plan holds (default: classes where it is text or whole numbers)",
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="folder of the encoder with its head")
    parser.add_argument(
        "--encoder",
        choices=("frozen", "tuned", "random", "none"),
        default="frozen",
        help="frozen, tuned at a tenth of the head's rate, frozen with random weights, or the pixels alone"
        " (default: frozen)",
    )
    parser.add_argument(
        "--compare", action="store_true", help="train the same head on random weights, and on pixels, too"
    )
    parser.add_argument("--steps", type=int, default=500, help="of the head's training (default: 500)")
    parser.add_argument("--lr", type=float, default=1e-3, help="highest rate of the head (default: 1e-3)")
    parser.add_argument("--batch-size", type=int, help="samples a step (default: data.batch_size of the config)")
    parser.add_argument("--seed", type=int, default=0, help="of the head's weights (default: 0)")
    parser.add_argument("--which", choices=("last", "best"), default="last", help="checkpoint of a run (default: last)")
    parser.add_argument("--part", default="", help="source of a run on a mixture (default: the first)")
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="STORE",
        help="stores in place of those of the run, which a published model names only",
    )
    parser.add_argument("--save-every", type=int, help="steps between two checkpoints (default: a tenth of --steps)")
    add_common(parser, answers=True)
    parser.set_defaults(run=_run, resumes=True)
    return run(parser, arguments)


def _run(options: argparse.Namespace) -> Answer | int:
    from training.finetuning import StoppedError, Tuning, finetune  # noqa: PLC0415  (--help does not wait for torch)
    from training.runs import judged_on, open_run  # noqa: PLC0415

    given = {"label": options.label, "batch_size": options.batch_size}
    changes = {"data": {key: value for key, value in given.items() if value is not None}}
    tuning = Tuning(options.encoder, options.steps, options.lr, options.seed, options.task)
    opened = judged_on(
        open_run(options.checkpoint, changes, which=options.which, part=options.part), options.data, fitted=True
    )
    try:
        result = finetune(opened, tuning, options.output_dir, compare=options.compare, every=options.save_every)[1]
    except StoppedError as stop:
        _log.info("%s", stop)
        return INTERRUPTED if stop.number == signal.SIGINT else STOPPED
    return Answer(0, tuple(_lines(result, tuning.encoder)), result)


def _lines(result: dict[str, Any], encoder: str) -> Iterator[str]:
    names = {"head": f"encoder {encoder}", "random": "encoder random", "none": "pixels alone"}
    for name, scores in result["scores"].items():
        told = [f"{key} {scores[key]:.3f}" for key in _SHOWN if scores.get(key) is not None]
        yield f"{names.get(name, name):16s} {'  '.join(told) or 'nothing to judge'}"
    yield ""
    of = "RMSE" if result["kind"] == "numbers" else "IoU"
    for name, score in result["scores"]["head"]["by_class"].items():
        yield f"{of} of {name:20s} {score:.3f}"


if __name__ == "__main__":
    sys.exit(main())
