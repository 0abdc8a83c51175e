"""Build, and look at what was built.

Exit codes: 0 all done; 1 something failed or is missing, with a table of counted messages; 2 wrong use or
configuration; 130 stopped by Ctrl-C; 143 stopped by SIGTERM.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from cube.job.ranks import Ranks, joined
from cube.plug import Command, imported, imported_of_plug
from cube.registry import SOURCES, is_name
from stratacube.choices import nearest, one_of
from stratacube.command import Answer, Parser, add_common, program, run
from stratacube.errors import StratacubeError, UsageError
from stratacube.flags import Completion, add_flags

__all__ = ["build", "commands", "main"]

T = TypeVar("T")


def commands() -> dict[str, Command]:
    """All commands that are described by a configuration, by name; each source brings its own."""
    found: dict[str, Command] = {}
    for source, plug in SOURCES.all().items():
        taken = sorted({*found, *LOOKS, "demo", "publish"} & plug.commands.keys())
        odd = [name for name in plug.commands if not is_name(name)]
        if odd:
            SOURCES.drop(source, UsageError(f"its command {odd[0]!r} is not a word of small letters, digits, - and _"))
        elif taken:
            SOURCES.drop(source, UsageError(f"its command {taken[0]!r} is another's"))
        else:
            found |= plug.commands
    return found


def _run(command: Command, config: Path | None, settings: Mapping[str, Any]) -> Answer | int:
    """Do what a file and settings describe."""
    source = next((name for name, plug in SOURCES.all().items() if command in plug.commands.values()), "")
    with SOURCES.blamed(source):
        described = imported_of_plug(command.config).load(config, settings, command.defaults)
        result: Answer | int = imported_of_plug(command.function)(described)
    return result


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
        What to build, as its command is called: one of :func:`commands`, such as ``sentinel2`` or what plugs bring.
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
    known = commands()
    if source not in known:
        raise UsageError(f"`source` is {source!r}: give {one_of(list(known))}{nearest(str(source), list(known))}")
    result = _shared(lambda: _run(known[source], None if config is None else Path(config), settings))
    return Answer(result) if isinstance(result, int) else result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    _share_memory()
    if {"-h", "--help", "--version", "--print-completion", *LOOKS} & set(given):
        return run(_parser(given), given)
    try:
        code = _shared(lambda: run(_parser(given), given))  # so that one of several ranks tells a mistake
    except UsageError as refusal:
        return run(_refusing(refusal), [])
    except StratacubeError:  # of rank 0, which has told it
        return 0
    return code if joined() or Ranks.here().mine == 0 else 0


def _shared(work: Callable[[], T]) -> T:
    """Do something, on the first of several ranks with the others at its service."""
    if joined() or Ranks.here().number == 1:
        return work()
    from cube.job.engine.mpi import together  # noqa: PLC0415

    return together(work)


_M_ARENA_MAX = -8  # <malloc.h>


def _share_memory() -> None:
    """Have all threads take memory from one pool.

    glibc gives each thread its own and returns little of it; zarr writes by many, which costs a driver 50 MB.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _refusing(refusal: UsageError) -> Parser:
    """Parser of a command that does nothing but refuse."""

    def refuse(_: argparse.Namespace) -> int:
        raise refusal

    parser = Parser(program("cube.build"))
    add_common(parser)
    parser.set_defaults(run=refuse)
    return parser


def _parser(arguments: Sequence[str]) -> Parser:
    completing = "--print-completion" in arguments
    parser = Parser("stratacube" if completing else program("cube.build"), description=__doc__)
    add_common(parser)
    parser.add_argument("--print-completion", action=Completion, help="print a shell's completion script and stop")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    for name, job in commands().items():
        command = subparsers.add_parser(
            name, help=job.help, description=job.help, usage="%(prog)s [--config FILE] [--FLAG VALUE ...]"
        )
        command.add_argument("--config", type=Path, help="YAML file of the same keys; flags override it")
        if name in arguments or completing:  # the models of the other jobs need not be imported
            add_flags(command, imported_of_plug(job.config))
        add_common(command, answers=True)
        command.set_defaults(run=_run_job, job=job, resumes=True)

    for name, (text, place) in LOOKS.items():
        command = subparsers.add_parser(name, help=text, description=text)
        command.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the build")
        add_common(command, answers=True)
        command.set_defaults(run=_look, place=place)

    text = "describe what jobs of --shard have made, once all of it is there"
    publishing = subparsers.add_parser("publish", help=text, description=text)
    publishing.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the build")
    publishing.add_argument("--workers", type=int, help="processes (default: one per core)")
    publishing.add_argument("--config", type=Path, help="the build's YAML file, for settings that change no product")
    add_common(publishing, answers=True)
    publishing.set_defaults(run=_publish, resumes=True)

    text = "the whole path on a small archive written here, or on real files"
    demo = subparsers.add_parser("demo", help=text, description=text)
    demo.add_argument("--output-dir", type=Path, default=Path("demo"), help="where to write (default: demo)")
    demo.add_argument("--archive", type=Path, help="folder of real ABI files instead of a synthetic archive")
    demo.add_argument("--archive-only", type=Path, help="write the synthetic archive into this folder and stop")
    add_common(demo)
    demo.set_defaults(run=_demo, resumes=True)
    return parser


_OURS = ("run", "job", "config", "parser", "resumes", "verbose", "quiet", "json")
"""Options that are no settings of a job."""


def _run_job(options: argparse.Namespace) -> Answer | int:
    return _run(options.job, options.config, {k: v for k, v in vars(options).items() if k not in _OURS})


def _look(options: argparse.Namespace) -> Answer | int:
    answer: Answer | int = imported(options.place)(options.folder)
    return answer


def _publish(options: argparse.Namespace) -> Answer | int:
    from cube.job.folder import BuildFolder  # noqa: PLC0415  (what only looks at help waits for none of it)
    from cube.job.inspect import inspection_of  # noqa: PLC0415

    plain = BuildFolder(options.folder)
    name = inspection_of(plain).folder.PARAMETER
    settings = {name: str(options.folder), "publish_only": True}
    if options.workers is not None:
        settings["workers"] = options.workers
    for command in SOURCES.load(plain.source()).commands.values():
        if {name, "publish_only"} <= imported_of_plug(command.config).model_fields.keys():
            return _run(command, options.config or plain.config, settings)
    raise UsageError(f"builds of the source {plain.source()!r} cannot be split; their own command describes them")


def _demo(options: argparse.Namespace) -> int:
    from cube.demo import run_demo, write_demo_archive  # noqa: PLC0415

    if options.archive_only is not None:
        write_demo_archive(options.archive_only)
        return 0
    return run_demo(options.output_dir, options.archive)


if __name__ == "__main__":
    sys.exit(main())
