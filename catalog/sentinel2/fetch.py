"""Bringing products to disk while they are worked on: only what is asked for, each file verified, whole or absent.

Limits of the account are kept by all that use it, threads, processes and nodes alike: 4 connections, of which a run
takes 3 by default, and 4 requests a second. They are shared through a folder beside the credentials
(:func:`~catalog.sentinel2.settings.account_folder`), or ``<folder>/.limits`` where that cannot be written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType

from catalog.sentinel2.checksums import file_digest
from catalog.sentinel2.convert import Access
from catalog.sentinel2.destination import Destination, is_cdse
from catalog.sentinel2.download import DiskError, Downloader, ServerError, local_faults
from catalog.sentinel2.eopf_arrays import is_array
from catalog.sentinel2.eopf_tree import KEPT, Tree, read_tree
from catalog.sentinel2.estimate import CONNECTIONS
from catalog.sentinel2.fetch_arrays import at, bring_array, is_whole
from catalog.sentinel2.gathered import Failure, Fetched, Gathered
from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.odata import expand_manifest
from catalog.sentinel2.places import (
    is_remote,
    lies_there,
    local_candidates,
    local_path,
    place,
    total_bytes,
    tree_of,
    wanted_keys,
)
from catalog.sentinel2.rate import SLOTS, Connections, Pace, limits_folder
from catalog.sentinel2.settings import account_folder
from catalog.sentinel2.signing import CDSE_S3, S3Signer
from catalog.sentinel2.tokens import TokenSource
from catalog.sentinel2.transfers import Meter, Transfers
from catalog.sentinel2.turns import turn
from stratacube.addresses import plain_url
from stratacube.errors import ClaimLostError, SourceError, StratacubeError, UsageError

__all__ = ["Failure", "Fetched", "Fetcher", "downloader", "fetch_products"]

REQUESTS_A_SECOND = 4.0
_PATIENCE = 8
"""Files that fail in a row for the server's sake before the rest is not tried."""

_MANIFEST = "safe_manifest"


def downloader(
    root: Path,
    *,
    connections: int = CONNECTIONS,
    tokens: TokenSource | None = None,
    signer: S3Signer | None = None,
    trusted: Callable[[Destination], bool] = is_cdse,
) -> Downloader:
    """Return a downloader whose limits are shared by all that use an account.

    Parameters
    ----------
    root
        The folder.
    connections
        Connections of this process.
    tokens, signer, trusted
        Credentials, by default from the environment when the first file needs them; whether a host gets tokens.
    """
    limits = limits_folder(root, account_folder())
    return Downloader(
        tokens or TokenSource(),
        signer or S3Signer(endpoint=CDSE_S3),
        Connections(connections, limits, SLOTS),
        Pace(REQUESTS_A_SECOND, limits / "pace"),
        trusted=trusted,
    )


