"""What ``doctor`` tries for Sentinel-2: decoding, credentials, and the Copernicus Data Space itself."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from catalog.sentinel2.destination import is_cdse
from catalog.sentinel2.items import Asset
from catalog.sentinel2.names import CDSE_STAC
from catalog.sentinel2.probe import Probe
from catalog.sentinel2.settings import account_folder, read_account, read_s3_keys, some_set
from catalog.sentinel2.signing import CDSE_S3
from catalog.sentinel2.tokens import CDSE_TOKEN, TokenSource
from stratacube.checks import Check, Checks, tried
from stratacube.errors import SourceError
from stratacube.files import human_bytes

__all__ = ["CHECKS"]

_ACCOUNT = ("CDSE_USERNAME", "CDSE_PASSWORD", "CDSE_PASSWORD_FILE")
_KEYS = ("CDSE_S3_ACCESS_KEY", "CDSE_S3_SECRET_KEY")
_MOST_CLASSES = 11


def _here() -> Iterator[Check]:
    yield _openjpeg()
    yield _credential(
        "account", _ACCOUNT, _account, "make one at https://dataspace.copernicus.eu, and set CDSE_USERNAME"
    )
    remedy = (
        "make one at https://eodata-s3keysmanager.dataspace.copernicus.eu, and set CDSE_S3_ACCESS_KEY and _SECRET_KEY"
    )
    yield _credential("key pair", _KEYS, _keys, remedy)
    folder = account_folder()
    if folder is not None:
        remedy = "let CDSE_PASSWORD_FILE, or XDG_STATE_HOME, be in a folder that can be written and that all nodes see"
        yield tried("shared limits", lambda: _written(folder), remedy)


def _openjpeg() -> Check:
    """Look whether parts of images are decoded: else whole blocks are, by GDAL, which gives the same pixels."""
    from cube.sentinel2.jpeg2000 import version  # noqa: PLC0415

    found = version()
    if found:
        return Check("JPEG 2000", "works", f"OpenJPEG {found} decodes parts of images")
    told = "OpenJPEG is not found: whole blocks are decoded by GDAL, which is slower and gives the same pixels"
    return Check(
        "JPEG 2000", "lacks", told, "install rasterio's own wheel, which brings it, or the package libopenjp2-7"
    )


def _credential(what: str, names: tuple[str, ...], look: object, remedy: str) -> Check:
    if not some_set(*names):
        return Check(what, "lacks", f"{' and '.join(names[:2])} are not set; folders of products need none", remedy)
    return tried(what, look, remedy)  # type: ignore[arg-type]


def _account() -> str:
    account = read_account()
    return "is set" + (", with a second factor" if account.totp else "")


def _keys() -> str:
    read_s3_keys()
    return "is set"


def _written(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=".doctor-", dir=folder):
        pass
    return f"connections of the account are counted in {folder}"


def _live(services: Mapping[str, str]) -> Iterator[Check]:
    probe = Probe(
        stac=services.get("stac", CDSE_STAC),
        token=services.get("token", CDSE_TOKEN),
        s3=services.get("eodata", CDSE_S3),
    )
    own = urlsplit(services.get("files", ""))
    if own.netloc:
        probe.trusted = lambda there: is_cdse(there) or (there.host, there.port) == (own.hostname, own.port)
    yield from probe.search()
    tokens = TokenSource(url=probe.token, tries=2) if some_set(*_ACCOUNT) else None
    if tokens is not None:
        (login, *others) = probe.log_in(tokens)
        yield from (login, *others)
        if login.state != "works":
            return
    if tokens is None and not some_set(*_KEYS):
        yield Check(
            "file",
            "lacks",
            "not fetched: neither an account nor a key pair is set",
            "set CDSE_USERNAME and CDSE_PASSWORD",
        )
    elif probe.items:
        yield from _fetched(probe, tokens)
    yield Check("bytes", "works", f"{human_bytes(probe.bytes)} came in all")


def _fetched(probe: Probe, tokens: TokenSource | None) -> Iterator[Check]:
    with tempfile.TemporaryDirectory() as name:
        place, asset, told = probe.fetch(Path(name), tokens)
        yield from told
        if place is not None and asset is not None:
            yield tried("decoding", lambda: _decoded(place, asset), "report it: builds refuse such a file")


def _decoded(place: Path, asset: Asset) -> str:
    """Decode an image of scene classes, and hold it against what its item says."""
    import rasterio  # noqa: PLC0415

    from stratacube.images import open_image  # noqa: PLC0415

    with open_image(str(place)) as image:
        shape, crs, transform = image.shape, image.crs, tuple(image.transform)[:6]
        top = int(image.read(1).max())
    if asset.shape is not None and shape != asset.shape:
        raise SourceError(f"the image has {shape[0]} x {shape[1]} pixels where {asset.shape} are listed")
    if asset.proj_code is not None and crs != rasterio.crs.CRS.from_string(asset.proj_code):
        raise SourceError(f"the image lies in {crs} where {asset.proj_code} is listed")
    if asset.transform is not None and transform != asset.transform:
        raise SourceError(f"the image lies at {transform} where {asset.transform} is listed")
    if top > _MOST_CLASSES:
        raise SourceError(f"the image has a class {top} where 0 to {_MOST_CLASSES} are known")
    return f"{shape[0]} x {shape[1]} pixels of {crs}, classes up to {top}, in their place"


CHECKS = Checks("Sentinel-2", _here, _live, ("stac", "token", "eodata", "files"))
"""Addresses: the STAC API, the token endpoint, the S3 endpoint, and the host of files that a token may go to."""
