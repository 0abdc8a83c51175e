"""Maps of items, as the pages and :mod:`stratacube.preview` show them."""

from __future__ import annotations

from collections.abc import Sequence

from catalog.browse.records import Record
from stratacube.page import Picture, Place, footprint_map

__all__ = ["map_of", "time_of"]


def map_of(found: Sequence[Record], alt: str, *, linked: bool = False) -> Picture:
    """Draw footprints by stratum and split; of items that have none of these, by valid share.

    Parameters
    ----------
    found
        The items.
    alt
        What the map shows, in words.
    linked
        Whether each leads to its page.
    """
    by_share = bool(found) and all(record.share is not None and not record.stratum for record in found)
    places = []
    for record in found:
        told = "\n".join(filter(None, (record.id, record.stratum, time_of(record))))
        value, link = record.share if by_share else None, f"/item/{record.key}" if linked else ""
        places += [Place(ring, told, record.stratum, record.split, value, link) for ring in record.rings]
    return footprint_map(places, alt=alt, what="valid pixels" if by_share else "")


def time_of(record: Record) -> str:
    """When it begins and ends, to the minute; of whole days, to the day."""
    first, last = record.days
    whole = all(moment[10:19] == "T00:00:00" for moment in (record.start, record.end))
    if whole and record.start < record.end:
        return first if first == last else f"{first} to {last}"
    start, end = (moment[:16].replace("T", " ") for moment in (record.start, record.end))
    if end <= start:
        return start
    return f"{start} to {end[11:] if end[:10] == first else end}"
