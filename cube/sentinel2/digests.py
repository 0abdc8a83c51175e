"""Files held against the digests that manifest.safe, or the catalogue, lists of them: once, and then remembered.

A flipped bit of a JPEG 2000 file gives other pixels, seldom an error. Digests cost a fiftieth of decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from catalog.sentinel2.checksums import file_digest
from catalog.sentinel2.items import Product
from catalog.sentinel2.odata import manifest_digests
from catalog.sentinel2.places import is_remote, local_path
from stratacube.errors import SourceError

__all__ = ["NO_DIGEST", "Check", "checks_of", "fingerprint", "kind_of", "listed", "verify"]

NO_DIGEST = "not verified: neither manifest.safe nor a catalogue lists a digest"

_KINDS = {32: "MD5", 64: "SHA3-256"}


@dataclass(frozen=True)
class Check:
    """One file to hold against its digest."""

    product: str
    path: str
    digest: str
    fault: str = ""
    """Why the digest cannot be known though there is one."""


def kind_of(digest: str) -> str:
    """Name of a digest's kind."""
    return _KINDS[len(digest)]


def listed(product: Product) -> dict[str, str | None]:
    """Return the digest of each local file of a product by its path: the catalogue's, else its manifest.safe's.

    Raises
    ------
    SourceError
        If the manifest cannot be read.
    """
    found: dict[str, str | None] = {}
    local = {k: local_path(a.href) for k, a in product.assets.items() if not is_remote(a.href)}
    folder = local["product_metadata"].parent if "product_metadata" in local else None
    manifest = manifest_of(folder) if folder is not None else {}
    for key, path in local.items():
        told = product.assets[key].checksum
        if told is None and folder is not None and path.is_relative_to(folder):
            told = manifest.get(path.relative_to(folder).as_posix())
        found[str(path)] = told
    return found


def manifest_of(folder: Path) -> Mapping[str, str]:
    """Return the digests in a SAFE folder's manifest, by path; none where it has no manifest."""
    path = folder / "manifest.safe"
    return manifest_digests(path.read_bytes(), str(path)) if path.is_file() else {}


def checks_of(product: Product, keys: Iterable[str], known: Callable[[Path, str], bool]) -> list[Check]:
    """Return the files of a product to verify.

    Parameters
    ----------
    product
        With its files on disk.
    keys
        Asset keys of the files that will be read.
    known
        Whether a file was found to have a digest, and is as it was then.
    """
    try:
        digests = listed(product)
    except SourceError as error:
        return [Check(product.id, product.assets["product_metadata"].href, "", fault=str(error))]
    wanted = [str(local_path(a.href)) for k, a in product.assets.items() if k in set(keys) and not is_remote(a.href)]
    told = [(path, digests[path]) for path in wanted]
    return [Check(product.id, p, d) for p, d in told if d is not None and not (Path(p).is_file() and known(Path(p), d))]


def fingerprint(path: Path, digest: str) -> str:
    """What a file is while its digest need not be made again: size, time of change, digest."""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {digest}"


def verify(checks: Sequence[Check]) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """Make digests, and compare.

    Returns
    -------
    good : dict of str to str
        By file that has the digest listed, its fingerprint.
    spoilt : dict of str to (str, str)
        By product, one of its files that has not, and a sentence about it.
    """
    good: dict[str, str] = {}
    spoilt: dict[str, tuple[str, str]] = {}
    for check in checks:
        path = Path(check.path)
        try:
            if check.fault:
                raise SourceError(check.fault)
            told = fingerprint(path, check.digest)  # before it is read: if it changes meanwhile, it is read once more
            _refuse_other(path, check.digest)
            good[check.path] = told
        except OSError as error:
            reason = str(error) if isinstance(error, SourceError) else f"{path} cannot be read ({error.strerror})"
            spoilt.setdefault(check.product, (str(path), reason))
    return good, spoilt


def _refuse_other(path: Path, digest: str) -> None:
    found = file_digest(path, digest)
    if found != digest:
        raise SourceError(
            f"{path} has the {kind_of(digest)} {found} but {digest} is listed: its bytes have changed; fetch it again"
        )
