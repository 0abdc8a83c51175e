"""Pages that open from disk and the pictures on them: one style, one map, for every build and for the catalogue."""

from __future__ import annotations

from stratacube.page.blocks import Block, Code, Facts, Gallery, Shown, Table, as_html, as_markdown
from stratacube.page.charts import Series, bars, calendar, columns, lines
from stratacube.page.document import Page, Section, html_of
from stratacube.page.maps import MOST_RINGS, Place, footprint_map
from stratacube.page.picture import Picture
from stratacube.page.raster import Scale, coloured, image_picture

__all__ = [
    "MOST_RINGS",
    "Block",
    "Code",
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
    "bars",
    "calendar",
    "coloured",
    "columns",
    "footprint_map",
    "html_of",
    "image_picture",
    "lines",
]
