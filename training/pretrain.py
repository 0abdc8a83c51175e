"""``python -m training.pretrain``: pre-train a masked autoencoder.

The same command started again goes on where the last checkpoint was written. Exit codes: 0 trained to the end; 1 it
failed; 2 wrong use or configuration; 75 a signal stopped it, state is saved, start it again; 130 Ctrl-C did (pressed
again, it ends at once, and what was done since the last checkpoint is lost).
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from stratacube.command import INTERRUPTED, STOPPED, Answer, Parser, add_common, run
from training.config import PretrainConfig, load_config, presets, print_config, slurm_job

__all__ = ["main"]

_log = logging.getLogger("training")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser("python -m training.pretrain", description=__doc__)
    parser.add_argument(
        *("-c", "--config"),
        required=True,
        help=f"YAML file (SatVision-Pix4D's too, answered key by key), or a preset: {', '.join(presets())}",
    )
    parser.add_argument("--output-dir", type=Path, help="folder of the run instead of the config's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, such as optimizer.lr=1e-4"
    )
    parser.add_argument("--print-config", action="store_true", help="print every key with its value and stop")
    parser.add_argument("--no-resume", action="store_true", help="refuse to go on from checkpoints in the folder")
    add_common(parser)
    parser.set_defaults(run=_run, resumes=True, timed=True)
    return run(parser, arguments)


def _run(options: argparse.Namespace) -> Answer | int:
    changes = [*options.set, *([f"output_dir={options.output_dir}"] if options.output_dir else [])]
    config = load_config(options.config, changes)
    if options.print_config:
        return Answer(0, (print_config(config),))
    return _train(config, resume=not options.no_resume)


def _train(config: PretrainConfig, *, resume: bool) -> int:
    from training.stopping import requeue  # noqa: PLC0415  (--help does not wait for torch)
    from training.trainer import Trainer  # noqa: PLC0415

    trainer = Trainer(config, resume=resume)
    first = trainer.fabric.is_global_zero
    if not first:  # one rank speaks for all
        _log.setLevel(logging.ERROR)
    _log.info(
        "%s: %.1f M parameters, %d ranks, %d samples a step (%d x %d a rank), %d of %d steps done",
        config.name,
        trainer.parameters / 1e6,
        trainer.fabric.world_size,
        trainer.batch,
        trainer.share.rounds,
        trainer.share.batch_size,
        trainer.step,
        trainer.schedule.steps,
    )
    if trainer.fit():
        _log.info("done: %s", trainer.checkpoints.latest())
        return 0
    if trainer.stopped_by == signal.SIGINT:
        _log.info("stopped by Ctrl-C at step %d and saved; run the same command again to go on", trainer.step)
        return INTERRUPTED
    job = slurm_job()
    if first and config.run.requeue and job is not None:
        _log.info("%s", requeue(job))
    _log.info("stopped at step %d and saved; start the same command again to go on", trainer.step)
    return STOPPED


if __name__ == "__main__":
    sys.exit(main())