class Fetcher:
    """Fetches products in the order they are submitted, in threads of its own.

    Parameters
    ----------
    root
        Folder of the products; made if need be.
    bands
        Asset keys of the bands to bring, such as ``B02_20m``; the scene classification and metadata come with them.
    access
        ``local`` downloads nothing: files must lie in ``root`` or in ``mirrors``.
    mirrors
        Folders to look into before anything is downloaded, such as ``/eodata``.
    download
        How to download; by default over ``connections`` with credentials from the environment.
    connections
        Connections at once, of those that all share who use the account.
    progress
        Called after each file, in a thread of the fetcher, one at a time.
    """

    def __init__(
        self,
        root: Path,
        bands: Sequence[str],
        *,
        access: Access = "https",
        mirrors: Sequence[Path] = (),
        download: Downloader | None = None,
        connections: int = CONNECTIONS,
        progress: Callable[[Meter], None] | None = None,
    ) -> None:
        self._download, self._connections = download, connections
        self.root, self.bands, self.access, self.mirrors = root.absolute(), tuple(bands), access, tuple(mirrors)
        self.transfers = Transfers(self.root)
        self.meter = Meter(self.transfers)
        self._progress = progress
        self._lock = threading.Lock()
        self._fatal: StratacubeError | None = None
        self._failed_in_a_row = 0
        self._results: list[Future[Fetched]] = []
        self._trees: dict[str, Future[Tree]] = {}
        # One thread more than connections: it checks files while the others are on the line.
        self._pool = ThreadPoolExecutor(connections + 1, thread_name_prefix="s2-fetch")

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(cancel=kind is not None)

    def close(self, *, cancel: bool = False) -> None:
        """Wait for what was submitted, or stop it: what was received is kept and gone on from later."""
        if cancel and self._fatal is None:
            self._fatal = SourceError("the run was stopped")
        wait(self._results)  # a product whose manifest comes first has files still to submit
        self._pool.shutdown()

    def submit(self, product: Product) -> Future[Fetched]:
        """Begin to fetch a product.

        Returns
        -------
        Future of Fetched
            Ready when all its files were tried. Its exception is a ``UsageError`` when credentials are missing or
            refused, and a ``SourceError`` when the disk is full: then nothing more is tried.
        """
        result: Future[Fetched] = Future()
        self._results.append(result)
        if self._needs_manifest(product):
            self._pool.submit(self._with_manifest, product, result)
        else:
            self._start(product, result)
        return result

    def _needs_manifest(self, product: Product) -> bool:
        return _MANIFEST in product.assets and "granule_metadata" not in product.assets

    def _with_manifest(self, product: Product, result: Future[Fetched]) -> None:
        try:
            manifest = self._file(product, _MANIFEST)
            self._start(expand_manifest(product, local_path(manifest.href).read_bytes()), result)
        except SourceError as error:
            if self._fatal is not None:
                result.set_exception(self._fatal)
            else:
                failure = Failure(product.id, _MANIFEST, plain_url(product.assets[_MANIFEST].href), str(error))
                result.set_result(Fetched(replace(product, assets={}), (failure,)))
        except BaseException as error:  # noqa: BLE001  (whatever it is belongs to who waits for the product)
            result.set_exception(error)

    def _start(self, product: Product, result: Future[Fetched]) -> None:
        keys = wanted_keys(product, self.bands)
        gathered = Gathered(product, len(keys), result)
        with self._lock:
            self.meter.files += len(keys)
            self.meter.bytes_expected += total_bytes(product.assets, keys)[0]
        for key in keys:
            self._pool.submit(self._one, gathered, key)

    def _one(self, gathered: Gathered, key: str) -> None:
        """Bring one file and tell its product."""
        product = gathered.product
        href = plain_url(product.assets[key].href) if key in product.assets else ""
        try:
            gathered.add(key, self._file(product, key))
        except SourceError as error:
            if self._fatal is not None:
                gathered.fail(self._fatal)
            else:
                gathered.miss(Failure(product.id, key, href, str(error)))
        except BaseException as error:  # noqa: BLE001  (as above)
            gathered.fail(error)
        with self._lock:
            self.meter.files_done += 1
            if self._progress is not None:
                self._progress(self.meter)

    def _file(self, product: Product, key: str) -> Asset:
        """Return a file's asset with its path on disk, downloaded if need be."""
        self._go_on()
        try:
            found = self._bring(product, key)
        except (UsageError, DiskError, ClaimLostError) as error:
            self._fatal = error
            raise
        except ServerError as error:
            with self._lock:
                self._failed_in_a_row += 1
                if self._failed_in_a_row == _PATIENCE:
                    self._fatal = SourceError(
                        f"{_PATIENCE} files failed in a row, the rest was not tried; last: {error}"
                    )
            raise
        self._failed_in_a_row = 0
        return found

    def _bring(self, product: Product, key: str) -> Asset:
        asset = product.assets.get(key)
        if asset is None:
            raise SourceError(f"{product.id} has no {key}; it has {', '.join(sorted(product.assets)) or 'no files'}")
        if not is_remote(asset.href):
            return self._present(asset, [local_path(asset.href)], product, key)
        if (found := tree_of(asset.href)) is not None and found[1]:
            return self._array(product, key, asset)
        here = self.root / place(product, key, asset)
        candidates = [here, *local_candidates(product, key, asset, (*self.mirrors, self.root))]
        if self.access == "local":
            return self._present(asset, candidates, product, key)
        there = self._there(candidates, asset)
        if there is not None:
            return there
        downloader = self._downloader()
        with turn(self.root, f"{product.id}.{key}", self._go_on) as waited:
            # Another build that fetches into the same folder may have brought it meanwhile.
            there = self._there(candidates, asset) if waited else None
            return there or self._fetch(downloader, asset, here)

    def _array(self, product: Product, key: str, asset: Asset) -> Asset:
        """Return an image of a product in Zarr form with its folder on disk."""
        here = self.root / place(product, key, asset)
        mirrored = (c for c in local_candidates(product, key, asset, self.mirrors) if is_array(c))
        if (there := here if is_whole(here) else next(mirrored, None)) is not None:
            return at(asset, there)
        if self.access == "local":
            return self._present(asset, [here], product, key)
        download = self._downloader().unpaced_elsewhere(asset.href)
        with turn(self.root, f"{product.id}.{key}", self._go_on):
            known = partial(self._tree, download)
            return bring_array(asset, here, known, lambda one, to: self._chunk(download, one, to))

    def _tree(self, download: Downloader, address: str) -> Tree:
        """Return what is in a product in Zarr form, which all of its images ask for."""
        with self._lock:
            tree = self._trees.get(address)
            if is_first := tree is None:
                tree = self._trees[address] = Future()
                if len(self._trees) > KEPT:
                    del self._trees[next(iter(self._trees))]
        if is_first:
            try:
                tree.set_result(read_tree(address, lambda href: self._document(download, href)))
            except BaseException as error:  # noqa: BLE001  (whatever it is belongs to who waits for the product)
                with self._lock:
                    self._trees.pop(address, None)  # the next image asks again
                tree.set_exception(error)
        return tree.result()

    def _document(self, download: Downloader, href: str) -> bytes:
        content = download.content(href)
        with self._lock:
            self.meter.bytes_received += len(content)
        self.meter.count(len(content))
        return content

    def _chunk(self, download: Downloader, asset: Asset, here: Path) -> None:
        """Bring a chunk of an image; there are too many to note each."""
        if not here.is_file():
            received = list[int]()
            download.fetch(asset, here, received.append)
            self._go_on()
            with self._lock:
                self.meter.bytes_received += sum(received)
            self.meter.count(sum(received))

    def _there(self, candidates: Sequence[Path], asset: Asset) -> Asset | None:
        """Return the asset with the path where it lies already, None where it does not."""
        for candidate in candidates:
            if lies_there(candidate, asset) and self._is_good(candidate, asset):
                with self._lock:
                    self.meter.bytes_expected -= asset.size or 0
                return _at(asset, candidate)
        return None

    def _go_on(self) -> None:
        if self._fatal is not None:
            raise self._fatal

    def _fetch(self, downloader: Downloader, asset: Asset, here: Path) -> Asset:
        received = 0

        def count(number: int) -> None:
            nonlocal received
            self._go_on()
            received += number
            with self._lock:
                self.meter.bytes_received += number

        try:
            downloader.fetch(asset, here, count)
        except StratacubeError as error:
            self.meter.count(received)
            if received:
                with suppress(OSError):  # on a full disk there is no more to say than the error itself
                    self.transfers.record_failure(here, received, str(error))
            raise
        with local_faults(self.transfers.path):
            self.transfers.record(here, received, asset.checksum)
        self.meter.count(received)
        return _at(asset, here)

    def _downloader(self) -> Downloader:
        """Return the downloader; none is made, and nothing written, while all files are on disk."""
        with self._lock:
            if self._download is None:
                try:
                    self.root.mkdir(parents=True, exist_ok=True)
                    self._download = downloader(self.root, connections=self._connections)
                    self.meter.shared_at(account_folder())
                except OSError as error:
                    raise UsageError(
                        f"{self.root} cannot be written ({error.strerror}); give a writable folder"
                    ) from error
            return self._download

    def _present(self, asset: Asset, candidates: Sequence[Path], product: Product, key: str) -> Asset:
        for candidate in candidates:
            if candidate.is_file():
                size = candidate.stat().st_size
                if asset.size not in (None, size):
                    raise SourceError(f"{candidate} has {size} bytes where {asset.size} are listed; fetch it again")
                return _at(asset, candidate)
        raise SourceError(
            f"{key} of {product.id} is not at {candidates[0]}; fetch it with `access=https` or `access=s3`"
        )

    def _is_good(self, path: Path, asset: Asset) -> bool:
        """Whether a file that lies there is the one listed: its digest is made once and kept in the ledger."""
        if asset.checksum is None or self.transfers.is_good(path, asset.checksum):
            return True
        if file_digest(path, asset.checksum) != asset.checksum:
            return False
        with suppress(OSError):  # a folder that cannot be written has no ledger: checked again the next time
            self.transfers.record(path, 0, asset.checksum)
        return True


def _at(asset: Asset, path: Path) -> Asset:
    return replace(asset, href=str(path.absolute()), size=path.stat().st_size)


def fetch_products(fetcher: Fetcher, products: Iterable[Product]) -> tuple[list[Product], list[Failure]]:
    """Fetch products and wait for all of them.

    Parameters
    ----------
    fetcher
        Where to and how.
    products
        The products.

    Returns
    -------
    products : list of Product
        In the order given, with the paths of the files that are there.
    failures : list of Failure
        Files that could not be had.

    Raises
    ------
    StratacubeError
        If nothing more can be fetched: wrong credentials, a full disk, a server that is down. What was fetched stays.
    """
    waiting = [fetcher.submit(product) for product in products]
    done = [future.result() for future in waiting]
    return [f.product for f in done], [failure for f in done for failure in f.failures]
