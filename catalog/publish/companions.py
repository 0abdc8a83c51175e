"""Assets of a collection that show the whole build: the report as a page, and drawings; where their files are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from catalog.publish.values import relative

__all__ = ["companions"]

_SVG = "image/svg+xml"
_SHOWN = (
    ("report_page", "report.html", "text/html", "Report of the build, with pictures, as one page", "overview"),
    ("footprints", "previews/footprints.svg", _SVG, "Map of the footprints", "overview"),
    ("mosaic", "previews/mosaic.png", "image/png", "All cells side by side, in true colour", "overview"),
    ("observations", "previews/observations.svg", _SVG, "Observations behind each pixel", "overview"),
    ("quotas", "previews/quotas.svg", _SVG, "What was asked of each stratum and class, and found", "metadata"),
    ("calendar", "previews/calendar.svg", _SVG, "When the archive has what was asked for", "metadata"),
    ("run", "previews/run.svg", _SVG, "Products made over the run", "metadata"),
)
"""Key, path, media type, title, role."""


def companions(output: Path, folder: str = ".") -> dict[str, Any]:
    """Return the assets whose files are there.

    Parameters
    ----------
    output
        Folder of the build.
    folder
        Where the collection lies in it.
    """
    return {
        key: {"href": relative(path, folder), "type": kind, "title": title, "roles": [role]}
        for key, path, kind, title, role in _SHOWN
        if (output / path).exists()
    }
