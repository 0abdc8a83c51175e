"""Where a store lies, by whatever a user has in hand: a path, a URL, a folder, a STAC document or an object of pystac.

Every opener asks here, so that what one takes the others take too. Documents are read through fsspec, from disk, S3 or
the web; relative addresses count from where the document lies, so that a catalogue may be moved with its build.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import fsspec

from stratacube.addresses import plain_url
from stratacube.errors import SourceError, UsageError
from stratacube.guard import reason_of

__all__ = [
    "COMPOSITES",
    "REFERENCES",
    "STORES",
    "TILES",
    "Document",
    "Wanted",
    "document_of",
    "holds",
    "items_of",
    "locate",
    "place_of",
    "quick_options",
]

_NAMES = ("catalog.json", "collection.json")
"""Documents that stand for their folder, the upper first."""
_DEEPEST = 8
"""Levels of catalogues that are followed; one that leads to itself has no end."""


@dataclass(frozen=True)
class Wanted:
    """What an opener looks for."""

    title: str
    """Such as ``tile store``."""
    names: tuple[str, ...]
    """Of the store in the folder of a build."""
    assets: tuple[str, ...]
    """Keys that STAC documents have it under."""
    role: str | None = None
    """Or the role of its asset."""
    marks: tuple[str, ...] = ("zarr.json", ".zgroup")
    """Files that tell that a folder is such a store itself."""
    in_files: bool = False
    """Whether a build may have images in its place, so that its folder stands for them."""


TILES = Wanted("tile store", ("tiles.zarr",), ("tiles", "store"))
COMPOSITES = Wanted("store of composites", ("composites.zarr",), ("composites",), in_files=True)
STORES = Wanted("store", ("tiles.zarr", "composites.zarr"), ("tiles", "store", "composites"), in_files=True)
REFERENCES = Wanted("reference store", ("references",), ("references",), "references", ("references.json",))


@dataclass(frozen=True)
class Document:
    """A STAC document, and where it lies."""

    body: Mapping[str, Any]
    place: str | None
    """Path or URL; None where it does not tell."""
    children: tuple[Document, ...] = ()
    """Of a catalogue that is in memory only."""

    @property
    def name(self) -> str:
        """What it is called in sentences."""
        return f"STAC {self.body.get('type', 'object')} {self.body.get('id')!r}".replace("Feature ", "item ")

    def absolute(self, href: Any) -> str:
        """Address that one of the document's own stands for.

        Raises
        ------
        UsageError
            If it is relative, and the document does not tell where it lies.
        """
        from pystac.utils import make_absolute_href  # noqa: PLC0415  (half a second, which plain paths need not wait)

        text = str(href).removeprefix("file://")
        if "://" in text or os.path.isabs(text):
            return text
        if self.place is None:
            raise UsageError(
                f"{self.name} has the relative address {text} and does not tell where it lies itself; "
                "give its path or URL, or add its link `self`"
            )
        return make_absolute_href(text, self.place.partition("?")[0], start_is_dir=False)

    def followed(self, options: Mapping[str, Any], relations: Iterable[str]) -> Iterator[Document]:
        """Documents that its links of some relations lead to."""
        if self.children:
            yield from self.children
            return
        for link in self.body.get("links", ()):
            if link.get("rel") in relations:
                yield _read(self.absolute(link["href"]), options)


def place_of(source: Any) -> str | None:
    """Path or URL that is given as such; None for what is a STAC document already."""
    if isinstance(source, str | os.PathLike):
        return str(os.fspath(source)).removeprefix("file://")
    if hasattr(source, "href") and hasattr(source, "get_absolute_href"):  # an asset or a link
        return str(source.get_absolute_href() or source.href).removeprefix("file://")
    return None


def document_of(source: Any, options: Mapping[str, Any] | None = None) -> Document | None:
    """Read what is a STAC document, or stands for one; None for any other path or URL.

    Parameters
    ----------
    source
        A path or URL (of a document if it ends in ``.json`` or ``.geojson``), the content of a document, or an item,
        collection, catalog or item collection of pystac.
    options
        For fsspec.

    Raises
    ------
    UsageError
        If it is none of these, or there is no such document.
    """
    place = place_of(source)
    if place is not None:
        path = place.partition("?")[0] if "://" in place else place
        return _read(place, options or {}) if path.endswith((".json", ".geojson")) else None
    if isinstance(source, Mapping):
        links = [k for k in source.get("links") or () if isinstance(k, Mapping) and k.get("rel") == "self"]
        return Document(source, next((str(k["href"]).removeprefix("file://") for k in links if "href" in k), None))
    if hasattr(source, "to_dict"):
        return _of_object(source)
    raise UsageError(
        f"what is of type {type(source).__name__} cannot be opened; give a path, a URL, the folder of a build, "
        "or a STAC item, collection or catalog"
    )


def _of_object(source: Any) -> Document:
    """Return the document of an object of pystac, whose links and addresses stay as they are written."""
    if not hasattr(source, "get_self_href"):  # an item collection
        return Document({"type": "FeatureCollection", "id": None}, None, tuple(_of_object(i) for i in source))
    place = source.get_self_href()
    children = source.get_children() if place is None and hasattr(source, "get_children") else ()
    plain = source.clone()
    plain.clear_links()  # of some that lead to what is in memory there is no address to write
    body = plain.to_dict(include_self_link=False, transform_hrefs=False)
    if place is not None:
        body["links"] = [{"rel": k.rel, "href": k.get_href(transform_href=False)} for k in source.links]
    return Document(body, place, tuple(map(_of_object, children)))


def quick_options(url: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options for fsspec with which a small file is one request; S3's client asks for its size first."""
    given = dict(options or {})
    return {"max_concurrency": 1, **given} if url.startswith(("s3://", "s3a://")) else given


