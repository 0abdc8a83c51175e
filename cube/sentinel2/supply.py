"""Products for a build: found once and kept, brought to disk while the scenes that are there are processed."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

import pandas as pd

from catalog.sentinel2.destination import Destination, is_trusted
from catalog.sentinel2.download import Downloader
from catalog.sentinel2.eopf_tree import Read, reader
from catalog.sentinel2.fetch import Failure, Fetched, Fetcher, downloader
from catalog.sentinel2.find import Found, find_products, find_safe, look_again, save_found
from catalog.sentinel2.items import Product
from catalog.sentinel2.lists import mark_fetched, write_query_manifest
from catalog.sentinel2.places import is_remote
from catalog.sentinel2.query import Query
from catalog.sentinel2.saved import load_items
from catalog.sentinel2.search import search_stac
from catalog.sentinel2.select import Dropped, judge_unread, select_products
from catalog.sentinel2.signing import CDSE_S3, S3Signer
from catalog.sentinel2.tokens import CDSE_TOKEN, TokenSource
from catalog.sentinel2.transfers import Meter
from cube.sentinel2.acquisitions import Acquisition
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.grid import Cell, box_around, footprint
from stratacube.errors import StratacubeError
from stratacube.files import write_json, write_text

__all__ = ["Sources", "Supply", "find", "query_of", "reading", "with_mended", "write_lists", "write_unread"]

_log = logging.getLogger(__name__)

_BATCH = 4
"""Scenes a worker waits for before it begins: starting workers takes longer than a scene."""

_TELL_EVERY = 15.0


@dataclass(frozen=True)
class Sources:
    """Products of a build, and those that may be wanted and cannot be read."""

    products: tuple[Product, ...]
    faults: tuple[Dropped, ...] = ()


def find(
    config: Sentinel2Config, folder: Sentinel2Folder, cells: Sequence[Cell], products: Sequence[Product] | None
) -> Sources:
    """Find the products of a build: those given, those of the search kept in its folder, or by a search.

    Raises
    ------
    SourceError
        If nothing is found or nothing answers.
    UsageError
        If a folder or a saved search is no such thing.
    """
    query = query_of(config, cells)
    if products is not None:
        return Sources(select_products(products, query).products)
    if folder.items.exists():
        found = find_products(query, items=folder.items, access=config.access, fresh=lambda: _fresh(config, query))
        kept = found.products if config.safe_dir is None else tuple(_of_any_size(p) for p in found.products)
        return Sources(kept, _faults(found))
    found = find_products(
        query,
        items=config.items,
        safe_dir=config.safe_dir,
        stac_url=config.stac_url,
        access=config.access,
        read=reading(config),
    )
    if found.note:
        _log.info("%s", found.note)
    if not config.dry_run:
        save_found(found, folder.indices, queried=_searched(folder))
    return Sources(found.products, _faults(found))


def reading(config: Sentinel2Config) -> Read:
    """How the metadata of products elsewhere is read: as their files are fetched."""
    tokens, signer, trusted = _stand_ins(config)
    return reader(tokens, signer, trusted)


def _stand_ins(config: Sentinel2Config) -> tuple[TokenSource, S3Signer, Callable[[Destination], bool]]:
    """Who gives tokens, who signs and whom both are for: CDSE, or servers that stand in for it."""
    return (
        TokenSource(url=config.cdse_token_url or CDSE_TOKEN),
        S3Signer(endpoint=config.cdse_s3_endpoint or CDSE_S3),
        partial(is_trusted, config.cdse_hosts),
    )


def _fresh(config: Sentinel2Config, query: Query) -> Sequence[Any]:
    """Items as they came, with the signatures of their addresses; none where they cannot be had now."""
    try:
        return load_items(config.items) if config.items is not None else search_stac(query, config.stac_url)
    except StratacubeError as error:
        _log.warning("the signatures of addresses, which are kept in no file, cannot be had again: %s", error)
        return ()


def _faults(found: Found) -> tuple[Dropped, ...]:
    return tuple(d for d in found.selection.dropped if d.fault)


def write_unread(
    config: Sentinel2Config, folder: Sentinel2Folder, cells: Sequence[Cell], found: Sequence[Dropped] | None
) -> None:
    """Write what could not be read when it was found; None to look once more, for a build that did not record it."""
    if found is None:
        dropped = find_safe(config.safe_dir)[1] if config.safe_dir is not None else ()
        found = [d for d in judge_unread(dropped, query_of(config, cells)) if d.fault]
    write_json(folder.unread, [asdict(d) for d in found])


def with_mended(
    config: Sentinel2Config, folder: Sentinel2Folder, cells: Sequence[Cell], there: Sequence[Product]
) -> tuple[Sources, frozenset[str]]:
    """Try once more what could not be read when it was found.

    Parameters
    ----------
    config, folder, cells
        Of the build.
    there
        What was found.

    Returns
    -------
    sources : Sources
        What was found and what can be read by now; what still cannot.
    mended : frozenset of str
        Ids of what can be read by now.
    """
    query = query_of(config, cells)
    unread = [Dropped(**fields) for fields in json.loads(folder.unread.read_text())]
    again = look_again(unread, query, config.items, config.access, reading(config))
    faults = _faults(again)
    if not again.all_products:
        return Sources(tuple(there), faults), frozenset()
    chosen = select_products([*there, *again.products], query)
    known = {p.id for p in there}
    return Sources(chosen.products, faults), frozenset(p.id for p in chosen.products) - known


def _of_any_size(product: Product) -> Product:
    """Forget the sizes that a product's files had: in a folder of the user's, one may have been mended since."""
    return replace(product, assets={k: replace(a, size=None) for k, a in product.assets.items()})


def query_of(config: Sentinel2Config, cells: Sequence[Cell]) -> Query:
    """What a build searches for."""
    return Query(
        start=config.start,
        end=config.end,
        areas=(box_around(footprint(cells)),),
        periods=tuple((p.start, p.end) for p in config.periods or ()),
        max_cloud_cover=config.max_cloud_cover,
        min_sun_elevation=config.min_sun_elevation,
        orbits=config.orbits,
        platforms=config.platforms,
        months=config.months,
        baselines=config.baselines,
    )


def write_lists(
    config: Sentinel2Config, folder: Sentinel2Folder, cells: Sequence[Cell], products: Sequence[Product] | None
) -> None:
    """Write what was found and is not used, from the saved search: lost lists need no second search."""
    query = query_of(config, cells)
    if products is not None:
        _write_left_out(folder, select_products(products, query).dropped)
        return
    found = find_products(query, items=folder.items, access=config.access)
    # Of a folder, what could not be read is no item.
    unread = find_safe(config.safe_dir)[1] if config.safe_dir is not None else []
    dropped = [*unread, *found.selection.dropped]
    used = (p.id for p in found.products)
    write_query_manifest(folder.manifest, found.all_products, used, dropped, _searched(folder), found.items)
    _write_left_out(folder, dropped)


def _searched(folder: Sentinel2Folder) -> datetime | None:
    """When the build was begun: a list that is lost is to be written again as it was."""
    return folder.created() if folder.config.exists() else None


def _write_left_out(folder: Sentinel2Folder, dropped: Sequence[Dropped]) -> None:
    rows = [{"id": d.id, "reason": d.reason} for d in dropped]
    write_text(folder.left_out, pd.DataFrame(rows, columns=["id", "reason"]).to_csv(index=False))


class Supply:
    """Brings the files of acquisitions to disk, and hands out those that are there.

    Parameters
    ----------
    config
        The build.
    folder
        Its folder.
    """

    def __init__(self, config: Sentinel2Config, folder: Sentinel2Folder) -> None:
        self.config, self.folder = config, folder
        self.failures: list[Failure] = []
        self._told = time.monotonic()

    def batches(self, acquisitions: Sequence[Acquisition], workers: int) -> Iterator[list[Acquisition]]:
        """Yield acquisitions whose files are on disk, as they come; downloads go on while a batch is processed.

        Raises
        ------
        StratacubeError
            If nothing more can be fetched.
        """
        here = [a for a in acquisitions if not _remote(a)]
        away = [a for a in acquisitions if _remote(a)]
        if not away:
            yield here
            return
        with Fetcher(
            self.folder.archive,
            [key for _, key in self.config.asset_keys()],
            access=self.config.access,
            download=self._stand_in(),
            connections=self.config.connections,
            progress=self._tell,
        ) as fetcher:
            waiting = {a.key: (a, [fetcher.submit(p) for p in a.products]) for a in away}
            if here:
                yield here
            ready: list[Acquisition] = []
            while waiting:
                pending = [f for _, futures in waiting.values() for f in futures if not f.done()]
                if pending:
                    wait(pending, return_when=FIRST_COMPLETED)
                for key in [k for k, (_, futures) in waiting.items() if all(f.done() for f in futures)]:
                    ready.append(self._fetched(*waiting.pop(key)))
                if len(ready) >= _BATCH * workers or not waiting:
                    yield ready
                    ready = []
        if fetcher.meter.bytes_received:
            _log.info("%s", fetcher.meter.line())
        if self.folder.scene_files.exists():
            mark_fetched(self.folder.scene_files)

    def _fetched(self, acquisition: Acquisition, futures: Sequence[Future[Fetched]]) -> Acquisition:
        fetched = [f.result() for f in futures]
        self.failures += [failure for f in fetched for failure in f.failures]
        return replace(acquisition, products=tuple(f.product for f in fetched))

    def _stand_in(self) -> Downloader | None:
        """Download from servers that stand in for CDSE, where there are any."""
        config = self.config
        if not (config.cdse_token_url or config.cdse_hosts or config.cdse_s3_endpoint):
            return None
        self.folder.archive.mkdir(parents=True, exist_ok=True)
        tokens, signer, trusted = _stand_ins(config)
        return downloader(
            self.folder.archive, connections=config.connections, tokens=tokens, signer=signer, trusted=trusted
        )

    def reason(self, product: str, otherwise: str) -> str:
        """Why a product was dropped: what its download said, where it is that."""
        return next((f"{f.key}: {f.reason}" for f in self.failures if f.product == product), otherwise)

    def _tell(self, meter: Meter) -> None:
        if time.monotonic() - self._told >= _TELL_EVERY:
            self._told = time.monotonic()
            _log.info("%s", meter.line())


def _remote(acquisition: Acquisition) -> Any:
    return any(is_remote(a.href) for p in acquisition.products for a in p.assets.values())
