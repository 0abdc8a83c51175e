"""Pages that open from disk and the pictures on them: one style, one map, for every build and for the catalogue."""

from __future__ import annotations

from stratacube.page.blocks import Block, Code, Facts, Gallery, Shown, Table, as_html, as_markdown
from stratacube.page.charts import Series, bars, calendar, columns, lines
from stratacube.page.document import Page, Section, html_of
from stratacube.page.maps import MOST_RINGS, Crowd, Place, at_even_steps, footprint_map
from stratacube.page.picture import Picture
from stratacube.page.raster import COLOURS, Scale, coloured, image_picture

__all__ = [
    "COLOURS",
    "MOST_RINGS",
    "Block",
    "Code",
    "Crowd",
    "Facts",
    "Gallery",
    "Page",
    "Picture",
    "Place",
    "Scale",
    "Section",
    "Series",
    "Shown",
    "Table",
    "as_html",
    "as_markdown",
    "at_even_steps",
    "bars",
    "calendar",
    "coloured",
    "columns",
    "footprint_map",
    "html_of",
    "image_picture",
    "lines",
]
