"""``python -m training.demo``: a short pre-training on the tiles of a build, on a CPU, and a picture of the result.

It takes a minute or two: a small temporal model, trained on three quarters of the tiles and judged on the others beside
the baselines.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from stratacube.command import Answer, Parser, add_common, run
from stratacube.errors import UsageError
from training.config import PretrainConfig, validate

if TYPE_CHECKING:
    from training.validate import Report

__all__ = ["demo_config", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser("python -m training.demo", description=__doc__)
    parser.add_argument("build", type=Path, help="folder of a build")
    parser.add_argument("--output-dir", type=Path, help="folder of the run (default: training/ in BUILD)")
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps (default: 600)")
    add_common(parser)
    parser.set_defaults(run=_run, resumes=True)
    return run(parser, arguments)


def _run(options: argparse.Namespace) -> Answer:
    from loaders.counting import compute_statistics  # noqa: PLC0415  (--help does not wait for torch)
    from training.evaluation import evaluate, table  # noqa: PLC0415
    from training.runs import open_run  # noqa: PLC0415
    from training.trainer import Trainer  # noqa: PLC0415

    output = options.output_dir or options.build / "training"
    output.mkdir(parents=True, exist_ok=True)
    compute_statistics([str(options.build)]).save(output / "statistics.json")
    trainer = Trainer(demo_config(options.build, output, options.steps))
    tiles = trainer.data.train.samples
    sys.stdout.write(f"{trainer.parameters / 1e6:.1f} M parameters learn from {tiles} tiles\n")
    trainer.fit()
    report = evaluate(open_run(output), output / "evaluation", pictures=4)
    picture = output / "evaluation" / "pictures" / "sample_000.png"
    lines = (table(report), _verdict(report), "pictures of four held-out tiles, the first:", str(picture))
    return Answer(0, lines)


def _verdict(report: Report) -> str:
    """Say how far below the errors of the baselines those of the model are, in the mean of all bands."""
    errors: dict[str, dict[str, float]] = defaultdict(dict)
    for row in report.rows:
        errors[row["method"]][row["band"]] = row["rmse"]
    model = errors.pop("model")
    shares = {method: fmean(model[band] / found[band] for band in model) for method, found in errors.items()}
    told = ", ".join(f"{share:.2f} of {method}" for method, share in shares.items())
    return f"error of the model on hidden patches of held-out tiles: {told}"


def demo_config(build: Path, output: Path, steps: int) -> PretrainConfig:
    """Make a config that fits a build: its bands on one grid, its steps, and squares of 96 pixels at most.

    Raises
    ------
    UsageError
        If the build has fewer than four tiles.
    """
    from loaders.store import TileStore  # noqa: PLC0415

    store = TileStore.open(str(build))
    if len(store) < 4:
        raise UsageError(f"{build} has {len(store)} tiles, too few to learn from some and judge on others; build more")
    shape = store.bands[0].shape
    bands = [band.name for band in store.bands if band.shape == shape]
    held_out = max(1, len(store) // 4)
    patch = 16 if min(shape[1:]) >= 64 else 8
    side = min(96, *shape[1:]) // patch * patch
    values: dict[str, Any] = {
        "name": "demo",
        "output_dir": str(output),
        "model": {
            "kind": "temporal",
            "size": "nano",
            "bands": bands,
            "frames": shape[0],
            "image_size": side,
            "patch_size": patch,
            "mask_ratio": 0.6,
        },
        "data": {
            "source": "tiles",
            "stores": [{"path": str(build)}],
            "where": f"tile < {len(store) - held_out}",
            "validation_where": f"tile >= {len(store) - held_out}",
            "statistics": str(output / "statistics.json"),
            "batch_size": min(4, len(store) - held_out),
            "rotations": True,
            "workers": 0,
        },
        "optimizer": {"lr": 2e-3, "min_lr": 1e-5, "steps": steps, "warmup_steps": min(20, steps), "clip": 1.0},
        "run": {"accelerator": "cpu", "devices": 1},
        "checkpoints": {"every_steps": 200, "keep_last": 1, "keep_best": 0},
        "validation": {"every_epochs": None},
    }
    return validate(values, "demo")


if __name__ == "__main__":
    sys.exit(main())
