"""Files against the digests of manifest.safe: real ones, flipped bits, and what is remembered."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from catalog.sentinel2.odata import manifest_digests
from catalog.sentinel2.safe import read_safe
from catalog.sentinel2.transfers import Transfers
from cube.job.ledger import Ledger
from cube.sentinel2 import digests
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.digests import Check, checks_of, listed, manifest_of, verify
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.record import SceneRecord
from cube.sentinel2.run import run_sentinel2
from cube.testing import SafeSpec, write_safe
from stratacube.errors import SourceError

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


@pytest.fixture
def safe(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    images = {"B02_20m": rng.integers(1001, 4000, (100, 100)).astype("u2"), "SCL_20m": np.full((100, 100), 4, "u1")}
    spec = SafeSpec(
        tile="06WUA", epsg=32606, ulx=400000, uly=7600000, datatake_start=datetime(2021, 6, 1, 21, 30, 1),
        processing_time=datetime(2023, 1, 1), images=images,
    )  # fmt: skip
    return write_safe(spec, tmp_path / "safe", block=128)


def _build(root: Path, **options: Any) -> int:
    write_grid(make_grid(2000, (400000, 7598000, 402000, 7600000), "EPSG:32606"), root / "grid.csv")
    values = {
        "work_dir": root / "w", "safe_dir": root / "safe", "grid_csv": root / "grid.csv", "start": "2021-06-01",
        "end": "2021-06-30", "bands": ["B02"], "tr": [20, 20], "tap": True, "workers": 1, **options,
    }  # fmt: skip
    return run_sentinel2(Sentinel2Config.load(None, values)).code


def _verified(root: Path) -> dict[str, str]:
    return pd.read_csv(root / "w" / "indices" / "scene_files.csv").set_index("band")["verified"].to_dict()


def _manifest(safe: Path, kind: str = "MD5") -> Path:
    """Write one in ESA's form over what lies there."""
    make = {"MD5": hashlib.md5, "SHA3-256": hashlib.sha3_256, "SHA-256": hashlib.sha256}[kind]
    streams = "".join(
        f'<dataObject ID="x"><byteStream mimeType="x" size="{p.stat().st_size}"><fileLocation locatorType="URL" '
        f'href="./{p.relative_to(safe).as_posix()}"/><checksum checksumName="{kind}">'
        f"{make(p.read_bytes()).hexdigest()}</checksum></byteStream></dataObject>"
        for p in sorted(safe.rglob("*"))
        if p.is_file() and p.name != "manifest.safe"
    )
    path = safe / "manifest.safe"
    path.write_text(f'<?xml version="1.0"?><xfdu:XFDU xmlns:xfdu="urn:x"><dataObjectSection>{streams}'
                    "</dataObjectSection></xfdu:XFDU>")  # fmt: skip
    return path


def _flip(path: Path) -> bytes:
    content = path.read_bytes()
    at = len(content) - 400
    path.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
    return content


def test_digests_of_real_manifests_are_those_of_their_documents(data_folder: Path) -> None:
    """Where the document beside a manifest is of the size listed, it has the digest listed."""
    root = data_folder / "sentinel2" / "metadata"
    if not root.is_dir():
        pytest.skip(f"{root} is not here")
    kinds = set()
    for manifest in root.glob("*/manifest.safe"):
        told = manifest_of(manifest.parent)
        assert len(told) > 10
        for name, digest in told.items():
            path = manifest.parent / name
            if path.is_file():
                good, _ = verify([Check("p", str(path), digest)])
                if good:
                    kinds.add(len(digest))
    assert kinds == {32, 64}


@pytest.mark.parametrize("kind", ["MD5", "SHA3-256"])
def test_a_flipped_bit_is_told_and_tried_again(tmp_path: Path, safe: Path, kind: str) -> None:
    _manifest(safe, kind)
    path = next(safe.rglob("*B02_20m.jp2"))
    content = _flip(path)
    assert _build(tmp_path) == 1
    errors = pd.read_csv(tmp_path / "w" / "errors.csv")
    assert errors["reason"].str.contains(rf"B02_20m\.jp2 has the {kind} .* is listed: its bytes have changed").all()
    assert _verified(tmp_path)["B02"] == "not verified yet"
    path.write_bytes(content)
    assert _build(tmp_path) == 0
    assert _verified(tmp_path) == {"B02": kind, "SCL": kind}


