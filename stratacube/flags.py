"""Command lines: parameters as flags, what was perhaps meant where one is wrong, completion in shells."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin

from stratacube.choices import OneOf, Told, Worded, nearest
from stratacube.colours import painted
from stratacube.errors import PARAMETER

if TYPE_CHECKING:
    from stratacube.settings import Settings

__all__ = ["Completion", "Parser", "Words", "add_flags", "dashed", "examples", "flag"]

PATH = "PATH"
"""What help calls the value of a flag that is a file or a folder; shells complete it as one."""

_NUMBERS = re.compile(r"-\.?\d[-\d.,eE+]*$")
"""A value that begins with a minus, not a flag: a number, or several joined by commas."""

_TITLE = re.compile(r"^[a-z][^\n]*:$", re.MULTILINE)
_FLAG = re.compile(r"(?<![\w-])--?[a-z][\w-]*")
"""Titles and flags in the text of help."""

_NO_ALIASES: Mapping[str, str] = MappingProxyType({})


def flag(name: str) -> str:
    """Return the flag of a parameter."""
    return "--" + name.replace("_", "-")


def dashed(text: str, flags: Iterable[str], aliases: Mapping[str, str] = _NO_ALIASES) -> str:
    """Say a sentence in flags: each parameter in backquotes becomes its flag, or its bare name where it is none.

    ``aliases`` are other names of parameters, by which the command has them.
    """
    known = set(flags)

    def shown(found: re.Match[str]) -> str:
        name, value = aliases.get(found[1], found[1]), found[2]
        shown = flag(name) if flag(name) in known else name
        return shown if value is None else f"{shown} {value}" if shown != name else f"{name}={value}"

    return PARAMETER.sub(shown, text)


class Parser(argparse.ArgumentParser):
    """Parser of one command, or of several below it: mistakes are one line, with what was perhaps meant.

    ``--flag_name`` is ``--flag-name``, and a value may begin with a minus.
    """

    def __init__(self, prog: str | None = None, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        self.aliases: Mapping[str, str] = _NO_ALIASES
        super().__init__(prog, allow_abbrev=False, **options)
        self._negative_number_matcher = _NUMBERS
        self.set_defaults(parser=self)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Read arguments; a mistake ends the process with code 2, as argparse does."""
        options, unknown = self.parse_known_args([_normalised(a) for a in arguments])
        if unknown:
            command: Parser = options.parser
            wrong = next((word for word in unknown if word.startswith("-")), None)
            if wrong is None:
                command.error(f"what is {unknown[0]!r} for? nothing takes it")
            name = wrong.partition("=")[0]
            command.error(f"unknown flag {name}{nearest(name, command.flags())}")
        return options

    def format_help(self) -> str:
        """Text of ``--help``, with what is only then asked for."""
        for action in self._actions:
            told: Told | None = getattr(action, "told", None)
            if told is not None:
                action.help = f"{action.help}; {told.words().replace('%', '%%')}"
                action.told = None  # type: ignore[attr-defined]
        return super().format_help()

    def print_help(self, file: Any = None) -> None:
        """Print the text of ``--help``, its titles and flags in colour where it is a terminal that is printed on."""
        stream = file or sys.stdout
        text = _TITLE.sub(lambda found: painted(found[0], "bold", stream), self.format_help())
        stream.write(_FLAG.sub(lambda found: painted(found[0], "cyan", stream), text))

    def flags(self) -> list[str]:
        """All flags of the command."""
        return [name for name in self._option_string_actions if name.startswith("--")]

    def worded(self, text: str) -> str:
        """Say a sentence in flags of the command."""
        return dashed(text, self.flags(), self.aliases)

    def error(self, message: str) -> NoReturn:
        """End with the mistake in one line: a page of usage would hide it."""
        sys.stderr.write(f"{painted('error:', 'red', sys.stderr)} {message}; see {self.prog} --help\n")
        sys.exit(2)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse what is no choice. Overridden: from Python 3.14 on argparse itself says what was perhaps meant."""
        if value in (failed := getattr(action, "failed", {})):
            self.error(failed[value])
        if action.choices is not None and value not in action.choices:
            choices = list(map(str, action.choices))
            hint = nearest(str(value), choices) or f"; give {', '.join(choices)}"
            what = "unknown command" if isinstance(action, argparse._SubParsersAction) else f"{_name(action)} is"
            self.error(f"{what} {value!r}{hint}")


def _name(action: argparse.Action) -> str:
    return action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest)


def _normalised(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


def examples(text: str, shown: Sequence[tuple[str, str]]) -> str:
    """Say what a command does, and show it by examples: arguments, and what they are for."""
    lines = [line for arguments, purpose in shown for line in (f"  %(prog)s {arguments}", f"      {purpose}")]
    told = "\n".join(["", "", "examples:", *lines]) if lines else ""
    return text.strip().replace("%", "%%") + told


def add_flags(parser: argparse.ArgumentParser, model: type[Settings], positional: str = "") -> None:
    """Add one flag per field of a configuration; none has a default, so that it overrides only when given.

    The ``positional`` one is given without a flag.
    """
    from stratacube.settings import bare  # noqa: PLC0415  (commands without a configuration need none)

    if isinstance(parser, Parser):
        parser.aliases = model.ALIASES
    flags = [flag(name) for name in model.model_fields]
    rest = [name for name in model.model_fields if name not in {n for names in model.GROUPS.values() for n in names}]
    for title, names in {**model.GROUPS, "other settings" if model.GROUPS else "settings": rest}.items():
        group = parser.add_argument_group(title)
        for name in names:
            _add_flag(
                group, model, name, flags, bare(model.model_fields[name].annotation), bare_name=name == positional
            )


def _add_flag(
    group: Any, model: type[Settings], name: str, flags: Sequence[str], kind: Any, *, bare_name: bool = False
) -> None:
    """Add the flag of one field, or the field without a flag."""
    info = model.model_fields[name]
    text = dashed(info.description or "", flags)
    if info.default not in (None, [], {}) and not info.is_required() and "(default" not in text:
        text += f" (default: {_shown(info.default)})"
    named = next((m for m in info.metadata if isinstance(m, OneOf)), None)
    options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif get_origin(kind) is Literal:
        options["choices"] = get_args(kind)
    elif named is not None:
        options["choices"] = named.names()
    elif words := next((m for m in info.metadata if isinstance(m, Worded)), None):
        options |= {"nargs": "+", "metavar": (words.first, words.more)}
    elif get_origin(kind) is dict:
        options |= {"nargs": "+", "metavar": "NAME=VALUE"}
    elif get_origin(kind) is list:
        choices = get_args(get_args(kind)[0]) if get_origin(get_args(kind)[0]) is Literal else ()
        metavar = "{" + ",".join(map(str, choices)) + "}" if choices else _value(name, get_args(kind)[0])
        options |= {"nargs": "+", "metavar": metavar}
    else:
        options["metavar"] = _value(name, kind)
    if bare_name:
        group.add_argument(name, metavar=name.upper(), help=options["help"])
        return
    short = [model.SHORT[name]] if name in model.SHORT else []
    action = group.add_argument(*short, flag(name), **options)
    action.failed = named.failed if named else {}
    action.told = next((m for m in info.metadata if isinstance(m, Told)), None)


_UNITS = {
    **{unit: unit.upper() for unit in ("minutes", "hours", "km", "mb", "gb")},
    **dict.fromkeys(("zenith", "elevation", "latitudes", "bbox"), "DEGREES"),
    **dict.fromkeys(("tile_size", "margin", "dilation"), "PIXELS"),
    **dict.fromkeys(("cover",), "PERCENT"),
    **dict.fromkeys(("url", "endpoint"), "URL"),
}
"""What help calls a value, by the last word of its parameter's name."""
_KINDS: Mapping[Any, str] = {int: "N", float: "NUMBER", datetime: "TIME"}