def _read(place: str, options: Mapping[str, Any]) -> Document:
    shown = plain_url(place)
    try:
        files, path = fsspec.core.url_to_fs(place, **quick_options(place, options))
        body = json.loads(files.cat_file(path))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ImportError, ValueError) as error:
        raise UsageError(
            f"{shown} cannot be read as a STAC document ({reason_of(error)}); give a build's folder or its catalog.json"
        ) from error
    except Exception as error:  # clients of object stores and of the web raise anything
        raise SourceError(
            f"{shown} cannot be read as a STAC document ({reason_of(error)}); "
            "check the address, the network and the credentials"
        ) from error
    if not isinstance(body, dict) or "type" not in body:
        raise UsageError(f"{shown} is not a STAC document; give a build's folder or its catalog.json")
    return Document(body, place)


def locate(source: Any, wanted: Wanted, options: Mapping[str, Any] | None = None) -> str:
    """Path or URL of the store that something stands for.

    Parameters
    ----------
    source
        Path or URL of the store, of the folder of a build or of a STAC document; the content of such a document; an
        item, collection, catalog, item collection or asset of pystac.
    wanted
        What is looked for.
    options
        For fsspec.

    Returns
    -------
    str
        Absolute for what a document names. A path or URL that leads to none of these is returned as it is: who opens
        it can say what is not there.

    Raises
    ------
    UsageError
        If a document leads to no such store, or to several.
    SourceError
        If a document cannot be reached.
    """
    known = dict(options or {})
    document = document_of(source, known)
    if document is None:
        place = str(place_of(source)).rstrip("/") or "/"
        found = _inside(place, wanted, known)
        return found if isinstance(found, str) else _only(found, wanted, known)
    return _only(document, wanted, known)


def _inside(place: str, wanted: Wanted, options: Mapping[str, Any]) -> str | Document:
    """Store that a path or URL leads to, or the document that lies in it; the same again where there is neither."""
    if place.endswith(".zarr"):
        return place
    inside = [*wanted.names, *wanted.marks, *_NAMES]
    found = next((name for name in inside if holds(place, name, options)), None)
    if found in _NAMES:
        return _read(f"{place}/{found}", options)
    return f"{place}/{found}" if found in wanted.names else place