def test_without_the_check_it_is_not_noticed(tmp_path: Path, safe: Path) -> None:
    _manifest(safe)
    _flip(next(safe.rglob("*B02_20m.jp2")))
    assert _build(tmp_path, verify_digests="never") == 0
    assert _verified(tmp_path) == {"B02": "not verified yet", "SCL": "not verified yet"}


@pytest.mark.parametrize("kind", ["none", "SHA-256", "torn"])
def test_what_cannot_be_verified_is_said(tmp_path: Path, safe: Path, kind: str) -> None:
    if kind == "SHA-256":  # of the length of SHA3-256
        _manifest(safe, kind)
    if kind == "torn":
        path = _manifest(safe)
        path.write_text(path.read_text()[:200])
        assert _build(tmp_path) == 1
        errors = pd.read_csv(tmp_path / "w" / "errors.csv")
        assert errors["reason"].str.contains(r"manifest\.safe is not XML").all()
        return
    assert _build(tmp_path) == 0
    assert set(_verified(tmp_path).values()) == {"not verified: neither manifest.safe nor a catalogue lists a digest"}


def test_digests_are_made_once(tmp_path: Path, safe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _manifest(safe)
    assert _build(tmp_path) == 0
    made: list[str] = []

    def count(path: Path, like: str) -> str:
        made.append(path.name)
        return hashlib.md5(path.read_bytes()).hexdigest()

    monkeypatch.setattr(digests, "file_digest", count)
    next((tmp_path / "w").rglob("*_B02_median_clip.tif")).unlink()
    assert _build(tmp_path) == 0
    assert made == []
    path = next(safe.rglob("*B02_20m.jp2"))
    path.write_bytes(path.read_bytes())  # of another time, the same bytes
    next((tmp_path / "w").rglob("*_B02_median_clip.tif")).unlink()
    assert _build(tmp_path) == 0
    assert made == [path.name]


def test_digests_of_the_catalogue_go_first(safe: Path) -> None:
    product = read_safe(safe)
    assert set(listed(product).values()) == {None}
    _manifest(safe)
    told = listed(product)
    assert len(told) == 4
    assert all(d is not None and len(d) == 32 for d in told.values())
    found = checks_of(product, ["B02_20m", "SCL_20m"], lambda *_: False)
    assert {Path(c.path).name[-11:] for c in found} == {"B02_20m.jp2", "SCL_20m.jp2"}
    assert checks_of(product, ["B02_20m"], lambda *_: True) == []


def test_missing_file_and_foreign_manifest(tmp_path: Path) -> None:
    good, spoilt = verify([Check("p", str(tmp_path / "none.jp2"), "0" * 32)])
    assert good == {}
    assert "none.jp2 cannot be read (No such file" in spoilt["p"][1]
    for text in (b"", b"<a", b"\x00", b"<?xml version='1.0' encoding='no-such'?><a/>"):
        with pytest.raises(SourceError, match=r"x/manifest\.safe is not XML"):
            manifest_digests(text, "x/manifest.safe")
    assert manifest_digests(b"<a><byteStream/><byteStream size='x'><checksum/></byteStream></a>", "x") == {}


@pytest.mark.parametrize("make", [hashlib.md5, hashlib.sha3_256])
def test_every_letter_of_a_digest_counts(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "x.jp2"
    path.write_bytes(b"pixels")
    right = make(b"pixels").hexdigest()
    assert list(verify([Check("p", str(path), right)])[0]) == [str(path)]
    for place in (0, 5, len(right) - 1):
        wrong = right[:place] + ("0" if right[place] != "0" else "1") + right[place + 1 :]
        good, spoilt = verify([Check("p", str(path), wrong)])
        assert good == {}
        assert right in spoilt["p"][1]
        assert wrong in spoilt["p"][1]


def test_what_was_verified_when_it_was_fetched_is_not_verified_again(tmp_path: Path) -> None:
    path, digest = tmp_path / "x.jp2", hashlib.md5(b"pixels").hexdigest()
    path.write_bytes(b"pixels")
    record = SceneRecord(Ledger(tmp_path / "ledger.jsonl"), tmp_path)
    assert not record.is_verified(path, digest)
    Transfers(tmp_path).record(path, 6, digest)
    assert record.is_verified(path, digest)
    path.write_bytes(b"others")
    assert not record.is_verified(path, digest)
    assert not record.is_verified(tmp_path / "none.jp2", digest)
