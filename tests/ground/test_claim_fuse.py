"""One folder, one run, on a network's file system: two mounts that cache what they have seen and know no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from stratacube import claim
from tests.ground.processes import age, crowd, ticket_of, wait_for, writes_nothing

Start = Callable[..., Any]

CACHED = 3.0
QUICK = {"HEARTBEAT": 0.1}


class Shared(NamedTuple):
    """A folder on its server, and as two hosts see it."""

    server: Path
    mounts: tuple[Path, Path]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Two mounts of one folder."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse is not here, or not this user's to open")
    try:
        import mfusepy  # noqa: F401 - it loads libfuse
    except (ImportError, OSError) as error:
        pytest.skip(f"mfusepy, or the libfuse that it needs, is not here: {error}")
    root = tmp_path_factory.mktemp("shared")
    shared = Shared(root / "server", (root / "node-1", root / "node-2"))
    for folder in (shared.server, *shared.mounts):
        folder.mkdir()
    program = [sys.executable, str(Path(__file__).with_name("fuse_passthrough.py")), str(shared.server)]
    servers = [subprocess.Popen([*program, str(mount)], stderr=subprocess.PIPE) for mount in shared.mounts]
    try:
        for mount, server in zip(shared.mounts, servers, strict=True):
            wait_for(lambda m=mount, s=server: os.path.ismount(m) or s.poll() is not None)
            if not os.path.ismount(mount):
                pytest.skip(f"a FUSE file system cannot be mounted here: {server.communicate()[1].decode().strip()}")
        yield shared
    finally:
        for mount, server in zip(shared.mounts, servers, strict=True):
            if os.path.ismount(mount):
                server.terminate()
            try:
                server.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.communicate()


@pytest.fixture
def shared(disk: Shared, request: pytest.FixtureRequest) -> Shared:
    """A new folder on the disk."""
    (disk.server / request.node.name).mkdir()
    one, other = (mount / request.node.name for mount in disk.mounts)
    return Shared(disk.server / request.node.name, (one, other))


def test_mounts_believe_what_they_have_seen_and_refuse_locks(shared: Shared) -> None:
    one, _ = shared.mounts
    (shared.server / "old").write_text("1")
    assert not (one / "new").exists()
    assert (one / "old").stat().st_size == 1
    assert os.listdir(one) == ["old"]
    (shared.server / "new").touch()
    (shared.server / "old").write_text("22")
    assert not (one / "new").exists()
    assert (one / "old").stat().st_size == 1
    assert os.listdir(one) == ["old"]
    with (one / "old").open() as file:
        with pytest.raises(OSError, match="not supported") as refused:
            fcntl.flock(file, fcntl.LOCK_EX)
        assert refused.value.errno == errno.EOPNOTSUPP


def test_second_host_is_refused_though_it_has_just_seen_the_folder_free(player: Start, shared: Shared) -> None:
    one, other = shared.mounts
    first, second = player(host="node-1"), player(host="node-2")
    for number in range(1, 4):
        second.claim_folder(folder=str(other))
        second.release()
        assert not ticket_of(other, 2 * number).exists()  # which its host believes for a while
        assert first.claim_folder(folder=str(one))["number"] == 2 * number
        text = second.refused("ClaimedError", "claim_folder", folder=str(other))
        assert f"process {first.pid} on node-1" in text
        assert not list((shared.server / ".claim").glob("now.*"))
        first.write(path=str(one / "file"), text="first's")
        first.release()


def test_stopped_host_writes_nothing_when_it_wakes_though_its_listing_is_old(player: Start, shared: Shared) -> None:
    one, other = shared.mounts
    first, second = player(host="node-1", settings=QUICK), player(host="node-2", settings=QUICK)
    first.claim_folder(folder=str(one))
    second.refused("ClaimedError", "claim_folder", folder=str(other))
    first.stop()
    age(ticket_of(shared.server, 1), 61)
    assert os.listdir(one / ".claim") == ["00000001"]
    assert not ticket_of(one, 2).exists()
    assert second.claim_folder(folder=str(other))["number"] == 2
    assert os.listdir(one / ".claim") == ["00000001"]  # node-1 still believes itself alone
    assert not ticket_of(one, 2).exists()
    first.go_on()
    writes_nothing(first, shared.server, one)
    second.write(path=str(other / "file"), text="second's")
    assert (shared.server / "file").read_text() == "second's"
    third = player(host="node-1")
    assert "on node-2" in third.refused("ClaimedError", "claim_folder", folder=str(one))


@pytest.mark.slow
def test_living_host_is_not_taken_over_though_its_attributes_are_old(player: Start, shared: Shared) -> None:
    one, other = shared.mounts
    first, second = (
        player(host="node-1", settings=QUICK),
        player(host="node-2", settings={"HEARTBEAT": 0.5, "LIMIT": 0.5}),
    )
    first.claim_folder(folder=str(one))
    until = time.monotonic() + 2 * CACHED
    while time.monotonic() < until:
        second.refused("ClaimedError", "claim_folder", folder=str(other))
        time.sleep(0.05)
    first.write(path=str(one / "file"), text="yes")


@pytest.mark.slow
def test_silent_host_is_taken_over_after_the_limit(player: Start, shared: Shared) -> None:
    one, other = shared.mounts
    first, second = player(host="node-1", settings=QUICK), player(host="node-2", settings=QUICK | {"LIMIT": 4.0})
    first.claim_folder(folder=str(one))
    first.write(path=str(one / "file"), text="before")
    first.stop()
    stopped = time.monotonic()
    while "error" in (second.send("claim_folder", folder=str(other)), second.answer())[1]:
        time.sleep(0.1)
    assert 3.5 < time.monotonic() - stopped < 15
    first.go_on()
    assert f"process {second.pid} on node-2" in writes_nothing(first, shared.server, one)
    assert claim._read(ticket_of(one, 1)).taken


@pytest.mark.slow
def test_processes_on_two_mounts_are_never_two_in_the_folder(shared: Shared, tmp_path: Path) -> None:
    crowd(list(shared.mounts), tmp_path, size=10, rounds=2, kill=3)
