"""``python -m training.convert``: weights to plain timm, or from SatVision-Pix4D.

``--to timm MODEL`` writes a folder for ``timm.create_model("local-dir:FOLDER")``. ``--from satvision FILE`` writes
weights for ``init_from`` and says of each tensor what became of it; no code of the file is run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from stratacube.command import Answer, Parser, add_common, run
from stratacube.errors import UsageError
from training.config import load_config

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser("python -m training.convert", description=__doc__)
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--to", choices=("timm",), help="write weights of ours for it")
    way.add_argument("--from", dest="source", choices=("satvision",), help="read weights of it")
    parser.add_argument("weights", type=Path, help="folder of a run or a published model, or a file of weights")
    parser.add_argument("--output", type=Path, required=True, help="folder (timm) or .safetensors file (satvision)")
    parser.add_argument("--group", type=int, default=0, help="of the groups of bands, for timm (default: 0)")
    parser.add_argument("--part", default="", help="source of a run on a mixture (default: the first)")
    parser.add_argument("--config", default="satvision_pix4d", help="model to make (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the config")
    add_common(parser, answers=True)
    parser.set_defaults(run=_run)
    return run(parser, arguments)


def _run(options: argparse.Namespace) -> Answer:
    from training.conversion import from_satvision, to_timm  # noqa: PLC0415  (--help does not wait for torch)
    from training.runs import open_run  # noqa: PLC0415

    if options.to is not None:
        weights, part = options.weights, options.part
        if weights.is_dir():
            opened = open_run(weights, part=part)
            weights, part = opened.weights, opened.part
        to_timm(weights, options.output, options.group, part)
        return Answer(0, (str(options.output),), {"output": str(options.output)})
    if options.output.suffix != ".safetensors":
        raise UsageError(f"`output` is {options.output}; give a name that ends with .safetensors")
    taken = from_satvision(options.weights, load_config(options.config, options.set).model, options.output)
    lines = [
        f"{entry.name} {entry.shape}: " + (f"became {entry.became}" if entry.became else f"not loaded, {entry.reason}")
        for entry in taken
    ]
    data = [{"name": e.name, "shape": e.shape, "became": e.became, "reason": e.reason} for e in taken]
    return Answer(0, (*lines, str(options.output)), data)


if __name__ == "__main__":
    sys.exit(main())
