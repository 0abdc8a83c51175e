"""``python -m training.publish``: a folder others can use: weights, settings, statistics, model card, STAC item.

Written are ``weights.safetensors`` (all of the model), ``encoder.safetensors``, ``manifest.json``, ``statistics.json``,
``config.yaml``, the evaluation if there is one, ``README.md`` (the model card) and ``item.json`` (STAC with the machine
learning model extension, linked to the collection that was trained on).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from stratacube.command import Answer, Parser, add_common, run

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser("python -m training.publish", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of a run or of a checkpoint")
    parser.add_argument("--which", choices=("last", "best"), default="last", help="checkpoint of a run (default: last)")
    parser.add_argument("--part", default="", help="source of a run on a mixture (default: the first)")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder to write; it must not exist")
    parser.add_argument(
        "--collection", help="STAC collection that was trained on: path of its collection.json, or a URL"
    )
    parser.add_argument("--license", default="other", help="SPDX identifier of the weights' licence (default: other)")
    add_common(parser)
    parser.set_defaults(run=_run)
    return run(parser, arguments)


def _run(options: argparse.Namespace) -> Answer:
    from training.publication import publish  # noqa: PLC0415  (--help does not wait for torch)
    from training.runs import open_run  # noqa: PLC0415

    opened = open_run(options.checkpoint, which=options.which, part=options.part)
    publish(opened, options.output_dir, collection=options.collection, licence=options.license)
    return Answer(0, (str(options.output_dir),))


if __name__ == "__main__":
    sys.exit(main())
