"""``python -m cube.build``: build, and look at what was built.

Exit codes: 0 all done; 1 something failed, with a table of counted messages; 2 wrong use or configuration.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from catalog.errors import StratacubeError, UsageError
from cube.config import AbiConfig, add_flags, load_config

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    options = parser.parse_args(_dashes(sys.argv[1:] if arguments is None else arguments))
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
        sys.stderr.write(f"error: {error.filename or 'the disk'}: {error.strerror or error}\n")
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cube.build", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    abi = commands.add_parser("abi", help="stratified ABI tiles", allow_abbrev=False)
    abi.add_argument("--config", type=Path, help="YAML file of the same keys; flags override it")
    add_flags(abi, AbiConfig)
    abi.set_defaults(run=_abi)

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


def _abi(options: argparse.Namespace) -> int:
    from cube.abi.run import run_abi  # noqa: PLC0415  (so that --help does not wait for the libraries)

    flags = {k: v for k, v in vars(options).items() if k not in ("run", "config")}
    return run_abi(load_config(AbiConfig, options.config, flags))


def _status(options: argparse.Namespace) -> int:
    from cube.inspect import status  # noqa: PLC0415

    return status(options.output_dir)


def _verify(options: argparse.Namespace) -> int:
    from cube.inspect import verify  # noqa: PLC0415

    return verify(options.output_dir)


def _demo(options: argparse.Namespace) -> int:
    from cube.demo import run_demo, write_demo_archive  # noqa: PLC0415

    if options.archive_only is not None:
        write_demo_archive(options.archive_only)
        return 0
    return run_demo(options.output_dir, options.archive)


if __name__ == "__main__":
    sys.exit(main())
