"""Products in EOPF's Zarr form that lie elsewhere: what is in a tree is read from one document, its metadata.

Products have it consolidated: ``zarr.json`` of the product (Zarr v3), or ``.zmetadata`` (v2), tells of all arrays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import fsspec

from catalog.locate import quick_options
from catalog.sentinel2.convert import Access, asset_fields, href_of, images_of
from catalog.sentinel2.destination import Destination, is_cdse
from catalog.sentinel2.download import AbsentError, Downloader
from catalog.sentinel2.eopf_arrays import ArrayFacts, asset_of, facts_of, image_places
from catalog.sentinel2.items import Asset
from catalog.sentinel2.packed import PackedItems
from catalog.sentinel2.places import tree_of
from catalog.sentinel2.rate import Connections, Pace
from catalog.sentinel2.signing import S3Signer
from catalog.sentinel2.tokens import TokenSource
from stratacube.addresses import plain_url
from stratacube.errors import SourceError
from stratacube.guard import guarded, reason_of

__all__ = [
    "KEPT",
    "Read",
    "Tree",
    "known_tree",
    "open_reader",
    "read_plainly",
    "read_tree",
    "reader",
    "with_arrays",
    "with_trees",
]

Read = Callable[[str], bytes]
"""Returns the content of an address; raises :class:`~catalog.sentinel2.download.AbsentError` where there is nothing."""

_AT_ONCE = 4
"""Documents asked for at once."""
KEPT = 64
"""Products whose metadata is kept: each is asked for by all of its images."""
_A_SECOND = 4.0
"""Of CDSE."""


@dataclass(frozen=True)
class Tree:
    """A product, by its address and its metadata."""

    address: str
    files: Mapping[str, Mapping[str, Any]]
    """Documents by their places in the product, such as ``measurements/reflectance/r20m/b02/zarr.json``."""

    def metadata(self, inside: str) -> dict[str, Mapping[str, Any]]:
        """Return the documents of an array by their names; none where there is no such array."""
        names = (f"{inside}/{name}" for name in ("zarr.json", ".zarray", ".zattrs"))
        found = {name.rpartition("/")[2]: self.files[name] for name in names if name in self.files}
        return found if "zarr.json" in found or ".zarray" in found else {}

    def facts(self, inside: str) -> ArrayFacts:
        """Return what the metadata of an image says.

        Raises
        ------
        SourceError
            As of :func:`~catalog.sentinel2.eopf_arrays.read_array`.
        """
        told, documents = plain_url(f"{self.address}/{inside}"), self.metadata(inside)
        with guarded(f"{told} is not an image of an EOPF product that can be read", "leave the product out"):
            if "zarr.json" in documents:
                return facts_of(told, documents["zarr.json"], documents["zarr.json"].get("attributes", {}))
            return facts_of(told, documents[".zarray"], documents.get(".zattrs", {}))

    def assets(self) -> dict[str, Asset]:
        """Return the images by their keys, such as ``B02_20m``.

        Raises
        ------
        SourceError
            If one is none, or there are none.
        """
        found = {}
        for key, inside in image_places():
            if self.metadata(inside):
                found[key] = asset_of(f"{self.address}/{inside}", self.facts(inside))
        if not any(key.startswith("B") for key in found):
            raise SourceError(
                f"{plain_url(self.address)} has no bands under measurements/reflectance; give another address of the "
                "product, or leave it out"
            )
        return found


def reader(
    tokens: TokenSource | None = None,
    signer: S3Signer | None = None,
    trusted: Callable[[Destination], bool] = is_cdse,
) -> Read:
    """Return what reads documents as files of products are fetched; it may be shared by threads.

    Parameters
    ----------
    tokens, signer, trusted
        As of :class:`~catalog.sentinel2.download.Downloader`.
    """
    known = Downloader(
        tokens or TokenSource(), signer or S3Signer(), Connections(_AT_ONCE), Pace(_A_SECOND), trusted=trusted
    )
    return lambda href: known.unpaced_elsewhere(href).content(href)


def read_plainly(href: str) -> bytes:
    """Read a document from its place in the web, or from CDSE's store with the keys of the environment."""
    return reader()(href)


