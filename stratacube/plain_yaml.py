"""YAML of which only the plain part is read: keys, lists, numbers, text, times; a file that was made elsewhere too."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from stratacube.errors import UsageError

__all__ = ["parse_yaml", "read_yaml"]

_MOST = 100_000
"""Values of a document, aliases followed: a short text of aliases of aliases stands for billions."""


class _Loader(yaml.SafeLoader):
    """Refuses tags, keys given twice, and documents that grow without bound as their aliases are followed."""

    def compose_document(self) -> Any:
        root = super().compose_document()
        _size(root, {}, ())
        return root

    def compose_node(self, parent: Any, index: Any) -> Any:
        tag = getattr(self.peek_event(), "tag", None)  # type: ignore[no-untyped-call]
        if tag is not None:
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            raise yaml.YAMLError(f"tag {shown} is not allowed; give plain values")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            line, name = key.start_mark.line + 1, (key.tag, str(key.value))
            if name in seen and isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"key {key.value} is given in line {seen[name]} and again in line {line}")
            seen[name] = line
        return super().construct_mapping(node, deep)


def _size(node: Any, known: dict[int, int], above: tuple[int, ...]) -> int:
    """Values of a node, each alias counted as often as it stands there."""
    if id(node) in above:
        raise yaml.YAMLError("an alias stands inside of what it names")
    if id(node) not in known:
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for one in inner for part in (one if isinstance(one, tuple) else (one,))]
        known[id(node)] = 1 + sum(_size(part, known, (*above, id(node))) for part in parts)
        if known[id(node)] > _MOST:
            raise yaml.YAMLError(f"it stands for more than {_MOST} values")
    return known[id(node)]


def parse_yaml(text: str, what: str) -> Any:
    """Parse a YAML document.

    Parameters
    ----------
    text
        The document.
    what
        What it is, for the sentence.

    Raises
    ------
    UsageError
        If it is not YAML, has a tag, or gives a key twice.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:160]
        raise UsageError(f"{what} is not YAML that can be read ({reason}); mend it") from error


def read_yaml(file: Path) -> dict[str, Any]:
    """Read the keys and values of a YAML file.

    Raises
    ------
    UsageError
        If it cannot be read or holds something else.
    """
    try:
        text = file.read_text()
    except OSError as error:
        raise UsageError(f"config file {file} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"config file {file} is not YAML ({' '.join(str(error).split())[:120]})") from error
    loaded = parse_yaml(text, f"config file {file}")
    if not isinstance(loaded, dict):
        raise UsageError(f"config file {file} holds {type(loaded).__name__}, not keys and values")
    return loaded