def _value(name: str, kind: Any) -> str:
    """What help calls a value: its unit, else what kind it is of, else its parameter."""
    unit = _UNITS.get(name) or _UNITS.get(name.rpartition("_")[2])
    return PATH if kind is Path else unit or _KINDS.get(kind, name.upper())


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


class Words(argparse.Action):
    """A list of words, apart or joined by commas."""

    def __call__(self, _: Any, options: argparse.Namespace, values: Any, __: Any = None) -> None:
        """Keep the words."""
        setattr(options, self.dest, [word for value in values for word in re.split(r"[,\s]+", value) if word])


class Completion(argparse.Action):
    """Prints the script by which a shell completes a command, and stops."""

    def __init__(self, **options: Any) -> None:
        super().__init__(default=argparse.SUPPRESS, choices=("bash", "zsh", "tcsh"), **options)

    def __call__(self, parser: argparse.ArgumentParser, _: Any, shell: Any, __: Any = None) -> None:
        """Print and stop."""
        try:
            import shtab  # noqa: PLC0415  (an extra)
        except ImportError:
            parser.error("completion needs the package shtab; run: pip install 'stratacube[completion]'")
        _complete_paths(parser, shtab.FILE)
        sys.stdout.write(shtab.complete(parser, shell) + "\n")
        sys.exit(0)


def _complete_paths(parser: argparse.ArgumentParser, how: Any) -> None:
    for action in parser._actions:
        if action.type is Path or action.metavar == PATH:
            action.complete = how  # type: ignore[attr-defined]
        elif isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_paths(command, how)