def open_reader(options: Mapping[str, Any]) -> Read:
    """Return what reads through fsspec, for a look without a build.

    Parameters
    ----------
    options
        For fsspec.
    """

    def read(href: str) -> bytes:
        try:
            files, path = fsspec.core.url_to_fs(href, **quick_options(href, options))
            content: bytes = files.cat_file(path)
        except FileNotFoundError as error:
            raise AbsentError(f"{plain_url(href)} does not exist; search again, it may have been replaced") from error
        except Exception as error:  # clients of object stores and of the web raise anything
            raise SourceError(
                f"{plain_url(href)} cannot be read ({reason_of(error)}); "
                "check the address, the network and the credentials"
            ) from error
        return content

    return read


def known_tree(href: str) -> tuple[Tree, str]:
    """Return the product that an image lies in, which is read once through fsspec, and the place in it.

    Raises
    ------
    SourceError
        If it has no such image, or cannot be read.
    """
    found = tree_of(href)
    tree = _kept_tree(found[0]) if found is not None else None
    if found is None or tree is None or not tree.metadata(found[1]):
        raise SourceError(f"{plain_url(href)} is not an image of a product in Zarr form; search again")
    return tree, found[1]


@lru_cache(KEPT)
def _kept_tree(address: str) -> Tree:
    return read_tree(address, open_reader({}))


def read_tree(address: str, read: Read) -> Tree:
    """Read what is in a product.

    Parameters
    ----------
    address
        Of the product.
    read
        How.

    Raises
    ------
    SourceError
        If it has no consolidated metadata, or cannot be read.
    """
    for name in ("zarr.json", ".zmetadata"):
        try:
            content = read(f"{address}/{name}")
        except AbsentError:
            continue
        shown = plain_url(f"{address}/{name}")
        with guarded(f"{shown} is not the metadata of a product that can be read", "leave the product out"):
            files = _consolidated(json.loads(content))
        if files:
            return Tree(address, files)
    raise SourceError(
        f"{plain_url(address)} has no consolidated metadata (zarr.json or .zmetadata), without which a product is not "
        "read from elsewhere; copy it to disk and give it as `safe_dir`"
    )


def _consolidated(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Documents by their places, of either version of Zarr; none where they are not consolidated."""
    if "consolidated_metadata" in document:
        kept = (document["consolidated_metadata"] or {}).get("metadata", {})
        own = {name: value for name, value in document.items() if name != "consolidated_metadata"}
        return {"zarr.json": own, **{f"{place}/zarr.json": one for place, one in kept.items()}}
    return dict(document.get("metadata", {}))


def with_arrays(item: Mapping[str, Any], read: Read, access: Access = "https") -> Mapping[str, Any]:
    """Return an item that lists the images of its product, where it has addresses alone; any other as it is.

    Raises
    ------
    StratacubeError
        If the product cannot be read.
    """
    address = _unlisted(item, access)
    if address is None:
        return item
    images = read_tree(address, read).assets()
    return {**item, "assets": {**item["assets"], **{key: asset_fields(asset) for key, asset in images.items()}}}


def _unlisted(item: Any, access: Access) -> str | None:
    """Address of the product of an item that names none of its images, or does not say where they lie on the ground."""
    assets = item.get("assets") if isinstance(item, Mapping) else None
    if not isinstance(assets, Mapping) or not all(isinstance(a, Mapping) and "href" in a for a in assets.values()):
        return None  # whoever reads it says what is wrong
    images = images_of(assets)
    if any("proj:transform" in image for image in images):
        return None
    found = [tree_of(str(href_of(asset, access))) for asset in images or assets.values()]
    return next((tree[0] for tree in found if tree is not None and bool(tree[1]) == bool(images)), None)


def with_trees(
    items: Sequence[Mapping[str, Any]], read: Read, access: Access = "https"
) -> tuple[Sequence[Mapping[str, Any]], dict[int, str]]:
    """List the images of all products of which items have addresses alone.

    Parameters
    ----------
    items
        As they came.
    read
        How a document is read; may be called by several threads.
    access
        Which address to take.

    Returns
    -------
    items : sequence of dict
        Those with their images, the others as they were.
    lost : dict
        By its place, why a product could not be read.
    """
    wanted = [place for place, item in enumerate(items) if _unlisted(item, access) is not None]
    if not wanted:
        return items, {}
    lost: dict[int, str] = {}

    def known(place: int) -> Mapping[str, Any]:
        try:
            return with_arrays(items[place], read, access)
        except SourceError as error:  # credentials that lack end all
            lost[place] = str(error)
            return items[place]

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        made = dict(zip(wanted, pool.map(known, wanted), strict=True))
    return PackedItems(made.get(place, item) for place, item in enumerate(items)), lost
