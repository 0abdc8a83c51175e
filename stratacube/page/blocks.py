"""What a report is made of, told in Markdown and in HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from stratacube.page.picture import Picture, element

__all__ = ["Block", "Code", "Facts", "Gallery", "Shown", "Table", "as_html", "as_markdown", "broken"]

_NUMBER = re.compile(r"-?[\d,]*\.?\d+(e[+-]?\d+)?|")


@dataclass(frozen=True)
class Table:
    """Rows under a header; columns of numbers stand to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @classmethod
    def of(cls, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
        """Take rows as they come."""
        return cls(header, [tuple(row) for row in rows])

    @property
    def cells(self) -> list[list[str]]:
        """The rows as text."""
        return [[str(cell) for cell in row] for row in self.rows]

    @property
    def numeric(self) -> list[bool]:
        """By column, whether it holds numbers alone."""
        columns = [[row[i] for row in self.cells] for i in range(len(self.header))]
        return [all(_NUMBER.fullmatch(cell) for cell in column) for column in columns]


@dataclass(frozen=True)
class Code:
    """What to type."""

    text: str
    language: str = "python"


@dataclass(frozen=True)
class Shown:
    """A picture with its caption."""

    picture: Picture | None
    caption: str = ""
    path: Path | None = None
    """Where Markdown finds it, relative to the page; without one, only HTML shows it."""


@dataclass(frozen=True)
class Gallery:
    """Small pictures side by side; Markdown does without them."""

    pictures: Sequence[tuple[Picture, str]]


@dataclass(frozen=True)
class Facts:
    """Figures to see first: what, how much, and what to add; Markdown does without them."""

    rows: Sequence[tuple[str, str, str]]


Block = str | Table | Code | Shown | Gallery | Facts
"""Of these is a section made; text is a paragraph, in which ``**`` and backquotes mark."""


def as_markdown(blocks: Iterable[Block]) -> str:
    """Return blocks as Markdown; what only a page can show is left out."""
    return "\n\n".join(text for block in blocks if (text := _markdown(block).strip()))


def _markdown(block: Block) -> str:
    if isinstance(block, str):
        return block
    if isinstance(block, Code):
        return f"```{block.language}\n{block.text.strip()}\n```"
    if isinstance(block, Shown):
        return "" if block.path is None else f"![{block.caption}]({block.path.as_posix()})"
    if isinstance(block, Table):
        cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in block.cells]
        lines = [list(block.header), ["---:" if right else "---" for right in block.numeric], *cells]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return ""


def as_html(blocks: Iterable[Block]) -> str:
    """Return blocks as markup for a page of :mod:`stratacube.page.document`."""
    parts = []
    for kind, group in groupby(blocks, key=type):
        inside = "".join(_html(block) for block in group)
        parts.append(element("div", inside, class_="tables") if kind is Table else inside)
    return "".join(parts)


def _html(block: Block) -> str:
    if isinstance(block, str):
        return element("p", _marked(block)) if block.strip() else ""
    if isinstance(block, Code):
        code = element("code", escape(block.text.strip()))
        return element("pre", code, class_="code", tabindex=0, role="group", aria_label=f"{block.language} code")
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Facts):
        return element("dl", *(_fact(*row) for row in block.rows), class_="facts")
    if isinstance(block, Gallery):
        shown = (_figure(picture, caption) for picture, caption in block.pictures)
        return element("div", *shown, class_="gallery")
    return (
        "" if block.picture is None else _figure(block.picture, block.caption, "wide" if block.picture.drawing else "")
    )


def _figure(picture: Picture, caption: str, kind: str = "") -> str:
    shown = picture.markup()
    if kind:
        shown = element("div", shown, class_="scroll", tabindex=0, role="group", aria_label=picture.alt)
    return element("figure", shown, element("figcaption", _marked(caption)) if caption else "", class_=kind or None)


def _fact(name: str, value: str, note: str) -> str:
    told = element("dd", escape(value)) + (element("dd", escape(note), class_="note") if note else "")
    return element("div", element("dt", escape(name)), told)


def _table(table: Table) -> str:
    sides = ["n" if right and table.rows else None for right in table.numeric]
    head = "".join(
        element("th", escape(str(name)), scope="col", class_=side)
        for name, side in zip(table.header, sides, strict=True)
    )
    rows = (
        element("tr", *(element("td", broken(cell), class_=side) for cell, side in zip(row, sides, strict=True)))
        for row in table.cells
    )
    whole = element("table", element("thead", element("tr", head)), element("tbody", *rows))
    return element(
        "div", whole, class_="scroll", tabindex=0, role="group", aria_label=", ".join(map(str, table.header))
    )


def broken(text: str) -> str:
    """Text as markup that may be broken within a path or a long name."""
    return re.sub(r"(?<=[/_])(?=\w{3})", "<wbr>", escape(text)) if len(text) > 24 else escape(text)


def _marked(text: str) -> str:
    safe = escape(text, quote=False)
    safe = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", safe)
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", safe)
