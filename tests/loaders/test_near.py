"""Shards kept near the data's reader: fetched once, bounded, never stale, never damaged."""

from __future__ import annotations

import errno
import http.client
import os
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import pytest
import s3fs
import torch

from loaders import near
from loaders.near import NodeCache
from loaders.tiles import TileDataset, tile_loader
from stratacube.errors import SourceError, UsageError
from stratacube.locks import lock


@pytest.fixture
def counted(s3_server: str) -> Iterator[tuple[str, Counter[str]]]:
    """The S3 server behind one that counts how often each shard is asked for."""
    gets: Counter[str] = Counter()
    behind = urlsplit(s3_server).netloc

    class Counting(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            if self.command == "GET" and "/c/" in self.path:
                gets[self.path] += 1
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server = http.client.HTTPConnection(behind)
            server.request(self.command, self.path, body, dict(self.headers))
            answer = server.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(content)
            server.close()

        do_GET = do_HEAD = do_PUT = do_POST = _pass_on

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", gets
    server.shutdown()
    server.server_close()


def _copies(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith("lock"))


def _pixels(loader: Any) -> list[torch.Tensor]:
    return [batch.values for batch in loader]


@pytest.fixture
def cached(store: Path, tmp_path: Path) -> Callable[..., TileDataset]:
    """Open a private copy of the tiny store through a cache, as a run that begins now."""
    folder = tmp_path / "build"
    shutil.copytree(store.parent, folder)

    def open_(gigabytes: float = 1.0, **options: Any) -> TileDataset:
        return TileDataset(folder, bands=["C01", "C03"], cache_dir=tmp_path / "near", cache_gb=gigabytes, **options)

    return open_


def test_each_shard_is_fetched_once_by_all_processes(
    counted: tuple[str, Counter[str]], store: Path, tmp_path: Path
) -> None:
    endpoint, gets = counted
    options: dict[str, Any] = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": endpoint}}
    files = s3fs.S3FileSystem(**options)
    name = f"near-{uuid.uuid4().hex}"
    files.mkdir(name)
    files.put(str(store.parent), f"{name}/build", recursive=True)
    url = f"s3://{name}/build"
    alike: dict[str, Any] = {"batch_size": 3, "seed": 5, "device": None, "bands": ["C01", "C13"]}
    plain = tile_loader(store, **alike)
    wanted = [_pixels(plain), _pixels(plain)]
    gets.clear()
    near_ = tile_loader(url, storage_options=options, cache_dir=tmp_path / "near", workers=2, **alike)
    found = [_pixels(near_), _pixels(near_)]
    for epoch, other in zip(wanted, found, strict=True):
        for a, b in zip(epoch, other, strict=True):
            assert torch.equal(a, b)
    shards = [path for path in gets if any(f"/{array}/c/" in path for array in ("C01", "C13", "valid"))]
    assert len(shards) == 9  # three arrays of three shards
    assert {gets[path] for path in shards} == {1}
    again = tile_loader(url, storage_options=options, cache_dir=tmp_path / "near", **alike)
    assert all(map(torch.equal, wanted[0], _pixels(again)))
    assert {gets[path] for path in shards} == {1}
    files.rm(f"{url}/tiles.zarr/C13/c/0", recursive=True)  # a shard never written is told as that, not as no copy
    gone = tile_loader(url, storage_options=options, cache_dir=tmp_path / "near", **{**alike, "bands": ["C13"]})
    assert sum(int((values == 4095).all(dim=(1, 2, 3, 4)).sum()) for values in _pixels(gone)) == 4


def test_a_copy_that_is_damaged_or_cut_is_fetched_again(
    cached: Callable[..., TileDataset], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = cached()[list(range(12))].values
    copies = _copies(tmp_path / "near")
    assert len(copies) == 9  # with the masks
    whole = copies[0].read_bytes()
    for damaged in (whole[:-1], whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], b"", whole + b"x"):
        copies[0].write_bytes(damaged)
        caplog.clear()
        assert torch.equal(cached()[list(range(12))].values, wanted)
        assert "is damaged, and is fetched again" in caplog.text
        assert copies[0].read_bytes() == whole
    reading = cached()
    reading[[0]]
    reading[list(range(12))]
    copies[0].write_bytes(whole[:-1])  # cut while it is in use
    assert torch.equal(reading[list(range(12))].values, wanted)
    assert copies[0].read_bytes() == whole


def test_a_changed_store_is_never_served_from_an_old_copy(cached: Callable[..., TileDataset], tmp_path: Path) -> None:
    reading = cached()
    before = reading[[0]].values
    shards = tmp_path / "build" / "tiles.zarr"
    other = shards / "C03" / "c" / "0" / "0" / "0" / "0"
    shutil.copyfile(other, shards / "C01" / "c" / "0" / "0" / "0" / "0")
    after = cached()[[0]].values
    assert not torch.equal(after, before)
    assert torch.equal(*after.unbind(after.shape.index(2)))  # both bands are now one
    for copy in _copies(tmp_path / "near"):
        copy.unlink()
    with pytest.raises(SourceError, match="has changed since it was first read; open the store anew"):
        reading[[0]]


def test_the_bound_is_kept_and_what_is_oldest_goes_first(
    cached: Callable[..., TileDataset], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = cached()[list(range(12))].values
    folder = tmp_path / "near"
    sizes = {path.name: path.stat().st_size for path in _copies(folder)}
    for copy in _copies(folder):
        os.utime(copy, (1e9, 1e9))
    assert torch.equal(cached()[list(range(12))].values, wanted)
    assert all(copy.stat().st_mtime > 1.5e9 for copy in _copies(folder))  # when it was last used, not made
    for copy in _copies(folder):
        copy.unlink()
    bound = sum(sizes.values()) / 2
    small = cached(bound / 1e9)
    assert torch.equal(small[list(range(12))].values, wanted)
    assert torch.equal(small[list(range(12))].values, wanted)
    kept = _copies(folder)
    assert 0 < sum(p.stat().st_size for p in kept) <= bound
    assert caplog.text.count("no room within `cache_gb`") == 1  # of a run's own nothing is dropped
    (folder / f".{'0' * 40}-{int(bound)}.0.part").touch()  # another process is writing as much as is allowed
    refused = cached(bound / 1e9)
    missing = next(name for name in sizes if not (folder / name).exists())
    assert torch.equal(refused[list(range(12))].values, wanted)
    assert not (folder / missing).exists()
    (folder / f".{'0' * 40}-{int(bound)}.0.part").unlink()
    for number, path in enumerate(kept):  # as an earlier run left them
        os.utime(path, (number + 1e9,) * 2)
    later = NodeCache(folder, bound / 1e9)
    later.began = 1.5e9
    files = fsspec.filesystem("file")
    new = tmp_path / "new"
    new.write_bytes(bytes(int(bound) - sum(p.stat().st_size for p in kept) + 1))  # one copy's room too much
    assert later.cat_ranges(files, [(str(new), 2, 5), (str(new), -3, None)]) == [bytes(3)] * 2
    assert not kept[0].exists()
    assert all(path.exists() for path in kept[1:])
    assert sum(p.stat().st_size for p in _copies(folder)) <= bound


def test_a_copy_takes_its_name_while_nobody_counts(
    cached: Callable[..., TileDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    replace = os.replace

    def replaced(part: Path, path: Path) -> None:
        with (tmp_path / "near" / "lock").open("ab") as file:
            taken.append(not lock(file.fileno(), wait=False))
        replace(part, path)

    monkeypatch.setattr(os, "replace", replaced)
    cached()[list(range(12))]
    assert len(taken) > 1
    assert all(taken)


def test_a_disk_that_fills_up_is_told_once_and_done_without(
    cached: Callable[..., TileDataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted = TileDataset(tmp_path / "build", bands=["C01", "C03"])[list(range(12))].values

    def full(*_: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(near, "digest_of", full)
        assert torch.equal(cached()[list(range(12))].values, wanted)
    assert caplog.text.count("cannot be used ([Errno 28] No space left on device): what is not yet in it is read") == 1
    assert _copies(tmp_path / "near") == []
    removed = cached()
    shutil.rmtree(tmp_path / "near")
    assert torch.equal(removed[list(range(12))].values, wanted)


@pytest.mark.parametrize(
    ("folder", "gigabytes", "told"),
    [
        ("file/near", 1.0, r"`cache_dir` \S+ cannot be written \(Not a directory\); give a folder on this node's own"),
        ("s3://bucket/near", 1.0, "`cache_dir` s3://bucket/near is a URL; give a folder"),
        ("near", 0.0, "`cache_gb` 0 is not a size; give gigabytes above 0"),
    ],
)
def test_a_folder_that_cannot_hold_copies_is_refused(folder: str, gigabytes: float, told: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=told):
        NodeCache(folder if "://" in folder else tmp_path / folder, gigabytes)


def test_a_folder_in_which_others_could_lay_down_copies_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "near"
    NodeCache(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    for mode in (0o770, 0o1777, 0o702):
        folder.chmod(mode)
        with pytest.raises(UsageError, match=rf"can be written by others \(mode {mode:o}\), who could change what is"):
            NodeCache(folder)
    folder.chmod(0o755)
    NodeCache(folder)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(UsageError, match=rf"`cache_dir` \S+ belongs to user {me}, not to {me + 1}, who could change"):
        NodeCache(folder)


def test_a_run_goes_on_with_a_shard_as_it_first_found_it(cached: Callable[..., TileDataset], tmp_path: Path) -> None:
    reading = cached()
    before = reading[[0]].values
    shards = tmp_path / "build" / "tiles.zarr"
    shutil.copyfile(shards / "C03" / "c" / "0" / "0" / "0" / "0", shards / "C01" / "c" / "0" / "0" / "0" / "0")
    assert torch.equal(reading[[0]].values, before)


def test_a_change_of_the_same_size_is_another_object(tmp_path: Path) -> None:
    files, file = fsspec.filesystem("file"), tmp_path / "shard"
    file.write_bytes(b"old")
    reading = NodeCache(tmp_path / "near")
    whole = [(str(file), None, None)]
    assert reading.cat_ranges(files, whole) == [b"old"]
    file.write_bytes(b"new")
    os.utime(file, (1e9, 1e9))
    assert NodeCache(tmp_path / "near").cat_ranges(files, whole) == [b"new"]
    shutil.rmtree(tmp_path / "near")
    (tmp_path / "near").mkdir()
    (told,) = reading.cat_ranges(files, whole)
    assert "has changed since it was first read" in str(told)
