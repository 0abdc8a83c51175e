"""What came of fetching a product, file by file."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.places import with_grids
from stratacube.errors import SourceError

__all__ = ["Failure", "Fetched", "Gathered"]


@dataclass(frozen=True)
class Failure:
    """A file that could not be had; its address as it may be shown, without a signature."""

    product: str
    key: str
    href: str
    reason: str


@dataclass(frozen=True)
class Fetched:
    """A product with the paths of its files on disk; files that failed are not among its assets."""

    product: Product
    failures: tuple[Failure, ...] = ()


@dataclass
class Gathered:
    """Files of a product as they come in."""

    product: Product
    missing: int
    result: Future[Fetched]
    assets: dict[str, Asset] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    fatal: BaseException | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, key: str, asset: Asset) -> None:
        """Take a file that is there."""
        with self.lock:
            self.assets[key] = asset
            self._count()

    def miss(self, failure: Failure) -> None:
        """Take one that could not be had."""
        with self.lock:
            self.failures.append(failure)
            self._count()

    def fail(self, error: BaseException) -> None:
        """Give the product up."""
        with self.lock:
            self.fatal = self.fatal or error
            self._count()

    def _count(self) -> None:
        self.missing -= 1
        if self.missing:
            return
        if self.fatal is not None:
            self.result.set_exception(self.fatal)
            return
        try:
            found = with_grids(replace(self.product, assets=dict(sorted(self.assets.items()))))
        except SourceError as error:
            found = replace(self.product, assets={})
            self.failures.append(Failure(self.product.id, "granule_metadata", "", str(error)))
        self.result.set_result(Fetched(found, tuple(self.failures)))
