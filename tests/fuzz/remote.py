"""What a server of S3 answers, and what a build keeps of its screening."""

from __future__ import annotations

import functools
import http.server
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from catalog.geostationary.archives import S3Archive
from cube.geostationary.chips.old_chips import plain_dict
from cube.geostationary.screening import Screened
from stratacube.guard import guarded
from stratacube.parquet import write_frame
from tests.fuzz.containers import damaged_parquet
from tests.fuzz.parser import Parser
from tests.fuzz.plain import damaged_bytes, damaged_head, damaged_lines, damaged_text

__all__ = ["PARSERS"]

_HOUR = datetime(2020, 7, 1, 15)
_NAME = (
    "ABI-L1b-RadC/2020/183/15/"
    "OR_ABI-L1b-RadC-M6C13_G16_s202018315{0:02d}170_e202018315{1:02d}543_c202018315{1:02d}599.nc"
)
_CONTENT = (
    "<Contents><Key>{key}</Key><LastModified>2020-07-01T15:10:00.000Z</LastModified>"
    '<ETag>"d41d8cd98f00b204e9800998ecf8427{n}"</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>'
)
_LISTING = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<Name>noaa-goes16</Name><Prefix>ABI-L1b-RadC/2020/183/15/OR_ABI-L1b-RadC-</Prefix><KeyCount>3</KeyCount>"
    "<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>\n{contents}\n</ListBucketResult>"
)


class _Answers(http.server.BaseHTTPRequestHandler):
    """Gives whatever lies in a file to whoever asks for whatever."""

    body: Path

    def do_GET(self) -> None:
        """Answer a listing."""
        data = type(self).body.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@functools.cache
def _server(path: Path) -> str:
    """Serve a file, as it is when it is asked for; it ends with the process."""
    handler = type("Handler", (_Answers,), {"body": path})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def _listings(folder: Path) -> list[Path]:
    keys = [_NAME.format(minute, minute + 2) for minute in (1, 6, 11)]
    contents = [_CONTENT.format(key=key, n=n, size=1000 + n) for n, key in enumerate(keys)]
    (folder / "listing.xml").write_text(_LISTING.format(contents="\n".join(contents)))
    return [folder / "listing.xml"]


def _listed(_: Path, path: Path) -> Any:
    archive = S3Archive(_server(path), retries=0, connect_timeout=2, read_timeout=2)
    return [*archive.files("goes16", "C", _HOUR, _HOUR.replace(hour=16))]


def _screenings(folder: Path) -> list[Path]:
    scans = [f"goes16_C_2020183{hour}" for hour in (15, 16, 17)]
    rows = [
        {"scan": scan, "channel": c, "href": f"/a/{scan}{c}.nc", "size": 9, "tag": "t", "verdict": word, "reason": "x"}
        for scan, word in zip(scans, ("fit", "flagged", "unfit"), strict=True)
        for c in (1, 13)
    ]
    write_frame(folder / "screening.parquet", pd.DataFrame(rows))
    return [folder / "screening.parquet"]


def _screened(_: Path, path: Path) -> Any:
    return Screened(path).by_scan


def _pickles(folder: Path) -> list[Path]:
    from tests.cube.test_chips import old_pickle

    found = [folder / f"{protocol}.pickle" for protocol in (2, 4, 5)]
    for protocol, path in zip((2, 4, 5), found, strict=True):
        path.write_bytes(old_pickle(protocol))
    return found


def _unpickled(_: Path, path: Path) -> Any:
    with guarded(f"{path} is not a chip that can be read"), path.open("rb") as stream:
        return sorted(plain_dict(stream))


_TEXT = (damaged_text, damaged_lines, damaged_bytes, damaged_head)

PARSERS = (
    Parser("s3-listing", _listings, _listed, _TEXT, is_told=False, share=0.3),
    Parser("screening", _screenings, _screened, (damaged_parquet, damaged_parquet, damaged_head, damaged_bytes)),
    Parser("old-chips", _pickles, _unpickled, (damaged_bytes, damaged_bytes, damaged_head)),
)
