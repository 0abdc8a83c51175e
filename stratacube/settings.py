"""What a job is told: one base for every configuration; its fields are parameters, flags and keys of a YAML file."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import reprlib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from stratacube.choices import nearest, one_of
from stratacube.errors import UsageError
from stratacube.own import OWN_ONLY, refuse_from_file
from stratacube.plain_yaml import read_yaml

__all__ = [
    "RUN_ONLY",
    "End",
    "LocalPath",
    "Settings",
    "Start",
    "bare",
    "formerly",
    "local_path",
    "read_yaml",
    "refuse_empty",
]

RUN_ONLY: JsonDict = {"how": "run"}
"""Marks fields (by ``json_schema_extra``) that say how a run goes but not what it makes: no part of the digest."""


def formerly(value: Any) -> JsonDict:
    """Mark a field (by ``json_schema_extra``) that versions did without, and what they did.

    With that value the field is no part of what is described: the builds of those versions keep their digests.
    """
    return {"formerly": value}


class Settings(BaseModel):
    """Base of all configurations: unknown keys are refused, nothing changes once it is made.

    Where a list is wanted, ``C01,C02`` is one as well, in a file as on the command line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    SHORT: ClassVar[Mapping[str, str]] = {}
    """Short flags of fields, such as ``-o``, where there are some."""
    ALIASES: ClassVar[Mapping[str, str]] = {}
    """What it calls the parameters of the configuration that it stands for, for messages that name those."""
    GROUPS: ClassVar[Mapping[str, Sequence[str]]] = {}
    """In which order and under which titles help tells the parameters; those of no group come last."""
    EXAMPLES: ClassVar[Sequence[tuple[str, str]]] = ()
    """What help shows at its beginning: flags, and what they are for."""

    @model_validator(mode="before")
    @classmethod
    def _split(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        lists = {name for name, info in cls.model_fields.items() if get_origin(bare(info.annotation)) is list}
        return {key: _words(value) if key in lists else value for key, value in values.items()}

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> Self:
        """Make a configuration of plain values.

        Raises
        ------
        UsageError
            If a key is unknown or a value does not fit: one sentence with the key, the value and the remedy.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise UsageError(_sentence(cls, error)) from error

    @classmethod
    def load(
        cls,
        file: Path | None = None,
        changes: Mapping[str, Any] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> Self:
        """Read a configuration: the keys of a YAML file, where there is one, overridden by other values.

        Parameters
        ----------
        file
            The file; keys may be written with ``-`` for ``_``. The ``config.yaml`` of a build is one too.
        changes
            Values by key.
        defaults
            Values of keys that neither gives, where they are not the configuration's own.

        Raises
        ------
        UsageError
            If the file cannot be read, a key is unknown or a value does not fit.
        """
        values: dict[str, Any] = {}
        if file is not None:
            values = {str(key).replace("-", "_"): value for key, value in read_yaml(file).items()}
            if {"digest", "build"} <= values.keys() and isinstance(values["build"], dict):
                values = {**cls.former(), **values["build"]}
            for key in values:
                if key not in cls.model_fields:
                    raise UsageError(_unknown(key, [cls], cls, f" in {file}"))
                refuse_from_file(key, cls.model_fields[key].json_schema_extra, file)
        return cls.check({**(defaults or {}), **values, **(changes or {})})

    @classmethod
    def former(cls) -> dict[str, Any]:
        """What versions did that did not know a key (:func:`formerly`): where a build does not tell it, it is this."""
        marked = ((name, info.json_schema_extra) for name, info in cls.model_fields.items())
        return {name: extra["formerly"] for name, extra in marked if isinstance(extra, dict) and "formerly" in extra}

    @classmethod
    def deciding(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Of plain values of such a configuration, or of an older version's, those that determine the product."""
        return _deciding([cls], values)

    def described(self) -> dict[str, Any]:
        """What determines the product, as plain values in a stable order."""
        return self.deciding(self.model_dump(mode="json"))

    def digest(self, digits: int = 16) -> str:
        """Hash of what determines the product, in hexadecimal digits: the first of a SHA-256's 64."""
        return hashlib.sha256(json.dumps(self.described(), sort_keys=True).encode()).hexdigest()[:digits]


def _deciding(models: Sequence[type[Settings]], values: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in values.items():
        infos = [model.model_fields[key] for model in models if key in model.model_fields]
        if any(info.json_schema_extra in (RUN_ONLY, OWN_ONLY) or _is_former(info, value) for info in infos):
            continue
        inner = [model for info in infos for model in _sections(info.annotation)]
        if inner and isinstance(value, Mapping):
            named = any(get_origin(info.annotation) is dict for info in infos)  # sections by name
            kept[key] = {k: _deciding(inner, v) for k, v in value.items()} if named else _deciding(inner, value)
        else:
            kept[key] = value
    return kept


def _is_former(info: FieldInfo, value: Any) -> bool:
    """Whether a value is what versions did that did not know the field; None may be it."""
    extra = info.json_schema_extra
    return isinstance(extra, dict) and "formerly" in extra and extra["formerly"] == value


def bare(annotation: Any) -> Any:
    """The type behind Optional and Annotated."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(a for a in get_args(annotation) if a is not type(None))
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _words(value: Any) -> Any:
    """Take text of several words, or a single value, for a list."""
    if value is None or isinstance(value, Mapping):
        return value
    given = [value] if isinstance(value, str) or not isinstance(value, Iterable) else value
    found: list[Any] = []
    for one in given:
        found += [word for word in re.split(r"[,\s]+", one) if word] if isinstance(one, str) else [one]
    return found


def _sections(annotation: Any) -> Iterator[type[Settings]]:
    """Configurations that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)


def refuse_empty(start: datetime, end: datetime, names: tuple[str, str]) -> None:
    """Refuse a period that holds no moment.

    Parameters
    ----------
    start, end
        The period, end exclusive.
    names
        Of its two parameters.

    Raises
    ------
    UsageError
        If the end is not after the start.
    """
    if end <= start:
        last = end - timedelta(days=1)
        told = f"{end}, exclusive" if end.time() != time() else f"the end of {last:%Y-%m-%d}"
        raise UsageError(f"`{names[1]}` ({told}) is not after `{names[0]}` ({start}); give a later end")


class _Place(NamedTuple):
    """Where in a configuration an error is."""

    name: str
    """As a user writes it, with dots into sections."""
    owners: list[type[Settings]]
    """What may hold the last key of the name."""
    inner: list[type[Settings]]
    """What may be there, if it is a section."""


def _place(model: type[Settings], loc: tuple[int | str, ...]) -> _Place:
    """Find an error's place: pydantic puts the tags and the types of unions between the keys."""
    names: list[str] = []
    owners, inner, tagged, named = [model], [model], False, False
    for part in loc:
        holders = [m for m in inner if part in m.model_fields]
        if named:  # of a section among others that are told by name
            names.append(str(part))
            named = False
        elif isinstance(part, int):
            names += [str(part)] if inner else []  # of a list of sections; else the value tells which
        elif tagged:
            inner, tagged = [m for m in inner if part in _tags(m)], False
        elif holders:
            names.append(part)
            infos = [m.model_fields[part] for m in holders]
            owners, inner = holders, [m for info in infos for m in _sections(info.annotation)]
            tagged = len(inner) > 1
            named = bool(inner) and any(get_origin(info.annotation) is dict for info in infos)
        elif inner:  # an unknown key
            names.append(part)
            owners, inner = inner, []
    return _Place(".".join(names), owners, inner)


def _tags(model: type[Settings]) -> list[Any]:
    return [
        tag
        for info in model.model_fields.values()
        if get_origin(info.annotation) is Literal
        for tag in get_args(info.annotation)
    ]


def _sentence(model: type[Settings], error: ValidationError) -> str:
    """What is wrong, in one sentence: an unknown key first, for it may be why another is missing."""
    problems = error.errors(include_url=False)
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    place, kind = _place(model, problem["loc"]), problem["type"]
    key = place.name.rpartition(".")[2]
    field = next((m.model_fields[key] for m in place.owners if key in m.model_fields), None)
    if kind == "extra_forbidden":
        return _unknown(place.name, place.owners, model)
    if kind == "missing":
        return f"`{place.name}` is required" + (f": {field.description}" if field and field.description else "")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag, given = problem["ctx"]["discriminator"].strip("'"), problem["ctx"].get("tag")
        choices = one_of([tag for m in place.inner for tag in _tags(m)[:1]])
        return f"`{place.name}.{tag}` is {'required' if given is None else repr(given)}: give {choices}"
    if kind == "value_error" and (place.inner or not place.name):  # a rule between keys, which it names itself
        return ": ".join(filter(None, [place.name, _remedy(problem, field)]))
    same = (p for p in problems if _place(model, p["loc"]).name == place.name)  # one for each type of a union
    remedies = list(dict.fromkeys(_remedy(p, field) for p in same))
    named = field is not None and get_origin(bare(field.annotation)) is dict and problem["loc"][-1] != key
    of = f" of {problem['loc'][-1]}" if named else ""
    return f"`{place.name}`{of} is {_shown(problem['input'])}: {' or '.join(remedies)}"


def _shown(value: Any) -> str:
    """Say a value in short; a list of words as it is given."""
    if isinstance(value, list) and value and all(isinstance(one, str | int | float) for one in value):
        return " ".join(map(str, value))
    return reprlib.repr(value)


def _unknown(name: str, owners: Sequence[type[Settings]], model: type[Settings], source: str = "") -> str:
    """Say that a key is unknown, and which was perhaps meant: one near in its section, or of this name in another."""
    section, _, key = name.rpartition(".")
    known = sorted({field for owner in owners for field in owner.model_fields})
    near = difflib.get_close_matches(key, known, n=1)
    dotted = (
        [f"{section}.{near[0]}".lstrip(".")]
        if near
        else [n for n in _names(model) if n != name and n.rpartition(".")[2] == key]
    )
    hint = f"did you mean `{dotted[0]}`?" if dotted else f"known keys are {', '.join(known)}"
    return f"unknown key `{name}`{source}; {hint}"


def _names(model: type[Settings], above: str = "") -> Iterator[str]:
    """All keys, with dots into sections."""
    for name, info in model.model_fields.items():
        yield above + name
        if get_origin(info.annotation) is dict:  # there a name stands between
            continue
        for section in _sections(info.annotation):
            yield from _names(section, f"{above}{name}.")


_REMEDIES = {
    "int_": "give a whole number",
    "float_": "give a number",
    "finite_number": "give a finite number",
    "bool_": "give true or false",
    "string_": "give text",
    "path_": "give a path",
    "list_type": "give a list",
    "tuple_type": "give a list",
    "dict_type": "give keys and values",
    "model_": "give keys and values",
    "greater_than_equal": "give {ge:g} or more",
    "greater_than": "give more than {gt:g}",
    "less_than_equal": "give {le:g} or less",
    "less_than": "give less than {lt:g}",
}
"""What to do by the beginning of the type of pydantic's error; the first that fits."""


def _remedy(problem: ErrorDetails, field: FieldInfo | None) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "literal_error":
        choices = context["expected"].replace("'", "")
        return f"give {choices}" + nearest(str(problem["input"]), re.split(", | or ", choices))
    if kind in ("too_short", "too_long"):
        sizes = (
            [getattr(m, name) for name in ("min_length", "max_length") for m in field.metadata if hasattr(m, name)]
            if field
            else []
        )
        if len(sizes) == 2 and sizes[0] == sizes[1]:
            return f"give {sizes[0]} values"
        return (
            f"give {context['min_length']} or more" if kind == "too_short" else f"give {context['max_length']} at most"
        )
    found = next((text for start, text in _REMEDIES.items() if kind.startswith(start)), None)
    if found is not None:
        return found.format(**context)
    return problem["msg"].removeprefix("Value error, ").replace("Input should be", "it should be")


def _moment(value: Any) -> Any:
    """A time as naive UTC; only ISO 8601 text and real times pass, for a bare number may mean anything."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError("give ISO 8601, such as 2020-01-31 or 2020-01-31T12:00") from None
    elif isinstance(value, date) and not isinstance(value, datetime):  # a date read from YAML
        value = datetime.combine(value, time())
    if not isinstance(value, datetime):
        raise ValueError("give ISO 8601, such as 2020-01-31 or 2020-01-31T12:00")
    return value if value.tzinfo is None else value.replace(tzinfo=None) - (value.utcoffset() or timedelta())


def _end_of_day(value: Any) -> Any:
    """A date without a time of day, as an end, means the whole of that day."""
    only_date = isinstance(value, date) and not isinstance(value, datetime)
    if isinstance(value, str):
        with suppress(ValueError):
            only_date = bool(date.fromisoformat(value.strip()))
    try:
        return _moment(value) + timedelta(days=int(only_date))
    except OverflowError:
        raise ValueError("give a day before the last that there is, 9999-12-31") from None


def local_path(value: Any) -> Any:
    """A path as it is from anywhere, so that the same build is known by the same configuration."""
    if value is None or "://" not in str(value):
        return None if value is None else os.path.abspath(os.path.expanduser(str(value)))
    raise ValueError("give a path of this machine, not a URL")


Start = Annotated[datetime, BeforeValidator(_moment)]
End = Annotated[datetime, BeforeValidator(_end_of_day)]
LocalPath = Annotated[Path, BeforeValidator(local_path)]
