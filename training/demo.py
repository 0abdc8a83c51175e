"""``python -m training.demo``: a short pre-training on the tiles of a build, on a CPU, and a picture of the result.

It takes a minute or two: a small temporal model, trained on tiles that share no pixel and time with those it is judged
on, a quarter of all, beside the baselines.
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
from stratacube.errors import SourceError, UsageError
from training.config import PretrainConfig, validate

if TYPE_CHECKING:
    from loaders.store import TileStore
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
    from training.evaluation import evaluate, table  # noqa: PLC0415  (--help does not wait for torch)
    from training.runs import open_run  # noqa: PLC0415
    from training.trainer import Trainer  # noqa: PLC0415

    output = options.output_dir or options.build / "training"
    output.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(demo_config(options.build, output, options.steps))
    tiles = trainer.data.train.samples
    sys.stdout.write(f"{trainer.parameters / 1e6:.1f} M parameters learn from {tiles} tiles\n")
    trainer.fit()
    report = evaluate(open_run(output), output / "evaluation", pictures=4)
    picture = output / "evaluation" / "pictures" / "sample_000.png"
    lines = (table(report), _verdict(report), "pictures of four held-out tiles, the first:", str(picture))
    return Answer(0, lines)


def _verdict(report: Report) -> str:
    """Say how the errors of the model stand to those of the baselines in the mean of all bands, and what is less.

    Bands of which no hidden pixel was valid, or which a method has without an error, have no such ratio.
    """
    errors: dict[str, dict[str, float]] = defaultdict(dict)
    for row in report.rows:
        errors[row["method"]][row["band"]] = row["rmse"]
    alike = [band for band in errors["model"] if not all(found[band] for found in errors.values())]
    errors = {method: {b: e for b, e in found.items() if b not in alike} for method, found in errors.items()}
    model = errors.pop("model")
    left_out = f" (without {', '.join(alike)}: no valid hidden pixel, or no error to compare)" if alike else ""
    if not model:
        return f"error of the model on hidden patches of held-out tiles: no band can be compared{left_out}"
    shares = {method: fmean(model[band] / found[band] for band in model) for method, found in errors.items()}
    told = ", ".join(f"{share:.2f} of {method}" for method, share in shares.items())
    lost = {method: sum(model[band] >= found[band] for band in model) for method, found in errors.items()}
    less = [f"{method} in {bands} of {len(model)} bands" for method, bands in lost.items() if bands]
    verdict = f"it does not beat {', '.join(less)}" if less else "it beats each in every band"
    return f"error of the model on hidden patches of held-out tiles: {told}; {verdict}{left_out}"


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
    train, held_out = _parts(store)
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
            "where": f"tile in {train}",
            "validation_where": f"tile in {held_out}",
            "statistics": "own",
            "batch_size": min(4, len(train)),
            "rotations": True,
            "workers": 0,
        },
        "optimizer": {"lr": 2e-3, "min_lr": 1e-5, "steps": steps, "warmup_steps": min(20, steps), "clip": 1.0},
        "run": {"accelerator": "cpu", "devices": 1},
        "checkpoints": {"every_steps": 200, "keep_last": 1, "keep_best": 0},
        "validation": {"every_epochs": None},
    }
    return validate(values, "demo")


def _parts(store: TileStore) -> tuple[list[int], list[int]]:
    """Numbers of tiles to learn from, and to judge on: a quarter, which overlap fewest others, apart from the rest."""
    from catalog.leaks import find_leaks  # noqa: PLC0415
    from loaders.extents import tile_extents  # noqa: PLC0415

    count = max(1, len(store) // 4)
    near: dict[int, set[int]] = {tile: set() for tile in range(len(store))}
    try:
        extents = tile_extents(store)
        for leak in find_leaks(extents, extents, 0.0, 0.0):
            near[leak.one].add(leak.other)
    except SourceError:  # a store that does not say where its tiles lie
        return [*range(len(store) - count)], [*range(len(store) - count, len(store))]
    held_out = sorted(sorted(near, key=lambda tile: (len(near[tile]), -tile))[:count])
    train = [tile for tile in near if tile not in held_out and not near[tile] & {*held_out}]
    if not train:
        raise UsageError(f"all tiles of {store.url} overlap those to be judged on; build more, or smaller ones")
    return train, held_out


if __name__ == "__main__":
    sys.exit(main())
