"""Build, and look at what was built.

Exit codes: 0 all done; 1 something failed or is missing, with a table of counted messages; 2 wrong use or
configuration; 130 stopped by Ctrl-C; 143 stopped by SIGTERM.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cube.job.ranks import refuse_ranks
from stratacube.command import Answer, Parser, add_common, program, run
from stratacube.errors import UsageError
from stratacube.flags import Completion, add_flags

__all__ = ["JOBS", "Job", "build", "main"]


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

    def run(self, config: Path | None, settings: dict[str, Any]) -> Answer | int:
        """Do the job that a file and settings describe."""
        refuse_ranks()  # before anything else can go wrong, and be said by each of them
        result: Answer | int = self.load(self.function)(self.load(self.config).load(config, settings))
        return result


JOBS = {
    "abi": Job("stratified ABI tiles", "cube", "config:AbiConfig", "abi.run:run_abi"),
    "sentinel2": Job("Sentinel-2 median composites", "cube.sentinel2", "config:Sentinel2Config", "run:run_sentinel2"),
    "make-grid": Job("a grid of cells", "cube.sentinel2", "config:GridConfig", "run:run_make_grid"),
}
"""Jobs by command: a new source is one line here."""

LOOKS = {
    "status": ("how far a build is", "cube.job.inspect:status"),
    "verify": ("check everything a build should hold", "cube.job.inspect:verify"),
    "errors": ("what went wrong in a build, counted", "cube.job.problems:errors"),
}
"""What looks at the folder of a build, by command."""


def build(source: str, config: str | Path | None = None, **settings: Any) -> Answer:
    """Build as the command line does: all that is not yet done.

    Parameters
    ----------
    source
        What to build: ``abi``, ``sentinel2`` or ``make-grid``.
    config
        YAML file of settings.
    **settings
        The command's flags as Python names and values, such as ``num_tiles=8``; they override the file.

    Returns
    -------
    Answer
        Its ``code`` is 0 if every product was made whole, 1 if something is missing.

    Raises
    ------
    UsageError
        If a setting is unknown or does not fit, or nothing matches what was asked for.
    StratacubeError
        If the build cannot be made at all.
    """
    from stratacube.settings import nearest, one_of  # noqa: PLC0415

    if source not in JOBS:
        raise UsageError(f"`source` is {source!r}: give {one_of(list(JOBS))}{nearest(str(source), list(JOBS))}")
    result = JOBS[source].run(None if config is None else Path(config), settings)
    return Answer(result) if isinstance(result, int) else result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    return run(_parser(given), given)


def _parser(arguments: Sequence[str]) -> Parser:
    completing = "--print-completion" in arguments
    parser = Parser("stratacube" if completing else program("cube.build"), description=__doc__)
    add_common(parser)
    parser.add_argument("--print-completion", action=Completion, help="print a shell's completion script and stop")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    for name, job in JOBS.items():
        command = commands.add_parser(
            name, help=job.help, description=job.help, usage="%(prog)s [--config FILE] [--FLAG VALUE ...]"
        )
        command.add_argument("--config", type=Path, help="YAML file of the same keys; flags override it")
        if name in arguments or completing:  # the models of the other jobs need not be imported
            add_flags(command, job.load(job.config))
        add_common(command, answers=True)
        command.set_defaults(run=_run_job, job=job, resumes=True)

    for name, (text, place) in LOOKS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the build")
        add_common(command, answers=True)
        command.set_defaults(run=_look, place=place)

    text = "the whole path on a small archive written here, or on real files"
    demo = commands.add_parser("demo", help=text, description=text)
    demo.add_argument("--output-dir", type=Path, default=Path("demo"), help="where to write (default: demo)")
    demo.add_argument("--archive", type=Path, help="folder of real ABI files instead of a synthetic archive")
    demo.add_argument("--archive-only", type=Path, help="write the synthetic archive into this folder and stop")
    add_common(demo)
    demo.set_defaults(run=_demo, resumes=True)
    return parser


_OURS = ("run", "job", "config", "parser", "resumes", "verbose", "quiet", "json")
"""Options that are no settings of a job."""


def _run_job(options: argparse.Namespace) -> Answer | int:
    job: Job = options.job
    return job.run(options.config, {k: v for k, v in vars(options).items() if k not in _OURS})


def _look(options: argparse.Namespace) -> Answer | int:
    module, _, name = options.place.partition(":")
    look: Callable[[Path], Answer | int] = getattr(import_module(module), name)
    return look(options.folder)


def _demo(options: argparse.Namespace) -> int:
    from cube.demo import run_demo, write_demo_archive  # noqa: PLC0415

    refuse_ranks()
    if options.archive_only is not None:
        write_demo_archive(options.archive_only)
        return 0
    return run_demo(options.output_dir, options.archive)


if __name__ == "__main__":
    sys.exit(main())
