"""What the headers of a build's files tell, in a few numbers a scan: packings, coefficients, times, fills."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from catalog.geostationary.scans import Scan
from cube.geostationary.index import FileIndex
from cube.geostationary.layout import TileLayout
from cube.geostationary.tiles import stored_factor

__all__ = ["NO_TIME", "ScanNumbers"]

NO_TIME = np.iinfo("i8").min


class ScanNumbers:
    """Times of scans (microseconds since 1970) and the packing and coefficients of their channels.

    Parameters
    ----------
    layout
        Of the store.
    names
        Ids of the scans.
    """

    def __init__(self, layout: TileLayout, names: Sequence[str]) -> None:
        self.layout = layout
        self.rows = {name: row for row, name in enumerate(names)}
        shape = len(names), len(layout.channels)
        self.start, self.middle = np.full(len(names), NO_TIME), np.full(len(names), NO_TIME)
        self.packing: Mapping[str, np.ndarray] = {
            "packing_scale": np.full(shape, np.nan),
            "packing_offset": np.full(shape, np.nan),
        }
        self.coefficients = {name: np.full(shape, np.nan, "f4") for name in layout.instrument.coefficients}
        self.fills: dict[int, set[int]] = defaultdict(set)
        self.unreadable: dict[str, str] = {}
        """By file, why it could not be read."""
        self.readable = 0
        self._begun: dict[int, int] = {}

    def add_scan(self, scan: Scan) -> None:
        """Take note of a scan, whose files may all be unreadable."""
        self.start[self.rows[scan.id]] = np.datetime64(scan.start, "us").astype("i8")

    def starts(self, names: Sequence[str]) -> npt.NDArray[np.datetime64]:
        """Starts of scans, microseconds; not a time where there is no scan (an empty name)."""
        found = np.array([self.start[self.rows[name]] if name else NO_TIME for name in names], "i8")
        return found.view("M8[us]")

    def add_header(self, scan_id: str, header: FileIndex) -> None:
        """Take note of one of a scan's files."""
        row, channel = self.rows[scan_id], header.source.channel
        band = self.layout.channels.index(channel)
        if not np.isnat(header.begin_time):  # which a name may give to a minute only
            begun = int(header.begin_time.astype("M8[us]").astype("i8"))
            self.start[row] = min(self._begun.get(row, begun), begun)
            self._begun[row] = int(self.start[row])
        self.middle[row] = max(int(self.middle[row]), int(header.mid_time.astype("M8[us]").astype("i8")))
        self.packing["packing_scale"][row, band] = header.scale / stored_factor(self.layout, header, channel)
        self.packing["packing_offset"][row, band] = header.offset
        for name, values in self.coefficients.items():
            values[row, band] = header.coefficients[name]
        self.fills[channel].add(header.rad.fill)
        self.readable += 1
