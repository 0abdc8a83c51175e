"""Damage to documents that keeps them well-formed: other values, types, names, places and depths."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import random
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import yaml

from tests.fuzz.plain import TOKENS

__all__ = ["changed_value", "damaged_csv", "damaged_json", "damaged_json_lines", "damaged_xml", "damaged_yaml"]

_SELDOM = 0.03
_DEEP, _LONG = "@deep@", "@long@"
"""They stand for what libraries would not write: a list of fifty thousand levels, a number of five thousand digits."""
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 1.5, 1e308, -1e-320, math.nan),
    *(math.inf, -math.inf, "", "x", [], {}, [[]], [None], {"": None}, {"href": 1}, [1, "x", None], _DEEP, _LONG),
    *TOKENS,
)


def changed_value(rng: random.Random, value: Any) -> Any:
    """Return a value of JSON of which one to four parts are changed."""
    holder = [copy.deepcopy(value)]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _change(rng, holder)
    return holder[0]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a value, with every key of it."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        here = waiting.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here))
        found += [(here, key) for key in keys]
        waiting += [here[key] for key in keys if isinstance(here[key], dict | list)]
    return found


def _change(rng: random.Random, holder: list[Any]) -> None:
    places = _places(holder)
    inside, key = rng.choice(places)
    kind = rng.randrange(9)
    if kind <= 2 or inside is holder:
        inside[key] = copy.deepcopy(rng.choice(_VALUES))
    elif kind == 3:
        inside[key] = _near(rng, inside[key])
    elif kind == 4:
        del inside[key]
    elif kind == 5:
        other, place = rng.choice(places)
        inside[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(inside[key])
    elif kind == 6:
        inside[key] = rng.choice(([inside[key]], {"x": inside[key]}, str(inside[key])[:200]))
    elif kind == 7 and isinstance(inside, dict):
        inside[rng.choice(TOKENS)] = inside.pop(key)
    elif isinstance(inside, list):
        inside[:] = inside * rng.choice((0, 2, 3))
    else:
        inside[key] = copy.deepcopy(rng.choice(_VALUES))


def _near(rng: random.Random, value: Any) -> Any:
    """Something of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return rng.choice((-value, value + 1, value * 10, value * 10**12, value / 3, str(value), 0))
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return value[:at] + rng.choice(TOKENS) + value[at + rng.randrange(3) :]
    if isinstance(value, list | dict):
        return type(value)()
    return 0


def _dumped(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text.replace(f'"{_DEEP}"', "[" * 50_000 + "]" * 50_000).replace(f'"{_LONG}"', "9" * 5000)


def damaged_json(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Change a JSON document, or take a part of another."""
    value = json.loads(data)
    if others and rng.random() < 0.1:
        value = [value, json.loads(rng.choice(others))]
    changed = changed_value(rng, value)
    if isinstance(changed, dict) and changed and rng.random() < _SELDOM:
        changed[rng.choice(list(changed))] = _DEEP
    return _encoded(_dumped(changed))


def damaged_json_lines(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Change the value of one line, be it one of many or of a list laid out so."""
    lines = data.decode().splitlines()
    places = [i for i, line in enumerate(lines) if line.strip().startswith("{") and line.rstrip(", ").endswith("}")]
    if not places:
        return damaged_json(rng, data, others)
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.choice(places)
        ended = lines[at].endswith(",")
        try:
            value = json.loads(lines[at].rstrip(","))
        except (ValueError, RecursionError):  # damaged in an earlier turn
            continue
        lines[at] = _dumped(changed_value(rng, value)) + ("," if ended else "")
    return _encoded("\n".join(lines) + "\n")


def damaged_yaml(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Change a YAML document; sometimes nest it deeply, or let aliases stand for very much."""
    value = _plain(yaml.safe_load(data))
    text = yaml.safe_dump(_plain(changed_value(rng, value)), sort_keys=False, allow_unicode=True)
    kind = rng.randrange(20)
    if kind == 1:
        text += f"deep: '{_DEEP}'\n"
    if kind == 0:
        text += "bomb:\n" + "".join(
            f"  b{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else 'x'] * 9)}]\n" for i in range(9)
        )
    text = text.replace(f"'{_DEEP}'", "[" * 3000 + "]" * 3000 if kind % 2 else "{a: " * 3000 + "}" * 3000).replace(
        _LONG, "9" * 5000
    )
    return _encoded(text)


def _plain(value: Any) -> Any:
    """YAML has no arbitrary keys in what is written here; times stay times."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    return value if value is None or isinstance(value, int | float | datetime | date) else str(value)


def damaged_csv(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Change cells, columns and rows of a table."""
    rows = list(csv.reader(io.StringIO(data.decode()))) or [[""]]
    for _ in range(rng.choice((1, 1, 2, 4))):
        row = rng.choice(rows)
        kind = rng.randrange(8)
        at = rng.randrange(max(1, len(row)))
        if kind == 0:
            for one in rows:
                del one[at : at + 1]
        elif kind == 1:
            row.append(rng.choice(TOKENS))
        elif kind == 2:
            row[:] = row[:at]
        elif kind == 3:
            rows.append(list(row))
        elif kind == 4:
            other = rng.choice(rows)
            place = rng.randrange(max(1, len(other)))
            if row and other:
                row[at], other[place] = other[place], row[at]
        elif row:
            row[at] = rng.choice(TOKENS) if kind < 7 else _near(rng, row[at])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return _encoded(text.getvalue())


def damaged_xml(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Change texts, attributes, names and places of elements; sometimes nest deeply, or declare entities."""
    root = ET.fromstring(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        _change_element(rng, root)
    text = ET.tostring(root, encoding="unicode")
    kind = rng.randrange(12)
    if kind == 0:
        text = text.replace(">", ">" + "<a>" * 50_000 + "</a>" * 50_000, 1)
    elif kind == 1:
        text = f'<!DOCTYPE x [<!ENTITY a "{"b" * 99}"><!ENTITY c "{"&a;" * 999}">]>' + text.replace(">", ">&c;", 1)
    return _encoded(text)


def _change_element(rng: random.Random, root: ET.Element) -> None:
    parents = [e for e in root.iter() if len(e)]
    if not parents:
        return
    parent = rng.choice(parents)
    element = rng.choice(list(parent))
    with_text = [e for e in root.iter() if (e.text or "").strip()]
    kind = rng.randrange(9)
    if kind == 0:
        parent.remove(element)
    elif kind == 1:
        parent.extend(copy.deepcopy(element) for _ in range(rng.choice((1, 5))))
    elif kind == 2:
        rng.choice(parents).append(copy.deepcopy(element))
    elif kind == 3:
        element.tag = rng.choice(with_text or parents).tag
    elif kind == 4 and element.attrib:
        name = rng.choice(list(element.attrib))
        element.attrib[name] = rng.choice((_clean(rng), _near_text(rng, element.attrib[name])))
    elif kind == 5 and element.attrib:
        del element.attrib[rng.choice(list(element.attrib))]
    elif with_text:
        chosen = rng.choice(with_text)
        chosen.text = _clean(rng) if kind < 8 else _near_text(rng, chosen.text or "")


def _clean(rng: random.Random) -> str:
    """A token that XML can hold."""
    return rng.choice(TOKENS).replace("\x00", "")


def _near_text(rng: random.Random, text: str) -> str:
    return str(_near(rng, text)).replace("\x00", "")


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")