def holds(place: str, name: str, options: Mapping[str, Any] | None = None) -> bool:
    """Whether there is something of a name in a folder, on disk, S3 or in the web.

    Raises
    ------
    UsageError
        If the folder is of no kind that can be read.
    SourceError
        If it cannot be reached.
    """
    try:
        files, path = fsspec.core.url_to_fs(place, **quick_options(place, options))
        return bool(files.exists(f"{path}/{name}"))
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"{plain_url(place)} is not a place that can be read ({reason_of(error)}); "
            "give a path, or a URL such as s3://bucket/folder"
        ) from error
    except Exception as error:  # clients of object stores and of the web raise anything
        raise SourceError(
            f"{plain_url(place)} cannot be reached ({reason_of(error)}); "
            "check the address, the network and the credentials"
        ) from error


def _only(document: Document, wanted: Wanted, options: Mapping[str, Any]) -> str:
    """Return the one store that a document leads to."""
    found = dict.fromkeys(_stores(document, wanted, options, _DEEPEST))
    above = document.body.get("type") in ("Catalog", "Collection") and document.place is not None
    if len(found) == 1:
        store = next(iter(found))
        if not (wanted.in_files and above) or holds(store, "zarr.json", options):
            return store
    if wanted.in_files and above and len(found) < 2:  # the images alone may have been moved here
        return str(document.place).rpartition("/")[0] or "."
    if found:
        raise UsageError(
            f"{document.name} leads to {len(found)} stores, {', '.join(map(plain_url, list(found)[:3]))}; give one"
        )
    keys = sorted(document.body.get("assets") or {})
    told = f"has the assets {', '.join(keys)}" if keys else "has no assets"
    raise UsageError(
        f"{document.name} {told}, and none of a {wanted.title} ({' or '.join(wanted.assets)}); give the build's "
        "folder or its catalog.json"
    )


def _stores(document: Document, wanted: Wanted, options: Mapping[str, Any], depth: int) -> Iterator[str]:
    """Addresses of all stores that a document names, itself or by what it leads to."""
    own = list(_assets(document, wanted))
    if own:
        yield from own
        return
    kind = document.body.get("type")
    if kind == "FeatureCollection":
        for feature in document.children or [Document(f, document.place) for f in document.body.get("features", ())]:
            yield from _assets(feature, wanted)
    elif kind in ("Catalog", "Collection") and depth:
        beside = _beside(document, wanted, options)
        if beside is not None:
            yield beside
            return
        for child in document.followed(options, ("child",)):
            yield from _stores(child, wanted, options, depth - 1)


def _assets(document: Document, wanted: Wanted) -> Iterator[str]:
    assets: Mapping[str, Any] = document.body.get("assets") or {}
    named = [assets[key] for key in wanted.assets if key in assets]
    named = named or [a for a in assets.values() if wanted.role and wanted.role in (a.get("roles") or ())]
    for asset in named[:1]:
        yield document.absolute(asset["href"])


def _beside(document: Document, wanted: Wanted, options: Mapping[str, Any]) -> str | None:
    """Store in the folder of a collection, or of its catalog, that has no asset of it.

    Those of before had none, and references to files of one machine are none.
    """
    if document.place is None or document.body.get("type") != "Collection":
        return None
    roots = [str(k["href"]) for k in document.body.get("links", ()) if k.get("rel") == "root"]
    above = [document.absolute(href) for href in roots if "://" not in href]
    for folder in dict.fromkeys(place.rpartition("/")[0] or "." for place in (document.place, *above)):
        found = _inside(folder, wanted, options)
        if isinstance(found, str) and found != folder:
            return found
    return None


def items_of(document: Document, options: Mapping[str, Any], depth: int = _DEEPEST) -> Iterator[Document]:
    """Items that a document is, holds or leads to."""
    kind = document.body.get("type")
    if kind == "Feature":
        yield document
    elif kind == "FeatureCollection":
        yield from document.children or (Document(f, document.place) for f in document.body.get("features", ()))
    elif depth:
        for child in document.followed(options, ("item", "child")):
            yield from items_of(child, options, depth - 1)
