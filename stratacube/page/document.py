"""A page that holds all it shows: no file beside it, nothing from the network, light or dark as the screen is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from stratacube.page.blocks import Block, as_html, broken
from stratacube.page.picture import element, style

__all__ = ["Page", "Section", "html_of"]

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Section:
    """A part of a page, which its contents name."""

    title: str
    blocks: Sequence[Block]

    @property
    def mark(self) -> str:
        """What links lead to it by."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Page:
    """What a page tells."""

    title: str
    kicker: str
    """What kind of page it is, above the title."""
    lead: Sequence[Block]
    sections: Sequence[Section]
    foot: str = ""
    extra: str = field(default="", repr=False)
    """Markup of a page of its own kind, between the lead and the sections."""
    after: str = field(default="", repr=False)
    """The same, after the sections."""
    more: Sequence[tuple[str, str]] = ()
    """What else the contents name, and where it leads."""
    policy: str = POLICY
    """What the page may load; a page from disk nothing."""


def html_of(page: Page) -> str:
    """Return the whole page."""
    named = [*((s.title, f"#{s.mark}") for s in page.sections), *page.more]
    contents = "".join(element("li", element("a", escape(title), href=where)) for title, where in named)
    sections = "\n".join(_section(section) for section in page.sections)
    values = {
        "title": escape(page.title),
        "heading": broken(page.title),
        "kicker": escape(page.kicker),
        "lead": as_html(page.lead),
        "contents": contents,
        "extra": page.extra,
        "after": page.after,
        "policy": escape(page.policy),
        "sections": sections,
        "foot": escape(page.foot),
        "style": style("page.css") + style("picture.css"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], style("page.html"))


def _section(section: Section) -> str:
    title = f"{section.mark}-title"
    head = element("h2", escape(section.title), id=title)
    return element("section", head, as_html(section.blocks), id=section.mark, aria_labelledby=title)
