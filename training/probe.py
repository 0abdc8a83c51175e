"""``python -m training.probe``: how well a linear classifier on frozen features tells the classes of the samples apart.

Beside the model's features stand those of the same model with random weights, plain statistics of the pixels, and the
commonest class. The classifier is fitted on training samples and judged on validation samples.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from stratacube.command import Answer, Parser, add_common, run
from stratacube.files import write_text
from stratacube.inside import refuse_other_json

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser("python -m training.probe", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of a run, a checkpoint, or a published model")
    parser.add_argument("--label", help="column of the plan that classes the samples, if not the config's data.label")
    parser.add_argument("--batches", type=int, help="batches to fit on (default: one epoch)")
    parser.add_argument("--output", type=Path, help="JSON file to write (default: probe.json in CHECKPOINT)")
    add_common(parser, answers=True)
    parser.set_defaults(run=_run)
    return run(parser, arguments)


def _run(options: argparse.Namespace) -> Answer:
    output = options.output or options.checkpoint / "probe.json"
    refuse_other_json(output, "scores", "scores of a probe")
    from training.probing import probe  # noqa: PLC0415  (--help does not wait for torch)
    from training.runs import open_run  # noqa: PLC0415

    changes = {"data": {"label": options.label}} if options.label else {}
    result = probe(open_run(options.checkpoint, changes), batches=options.batches)
    write_text(output, json.dumps(result, indent=1) + "\n")
    lines = (
        f"{name:16s} accuracy {scores['accuracy']:.3f}  balanced {scores['balanced']:.3f}"
        for name, scores in result["scores"].items()
    )
    return Answer(0, tuple(lines), result)


if __name__ == "__main__":
    sys.exit(main())
