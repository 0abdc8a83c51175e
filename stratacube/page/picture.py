"""A picture and what it shows in words: shown in a notebook, kept as a file, or put into a page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from importlib.resources import files
from pathlib import Path

from stratacube.files import whole_file

__all__ = ["Picture", "element", "number", "style"]

_VOID = ("img", "input")
"""Elements that hold nothing and have no end."""


@lru_cache(4)
def style(name: str) -> str:
    """Return one of the style sheets beside this module."""
    return (files("stratacube.page") / name).read_text()


def number(value: float) -> str:
    """Pixels in few letters."""
    return f"{value:.1f}".removesuffix(".0")


def element(tag: str, *inside: str, **attributes: object) -> str:
    """Return an element; values are escaped, what is ``inside`` is markup already; ``class_`` is class."""
    told = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(number(v) if isinstance(v, float) else str(v))}"'
        for name, v in attributes.items()
        if v is not None
    )
    return f"<{tag}{told}>" if tag in _VOID else f"<{tag}{told}>{''.join(inside)}</{tag}>"


@dataclass(frozen=True)
class Picture:
    """A drawing (SVG) or an image (PNG, JPEG), and what it shows.

    Notebooks show it; :meth:`save` writes a file that stands alone.
    """

    alt: str
    """What it shows, for whoever does not see it."""
    width: float
    height: float
    """Pixels."""
    drawing: str = ""
    """Markup within the ``svg`` element; its colours are classes of ``picture.css``."""
    image: bytes = b""
    media_type: str = "image/svg+xml"

    @property
    def suffix(self) -> str:
        """Of a file of its kind."""
        return {"image/svg+xml": ".svg", "image/png": ".png", "image/jpeg": ".jpg"}[self.media_type]

    def markup(self) -> str:
        """Markup for a page that has ``picture.css``."""
        if self.drawing:
            box = f"0 0 {number(self.width)} {number(self.height)}"
            role = "group" if "<a " in self.drawing else "img"  # what is within an image is not told to anybody
            told = {"class_": "picture", "viewBox": box, "role": role, "aria_label": self.alt, "width": "100%"}
            told["style"] = f"max-width:{number(self.width)}px"  # else small drawings have large letters
            return element("svg", self.drawing, **told)
        return element("img", src=self.address(), alt=self.alt, width=round(self.width), height=round(self.height))

    def address(self) -> str:
        """The file as a ``data:`` address."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.to_bytes()).decode()}"

    def to_bytes(self) -> bytes:
        """Return the file."""
        if not self.drawing:
            return self.image
        size = {"width": round(self.width), "height": round(self.height)}
        box = f"0 0 {number(self.width)} {number(self.height)}"
        sheet = element("style", style("picture.css"))
        ground = element("rect", class_="ground", width="100%", height="100%")
        inside = (element("title", escape(self.alt)), sheet, ground, self.drawing)
        attributes = {"xmlns": "http://www.w3.org/2000/svg", "class_": "picture alone", "viewBox": box, "role": "img"}
        return element("svg", *inside, **attributes, **size).encode()

    def save(self, path: Path | str) -> Path:
        """Write it as a file that stands alone, whole or not at all.

        Parameters
        ----------
        path
            Where; without a suffix, that of its kind is added.

        Returns
        -------
        Path
            Where it was written.
        """
        path = Path(path)
        path = path if path.suffix else path.with_suffix(self.suffix)
        with whole_file(path) as part:
            part.write_bytes(self.to_bytes())
        return path

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        data: object = self.to_bytes()
        if self.drawing:
            data = self.to_bytes().decode()
        return {self.media_type: data, "text/plain": self.alt}
