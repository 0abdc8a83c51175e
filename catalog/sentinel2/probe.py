"""Asking the Copernicus Data Space for very little, to see whether it is as it was: a search, a token, a small file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import requests

from catalog.sentinel2.assumptions import ASSUMPTIONS, broken_by
from catalog.sentinel2.convert import product_from_item
from catalog.sentinel2.destination import Destination, is_cdse, prepare, send
from catalog.sentinel2.download import Downloader
from catalog.sentinel2.items import Asset
from catalog.sentinel2.names import CDSE_STAC
from catalog.sentinel2.query import Query
from catalog.sentinel2.rate import Connections, Pace
from catalog.sentinel2.search import search_stac
from catalog.sentinel2.settings import S3Keys, read_s3_keys
from catalog.sentinel2.signing import CDSE_S3, S3Signer
from catalog.sentinel2.tokens import CDSE_TOKEN, TokenSource
from catalog.sentinel2.web import http_session
from stratacube.addresses import plain_url
from stratacube.checks import Check, OfflineError
from stratacube.errors import SourceError, StratacubeError
from stratacube.files import human_bytes

__all__ = ["Probe"]

_QUESTION = Query(start=datetime(2020, 7, 3), end=datetime(2020, 7, 4), areas=((7.9, 47.2, 8.0, 47.3),))
"""Of the middle of one tile on one cloudy day: one or two items, and scene classes of a quarter of a megabyte."""

_MOST = 600_000
"""Bytes of a file that is fetched; with the rest it stays below a megabyte."""

_TIMEOUT = 15.0
_ACCESS_LIFE, _REFRESH_LIFE = 600.0, 3600.0
_ITEM_SEARCH = "item-search"
_REPORT = "take a newer version of stratacube, or report it; until then look twice at what is built"


@dataclass
class Probe:
    """The services to ask, and what was found.

    Parameters
    ----------
    stac, token, s3
        Addresses.
    trusted
        Whether a host may have the token.
    keys
        Of the key pair, when it is needed.
    """

    stac: str = CDSE_STAC
    token: str = CDSE_TOKEN
    s3: str = CDSE_S3
    trusted: Callable[[Destination], bool] = is_cdse
    keys: Callable[[], S3Keys] = read_s3_keys
    bytes: int = 0
    """Received so far."""
    items: list[dict[str, Any]] = field(default_factory=list)

    def search(self) -> Iterator[Check]:
        """Ask the STAC API for one page.

        Raises
        ------
        OfflineError
            If it cannot be reached at all.
        """
        landing = self._landing()
        if landing is not None:
            yield landing
        if landing is not None and landing.what == "search":
            return
        try:
            self.items = list(search_stac(_QUESTION, self.stac, page_size=2, timeout=_TIMEOUT, tries=2))
        except StratacubeError as error:
            yield Check("search", "broken", str(error))
            return
        self.bytes += sum(len(json.dumps(item)) for item in self.items)
        if not self.items:
            yield Check("search", "broken", f"{plain_url(self.stac)} knows no product of {_QUESTION.start:%Y-%m-%d}")
            return
        yield Check("search", "works", f"{len(self.items)} items of {_QUESTION.start:%Y-%m-%d} at 47 N 8 E")
        yield from self._assumptions()

    def _landing(self) -> Check | None:
        """Fetch the landing page; None where it is as it should be."""
        session, where = http_session(), plain_url(self.stac)
        fault = None
        try:
            response = send(session, prepare(session, self.stac), timeout=_TIMEOUT)
            conforms = response.json().get("conformsTo", ())
        except (requests.ConnectionError, requests.Timeout) as error:
            fault = type(error).__name__
        except (SourceError, requests.RequestException, ValueError, AttributeError) as error:
            return Check("search", "broken", f"{where} gives no landing page ({type(error).__name__})")
        if fault is not None:
            raise OfflineError(f"{where} cannot be reached ({fault})")
        self.bytes += len(response.content)
        if response.status_code != requests.codes.ok:
            return Check("search", "broken", f"{where} answers {response.status_code}", "run again later")
        if not any(_ITEM_SEARCH in str(one) for one in conforms):
            return Check("assumption", "broken", f"that {where} says it can be searched does not hold", _REPORT)
        return None

    def _assumptions(self) -> Iterator[Check]:
        broken = {assumption: found for item in self.items for assumption, found in broken_by(item)}
        for assumption, found in broken.items():
            yield Check("assumption", "broken", f"that {assumption} does not hold: {found}", _REPORT)
        kept = len(ASSUMPTIONS) - len(broken)
        if kept > 0:
            yield Check("assumptions", "works", f"{kept} of {len(ASSUMPTIONS)} on items hold")

    def log_in(self, tokens: TokenSource) -> Iterator[Check]:
        """Ask for a token."""
        try:
            tokens.token()
        except StratacubeError as error:
            yield Check("token", "broken", str(error))
            return
        access, refresh = tokens.lives or (0.0, 0.0)
        self.bytes += 4096  # of two tokens; how many they are is not told
        yield Check("token", "works", f"valid for {access:.0f} s, and refreshed for {refresh:.0f} s")
        for what, life, usual in (("access", access, _ACCESS_LIFE), ("refresh", refresh, _REFRESH_LIFE)):
            if not usual / 2 <= life <= usual * 2:
                told = f"that an {what} token lives {usual:.0f} s does not hold: this one lives {life:.0f} s"
                yield Check("assumption", "broken", told, "nothing: runs go by what is told")

    def fetch(self, folder: Path, tokens: TokenSource | None) -> tuple[Path | None, Asset | None, list[Check]]:
        """Bring the smallest image of scene classes that was found, and hold it against its digest.

        Parameters
        ----------
        folder
            Where it goes.
        tokens
            The account's; without, by the key pair.
        """
        assets = self._small("https" if tokens is not None else "s3")
        if not assets:
            return None, None, [Check("file", "lacks", f"no image of scene classes has less than {human_bytes(_MOST)}")]
        asset, place = assets[0], folder / "SCL_20m.jp2"
        download = Downloader(
            tokens or TokenSource(),
            S3Signer(self.keys, self.s3),
            Connections(1),
            Pace(2.0),
            timeout=(_TIMEOUT, _TIMEOUT),
            tries=2,
            trusted=self.trusted,
        )
        before = self.bytes
        try:
            download.fetch(asset, place, self._count)
        except StratacubeError as error:
            return None, None, [Check("file", "broken", str(error))]
        digest = "with the digest listed" if asset.checksum else "of which no digest is listed"
        told = f"{human_bytes(self.bytes - before)} from {plain_url(asset.href).split('/')[2]}, {digest}"
        return place, asset, [Check("file", "works", told)]

    def _small(self, access: Any) -> Sequence[Asset]:
        found = []
        for item in self.items:
            try:
                asset = product_from_item(item, access).assets.get("SCL_20m")
            except SourceError:  # an item that breaks an assumption, which is told
                continue
            if asset is not None and asset.size is not None and asset.size <= _MOST:
                found.append(replace(asset))
        return sorted(found, key=lambda a: a.size or 0)

    def _count(self, received: int) -> None:
        self.bytes += received
