"""Which products count: those that pass the filters, and one processing of each tile, datatake and datastrip."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from catalog.sentinel2.items import Product
from catalog.sentinel2.metadata import REPROCESSED
from catalog.sentinel2.names import parse_product_name
from catalog.sentinel2.query import Query
from catalog.sentinel2.sizes import held_key
from stratacube.errors import SourceError, UsageError

__all__ = [
    "Dropped",
    "Selection",
    "counted",
    "deduplicate",
    "judge_unread",
    "newest_first",
    "refuse_lacking",
    "select_products",
]


@dataclass(frozen=True)
class Dropped:
    """A product that was found but is not used."""

    id: str
    reason: str
    fault: bool = False
    """Whether it might be wanted and cannot be read."""
    href: str = ""
    """Where it lies."""
    place: int = -1
    """Which of a list of items it is, from 0."""


@dataclass(frozen=True)
class Selection:
    """Products to use, in order of time and name, and those that are not used."""

    products: tuple[Product, ...]
    dropped: tuple[Dropped, ...]


def select_products(products: Iterable[Product], query: Query) -> Selection:
    """Keep the products that a query wants and, of several processings, the newest."""
    passed, dropped = [], []
    for product in products:
        reason = query.refusal(product)
        if reason:
            dropped.append(Dropped(product.id, reason))
        else:
            passed.append(product)
    single = deduplicate(passed)
    return Selection(single.products, (*dropped, *single.dropped))


def judge_unread(dropped: Iterable[Dropped], query: Query) -> list[Dropped]:
    """Tell faults from what is not wanted anyway, where the name of what cannot be read says so."""
    judged = []
    for one in dropped:
        with suppress(SourceError):
            if one.fault and query.refusal_by_name(parse_product_name(one.id)):
                one = replace(one, fault=False)  # noqa: PLW2901
        judged.append(one)
    return judged


def refuse_lacking(products: Sequence[Product], keys: Iterable[str]) -> None:
    """Refuse files that no product has, before each product is dropped for want of them.

    Parameters
    ----------
    products
        All that may be used.
    keys
        Of the files wanted, such as ``B11_20m``.

    Raises
    ------
    UsageError
        If no product lists one of them; it names those that are listed.
    """
    lacking = [key for key in keys if not any(held_key(product, key) in product.assets for product in products)]
    if products and lacking:
        there = {key for product in products for key in product.assets}
        known = ", ".join(sorted(key for key in there if key.startswith("B")))
        raise UsageError(
            f"none of {len(products)} products has {', '.join(lacking)}; they have {known or 'no bands'}: "
            "change `bands` or `bands_res`"
        )


def deduplicate(products: Sequence[Product]) -> Selection:
    """Keep, of each tile, datatake and datastrip, the highest baseline and of that the latest processing.

    A tile that a datatake saw in two datastrips comes as two half-empty products: both are kept, as parts of one
    datatake. Where a datastrip is unknown, only others whose datastrip is unknown too are taken for the same.
    """
    best: dict[tuple[Any, ...], Product] = {}
    single = {p.id: p for p in reversed(products)}  # one may be there in two forms, of which one tells no datastrip
    for product in sorted(single.values(), key=lambda p: p.id, reverse=True):  # the last by name, of those of one age
        key = _identity(product)
        if key not in best or newest_first(product) < newest_first(best[key]):
            best[key] = product
    dropped = []
    for product in products:
        kept = best[_identity(single[product.id])]
        if kept is not product:
            dropped.append(Dropped(product.id, _reason(product, kept)))
    return Selection(tuple(sorted(best.values(), key=lambda p: (p.datatake_start, p.id))), tuple(dropped))


def _identity(product: Product) -> tuple[Any, ...]:
    """Names and catalogues give some of these times to the second and some with milliseconds."""
    strip = product.datastrip_start.replace(microsecond=0) if product.datastrip_start else None
    return product.tile, product.platform, product.datatake_start.replace(microsecond=0), strip


def newest_first(product: Product) -> tuple[tuple[int, ...], timedelta]:
    """Return the key by which the product that counts sorts first: the highest baseline, then the latest processing.

    Baseline 99.99 marks processings outside ESA's and says nothing of their age: any other goes before it.
    """
    outside = product.baseline == REPROCESSED
    baseline = (1,) if outside else tuple(-int(n) for n in product.baseline.split("."))
    return baseline, datetime.max - product.processing_time


def _reason(product: Product, kept: Product) -> str:
    same = f"same tile, datatake and datastrip as {kept.id}"
    if product.id == kept.id:
        return f"listed twice: {product.id}"
    if product.baseline != kept.baseline:
        return f"{same}, which has baseline {kept.baseline} and not {product.baseline}"
    if product.processing_time != kept.processing_time:
        return f"{same}, which was processed later ({kept.processing_time:%Y-%m-%d %H:%M:%S})"
    return f"{same}, of the same baseline and processing time"


def counted(dropped: Iterable[Dropped]) -> str:
    """Reasons with how often each was given, the most frequent first, numbers of single products left out."""
    kinds = Counter(_kind(d.reason) for d in dropped)
    return ", ".join(f"{number} x {kind}" for kind, number in kinds.most_common())


def _kind(reason: str) -> str:
    for pattern, kind in (
        (r"sensed \S+ \S+, outside of the period", "outside of the period"),
        (r"sensed \S+ \S+, in none of the periods", "in none of the periods"),
        (r"cloud cover [\d.]+ %( is above [\d.]+ %)", r"cloud cover\1"),
        (r"sun elevation -?[\d.]+( is below -?[\d.]+ degrees)", r"sun elevation\1"),
        (r"same tile, datatake and datastrip as .*", "older processing of a product that is used"),
        (r"listed twice.*", "listed twice"),
        (r"item .*|.* cannot be read.*", "unreadable"),
    ):
        match = re.fullmatch(pattern, reason, re.DOTALL)
        if match:
            return match.expand(kind)
    return reason
