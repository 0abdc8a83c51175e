"""Searching a STAC API for products.

Whatever a server filters is only less to bring: the same filters are applied to what it returns (see
:func:`catalog.sentinel2.select.select_products`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import requests
from pystac_client import Client
from pystac_client.exceptions import APIError, ParametersError
from pystac_client.stac_api_io import StacApiIO
from pystac_client.warnings import PystacClientWarning

from catalog.sentinel2.destination import asks_cdse
from catalog.sentinel2.names import CDSE_STAC
from catalog.sentinel2.packed import PackedItems, item_text
from catalog.sentinel2.query import BBox, Query, describe
from catalog.sentinel2.rate import Pace
from catalog.sentinel2.web import PacedAdapter, explain, http_session
from stratacube.addresses import checked_address, plain_url
from stratacube.errors import SourceError, UsageError
from stratacube.times import format_time

__all__ = ["COLLECTION", "nothing_found", "search_stac"]

COLLECTION = "sentinel-2-l2a"
REQUESTS_A_SECOND = 4.0
"""CDSE answers 429 above about 5."""

_PAGE = 100
_PAD = timedelta(hours=1)
_MOST_ITEMS = 2_000_000
"""Of one area and interval: some 2 GB of memory, and four months of the whole Earth."""
"""An API's time of an item may be that of the tile, up to half an orbit after the start of its datatake."""

_CDSE_CATALOGUE = "cdse-stac"
_REMEDY = "give another API as `stac_url`, or a saved search as `items`"


def search_stac(
    query: Query,
    url: str = CDSE_STAC,
    collection: str = COLLECTION,
    *,
    page_size: int = _PAGE,
    pace: Pace | None = None,
    timeout: float = 60.0,
    tries: int = 5,
    pause: float = 1.0,
) -> PackedItems:
    """Search a STAC API.

    Parameters
    ----------
    query
        What is wanted.
    url
        The API's landing page.
    collection
        Collection of level 2A products.
    page_size
        Items a page; CDSE gives 200 at most.
    pace
        When requests may start; by default 4 a second.
    timeout
        Seconds to wait for an answer.
    tries, pause
        Attempts at one request, and seconds before the second (doubling with each); ``Retry-After`` goes first.

    Returns
    -------
    PackedItems
        Items as they came, each once, by time and id. Empty where there are none.

    Raises
    ------
    UsageError
        If the address is no STAC API.
    SourceError
        If the API is out of reach, refuses or is too slow; one sentence.
    """
    checked_address(url, "stac_url")
    io = StacApiIO(max_retries=None, timeout=timeout)
    io.session = http_session(PacedAdapter(pace or Pace(REQUESTS_A_SECOND), tries=tries, pause=pause))
    client = _open(url, io)
    found = PackedItems()
    places: dict[str, tuple[str, str, int]] = {}
    forms = _filters(client, url, query)
    boxes: list[BBox | None] = [*query.boxes()] or [None]
    for box in boxes:
        for begin, end in query.intervals():
            for item in _one_search(client, url, collection, box, (begin, end), forms, page_size):
                name, time = _name_and_time(item)
                if name not in places:
                    places[name] = time, name, len(found)
                    found.append(item)
    return found.ordered(place for *_, place in sorted(places.values()))


def _open(url: str, io: StacApiIO) -> Client:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PystacClientWarning)
            # Without it Client.open resets the timeout of what it is given.
            client = Client.open(url, stac_io=io, timeout=io.timeout)
    except APIError as error:
        raise _explained(url, error) from None
    except Exception as error:
        raise UsageError(
            f"{plain_url(url)} is not a STAC API ({type(error).__name__}); give its landing page as `stac_url`"
        ) from error
    # CDSE has at times not declared what it does; a search that it refuses is told by its answer.
    if not client.conforms_to("ITEM_SEARCH"):
        client.add_conforms_to("ITEM_SEARCH")
    return client


def _filters(client: Client, url: str, query: Query) -> list[dict[str, Any]]:
    """Ways to put the filter, best first; the last is none at all."""
    full = asks_cdse(url) or client.id == _CDSE_CATALOGUE
    forms: list[dict[str, Any]] = []
    text, properties = query.cql2(full=full), query.properties(full=full)
    if text is not None and client.conforms_to("FILTER"):
        forms.append({"filter": text, "filter_lang": "cql2-json"})
    if properties is not None and client.conforms_to("QUERY"):
        forms.append({"query": properties})
    return [*forms, {}]


def _one_search(
    client: Client,
    url: str,
    collection: str,
    box: BBox | None,
    period: tuple[datetime, datetime],
    forms: list[dict[str, Any]],
    page_size: int,
) -> PackedItems:
    """All items of one box and interval; a filter that the server cannot read is put otherwise from then on."""
    begin, end = format_time(period[0] - _PAD), format_time(period[1] + _PAD)
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PystacClientWarning)
                search = client.search(
                    collections=[collection], bbox=box, datetime=f"{begin}/{end}", limit=page_size, **forms[0]
                )
                return PackedItems(_items(url, search.pages_as_dicts()))
        except APIError as error:
            if getattr(error, "status_code", None) in (400, 422, 501) and len(forms) > 1:
                forms.pop(0)
                continue
            raise _explained(url, error) from None
        except (ParametersError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(
                f"{plain_url(url)} answered what is not a page of items ({type(error).__name__}); {_REMEDY}"
            ) from error


def _items(url: str, pages: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Items of pages; a server whose next page is the last one again would never end."""
    seen: set[str] = set()
    for page in pages:
        items = page["features"]
        ids = {_name_and_time(item)[0] for item in items}
        if len(seen) > _MOST_ITEMS:
            raise SourceError(
                f"{plain_url(url)} has more than {_MOST_ITEMS} items for one question; ask for a smaller area or period"
            )
        if ids <= seen and ids:
            raise SourceError(f"{plain_url(url)} repeats a page after {len(seen)} items; {_REMEDY}")
        seen |= ids
        yield from items


def _name_and_time(item: Any) -> tuple[str, str]:
    """Name of an item and its time; what has none is told apart by all that it holds, and refused when it is read."""
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        return item_text(item), ""
    properties = item.get("properties")
    return item["id"], str(properties.get("datetime")) if isinstance(properties, dict) else ""


def _explained(url: str, error: APIError) -> SourceError:
    """Say why; pystac-client hides the fault behind the text of it."""
    status, cause = getattr(error, "status_code", None), error.__context__
    if status is None and not isinstance(cause, requests.RequestException):
        return SourceError(f"{plain_url(url)} gave no answer that can be read; {_REMEDY}")
    return explain(url, None if status is not None else cause, status, _detail(str(error)), _REMEDY)


def _detail(text: str) -> str:
    """What a server says is wrong, without the JSON around it."""
    try:
        answer = json.loads(text)
    except ValueError:
        return text
    return str(answer.get("description") or answer.get("detail") or text) if isinstance(answer, dict) else text


def nothing_found(query: Query, where: str) -> UsageError:
    """Say that a search came back empty."""
    return UsageError(
        f"{where} has no Sentinel-2 L2A product from {describe(query)}; check the area and period, or widen the filters"
    )
