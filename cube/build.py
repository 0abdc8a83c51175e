"""Build, and look at what was built.

Exit codes: 0 all done; 1 something failed or is missing, with a table of counted messages; 2 wrong use or
configuration; 130 stopped by Ctrl-C; 143 stopped by SIGTERM.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from cube.job.on_ranks import command_on_ranks, on_ranks
from cube.plug import Command, imported, imported_of_plug
from cube.registry import SOURCES, is_name
from stratacube.choices import nearest, one_of
from stratacube.command import Answer, Parser, add_common, program, run
from stratacube.errors import UsageError
from stratacube.flags import Completion, add_flags, examples

__all__ = ["build", "commands", "main"]

T = TypeVar("T")


def commands() -> dict[str, Command]:
    """All commands that are described by a configuration, by name; each source brings its own."""
    found: dict[str, Command] = {}
    for source, plug in SOURCES.all().items():
        taken = sorted({*found, *LOOKS, *_OTHERS} & plug.commands.keys())
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


_OTHERS = ("cube", "demo", "doctor", "explain", "publish")
"""Commands that are of no source."""


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
    result = on_ranks(lambda: _run(known[source], None if config is None else Path(config), settings))
    return Answer(result) if isinstance(result, int) else result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = _joined(sys.argv[1:] if arguments is None else list(arguments))
    _share_memory()
    if {"-h", "--help", "--version", "--print-completion", "doctor", "explain", *LOOKS} & set(given):
        return run(_parser(given), given)
    # Within it, so that one of several ranks tells a mistake.
    return command_on_ranks(lambda: run(_parser(given), given), lambda refusal: run(_refusing(refusal), []))


def _joined(arguments: list[str]) -> list[str]:
    """Take a command of two words, ``sentinel2 adopt``, for what it is registered as: ``sentinel2-adopt``."""
    known = commands() if len(arguments) > 1 else {}
    for place, (first, second) in enumerate(pairwise(arguments)):
        if first in known:
            both = f"{first}-{second}"
            return [*arguments[:place], both, *arguments[place + 2 :]] if both in known else arguments
    return arguments


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


_EXAMPLES = (
    ("demo", "the whole path on a small archive, in a minute"),
    ("doctor", "what works on this machine, and how to mend what does not"),
    ("explain abi --config build.yaml", "which files and bytes a build would read"),
    ("abi --config build.yaml", "build, or go on where a run was stopped"),
    ("status abi_tiles", "how far it is"),
    ("abi --help", "the flags of a command, in groups, with examples"),
)
_USAGE = "%(prog)s [--config FILE] [--FLAG VALUE ...]"


def _parser(arguments: Sequence[str]) -> Parser:
    completing = "--print-completion" in arguments
    described = examples(__doc__ or "", _EXAMPLES)
    parser = Parser("stratacube" if completing else program("cube.build"), description=described)
    add_common(parser)
    parser.add_argument("--print-completion", action=Completion, help="print a shell's completion script and stop")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    for name, job in commands().items():
        usage = _USAGE.replace(" ", f" {job.positional.upper()} ", 1) if job.positional else _USAGE
        command = subparsers.add_parser(name, help=job.help, description=job.help, usage=usage)
        _add_job(command, job, (name in arguments and "explain" not in arguments) or completing)
        command.set_defaults(run=_run_job, resumes=True)

    text = "which files and bytes a build would read, from the flags of its command; no pixel is read"
    explaining = subparsers.add_parser("explain", help=text, description=text)
    explained = explaining.add_subparsers(required=True, metavar="COMMAND")
    for name, job in commands().items():
        if job.explain:
            command = explained.add_parser(name, help=f"what `{name}` would read", usage=_USAGE)
            _add_job(command, job, (name in arguments and "explain" in arguments) or completing)
            told = command.add_argument_group("what is told")
            told.add_argument("--files", type=int, default=20, dest="most_told", help="files to list (default: 20)")
            told.add_argument(
                "--output", type=Path, dest="table", metavar="FILE", help="write every range of bytes as CSV"
            )
            command.set_defaults(run=_explain)

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

    text = "what works on this machine and how to mend what does not; --live asks the services"
    doctor = subparsers.add_parser("doctor", help=text, description=text)
    doctor.add_argument("--folder", type=Path, default=Path(), help="where builds are to lie (default: here)")
    doctor.add_argument("--live", action="store_true", help="ask the services: a search, a token, under 1 MB of files")
    doctor.add_argument("--service", nargs="+", metavar="NAME=URL", help="with --live, other addresses to ask")
    add_common(doctor, answers=True)
    doctor.set_defaults(run=_doctor)

    text = "a virtual cube of an archive: make, append, open, describe, export"
    virtual = subparsers.add_parser("cube", help=text, description=text)
    if "cube" in arguments or completing:
        from cube.geostationary.cube_command import add_cube_commands  # noqa: PLC0415

        add_cube_commands(virtual)

    text = "the whole path on a small archive written here, or on real files"
    demo = subparsers.add_parser("demo", help=text, description=text)
    demo.add_argument("--output-dir", type=Path, default=Path("demo"), help="where to write (default: demo)")
    demo.add_argument("--archive", type=Path, help="folder of real ABI files instead of a synthetic archive")
    demo.add_argument("--archive-only", type=Path, help="write the synthetic archive into this folder and stop")
    add_common(demo)
    demo.set_defaults(run=_demo, resumes=True)
    return parser


def _add_job(command: Parser, job: Command, whole: bool) -> None:
    """Add the flags of a job; those of its model only where they are wanted, for importing it takes time."""
    command.add_argument("--config", type=Path, help="YAML file of the same keys; flags override it")
    if whole:
        model = imported_of_plug(job.config)
        add_flags(command, model, job.positional)
        command.description = examples(command.description or job.help, model.EXAMPLES)
    add_common(command, answers=True)
    command.set_defaults(job=job)


_OURS = ("run", "job", "config", "parser", "resumes", "verbose", "quiet", "json", "most_told", "table")
"""Options that are no settings of a job."""


def _run_job(options: argparse.Namespace) -> Answer | int:
    return _run(options.job, options.config, _settings(options))


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name not in _OURS}


def _explain(options: argparse.Namespace) -> Answer:
    described = imported_of_plug(options.job.config).load(options.config, _settings(options), options.job.defaults)
    answer: Answer = imported("cube.reads:told")(
        imported_of_plug(options.job.explain)(described), options.most_told, options.table
    )
    return answer


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


def _doctor(options: argparse.Namespace) -> Answer:
    answer: Answer = imported("cube.doctor.run:run_doctor")(options)
    return answer


def _demo(options: argparse.Namespace) -> int:
    from cube.demo import run_demo, write_demo_archive  # noqa: PLC0415

    if options.archive_only is not None:
        write_demo_archive(options.archive_only)
        return 0
    return run_demo(options.output_dir, options.archive)


if __name__ == "__main__":
    sys.exit(main())
