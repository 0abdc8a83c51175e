"""``python -m cube.build``: build, and look at what was built.

Exit codes: 0 all done; 1 something failed, with a table of counted messages; 2 wrong use or configuration.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cube.config import add_flags, load_config
from stratacube.errors import StratacubeError, UsageError

__all__ = ["JOBS", "Job", "main"]


@dataclass(frozen=True)
class Job:
    """A command that is described by a configuration: where its model and its function are."""

    help: str
    module: str
    config: str
    function: str

    def load(self, path: str) -> Any:
        """Import ``module:name`` of this job's package."""
        module, _, name = path.partition(":")
        return getattr(import_module(f"{self.module}.{module}"), name)


JOBS = {
    "abi": Job("stratified ABI tiles", "cube", "config:AbiConfig", "abi.run:run_abi"),
    "sentinel2": Job("Sentinel-2 median composites", "cube.sentinel2", "config:Sentinel2Config", "run:run_sentinel2"),
    "make-grid": Job("a grid of cells", "cube.sentinel2", "config:GridConfig", "run:run_make_grid"),
}
"""Jobs by command: a new source is one line here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().handlers = [handler]
    logging.getLogger().setLevel(logging.INFO)
    given = _dashes(sys.argv[1:] if arguments is None else arguments)
    options = _parser(given).parse_args(given)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except StratacubeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:
        where = error.filename or "a file of the build"
        sys.stderr.write(f"error: {where}: {error.strerror or error}; mend that and run the same command again\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped; run the same command again to go on from here\n")
        return 1


def _dashes(arguments: Sequence[str]) -> list[str]:
    """Accept ``--flag_name`` for ``--flag-name``."""
    fixed = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        fixed.append(flag.replace("_", "-") + equals + value if flag.startswith("--") else argument)
    return fixed


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cube.build", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    for name, job in JOBS.items():
        command = commands.add_parser(name, help=job.help, allow_abbrev=False)
        command.add_argument("--config", type=Path, help="YAML file of the same keys; flags override it")
        if arguments[:1] == [name]:  # the libraries of the other jobs need not be imported
            add_flags(command, job.load(job.config))
        command.set_defaults(run=_run_job, job=job)

    for name, run, text in (
        ("status", _status, "how far a build is"),
        ("verify", _verify, "check everything a build should hold"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("output_dir", type=Path, help="folder of the build")
        command.set_defaults(run=run)

    demo = commands.add_parser("demo", help="the whole path on a small archive written here, or on real files")
    demo.add_argument("--output-dir", type=Path, default=Path("demo"), help="where to write (default: demo)")
    demo.add_argument("--archive", type=Path, help="folder of real ABI files instead of a synthetic archive")
    demo.add_argument("--archive-only", type=Path, help="write the synthetic archive into this folder and stop")
    demo.set_defaults(run=_demo)
    return parser


def _run_job(options: argparse.Namespace) -> int:
    job: Job = options.job
    flags = {k: v for k, v in vars(options).items() if k not in ("run", "job", "config")}
    return _show(job.load(job.function)(load_config(job.load(job.config), options.config, flags)))


def _show(answer: Any) -> int:
    sys.stdout.write("".join(f"{line}\n" for line in answer.lines))
    return int(answer.code)


def _status(options: argparse.Namespace) -> int:
    from cube.job.inspect import status  # noqa: PLC0415

    return _show(status(options.output_dir))


def _verify(options: argparse.Namespace) -> int:
    from cube.job.inspect import verify  # noqa: PLC0415

    return _show(verify(options.output_dir))


def _demo(options: argparse.Namespace) -> int:
    from cube.demo import run_demo, write_demo_archive  # noqa: PLC0415

    if options.archive_only is not None:
        write_demo_archive(options.archive_only)
        return 0
    return run_demo(options.output_dir, options.archive)


if __name__ == "__main__":
    sys.exit(main())
