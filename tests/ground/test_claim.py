"""One folder, one run: real processes that are stopped, killed and woken, on one host and on two."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stratacube import claim, files
from stratacube.claim import CLAIM, Fence, claimed
from stratacube.errors import ClaimedError, ClaimLostError, UsageError
from tests.ground.processes import age, crowd, ticket_of, wait_for, writes_nothing

Start = Callable[..., Any]

QUICK = {"HEARTBEAT": 0.1}
NOBODY = 65534


# Two processes on one host


def test_second_process_is_refused_with_host_pid_and_start_of_the_first(player: Start, tmp_path: Path) -> None:
    first, second = player(), player()
    first.claim_folder(folder=str(tmp_path))
    text = second.refused("ClaimedError", "claim_folder", folder=str(tmp_path))
    owner = json.loads(ticket_of(tmp_path, 1).read_text()[:960])
    assert str(tmp_path) in text
    assert f"process {first.pid} on {socket.gethostname()}, started {owner['started']} UTC" in text
    assert f"kill {first.pid}" in text
    assert issubclass(ClaimedError, UsageError)  # exit code 2
    assert [path.name for path in (tmp_path / CLAIM).iterdir()] == ["00000001"]


def test_claim_is_released_at_the_end_and_numbers_grow(player: Start, tmp_path: Path) -> None:
    one, other = player(), player()
    for number in (1, 3):
        assert one.claim_folder(folder=str(tmp_path))["number"] == number
        one.write(path=str(tmp_path / "file"), text=str(number))
        one.release()
        assert other.claim_folder(folder=str(tmp_path))["number"] == number + 1
        other.release()
    assert (tmp_path / "file").read_text() == "3"


def test_folder_of_a_killed_process_is_free_at_once(player: Start, tmp_path: Path) -> None:
    first, second = player(), player()
    first.claim_folder(folder=str(tmp_path))
    first.kill()  # a zombie still: its parent has not asked
    started = time.monotonic()
    assert second.claim_folder(folder=str(tmp_path))["number"] == 2
    assert time.monotonic() - started < 2


def test_used_again_process_id_is_not_taken_for_the_owner(player: Start, tmp_path: Path) -> None:
    first, second = player(), player()
    first.claim_folder(folder=str(tmp_path))
    ticket = ticket_of(tmp_path, 1)
    text, born = ticket.read_text(), json.loads(ticket.read_text()[:960])["born"]
    first.kill()
    living = second.pid  # the number now is another process's
    line = text[:960].replace(f'"pid": {first.pid}', f'"pid": {living}').replace(born, "1").rstrip()
    ticket.write_text(line.ljust(959) + "\n" + text[960:])
    assert player().claim_folder(folder=str(tmp_path))["number"] == 2


def test_process_that_was_stopped_past_the_limit_writes_nothing_when_it_wakes(player: Start, tmp_path: Path) -> None:
    first, second = player(settings=QUICK), player(settings={"HEARTBEAT": 0.1, "LIMIT": 0.8})
    first.claim_folder(folder=str(tmp_path))
    first.write(path=str(tmp_path / "file"), text="before")
    first.stop()
    second.refused("ClaimedError", "claim_folder", folder=str(tmp_path))
    time.sleep(0.9)
    assert second.claim_folder(folder=str(tmp_path))["number"] == 2
    first.go_on()
    text = writes_nothing(first, tmp_path)
    assert f"process {second.pid} on {socket.gethostname()}" in text
    assert "run the same command again" in text
    second.write(path=str(tmp_path / "file"), text="second's")
    first.release()  # ends its own claim, not the other's
    player().refused("ClaimedError", "claim_folder", folder=str(tmp_path))
    second.write(path=str(tmp_path / "file"), text="second's")


def test_process_stopped_in_the_midst_of_a_beat_leaves_the_mark_of_the_taker(player: Start, tmp_path: Path) -> None:
    first, second = player(settings=QUICK), player(settings=QUICK)
    first.claim_folder(folder=str(tmp_path))
    first.stop_in_next_beat()
    os.waitid(os.P_PID, first.pid, os.WSTOPPED)
    age(ticket_of(tmp_path, 1), 120)
    second.claim_folder(folder=str(tmp_path))
    before = ticket_of(tmp_path, 1).read_bytes()
    first.go_on()
    wait_for(lambda: ticket_of(tmp_path, 1).read_bytes() != before)  # the beat that was under way is written
    last = claim._read(ticket_of(tmp_path, 1))
    assert last.taken
    first.old_listing(numbers=[1])
    writes_nothing(first, tmp_path)
    time.sleep(0.3)
    assert claim._read(ticket_of(tmp_path, 1)) == last  # nor does it beat on


def test_worker_that_outlives_its_driver_writes_nothing_after_a_takeover(player: Start, tmp_path: Path) -> None:
    driver, worker = player(), player()
    fence = driver.claim_folder(folder=str(tmp_path))["fence"]
    worker.carry(fence=fence)
    worker.write(path=str(tmp_path / "file"), text="as long as nobody else is there")
    driver.kill()
    worker.write(path=str(tmp_path / "file"), text="nor has anybody come since")
    taker = player()
    taker.claim_folder(folder=str(tmp_path))
    assert f"process {taker.pid}" in writes_nothing(worker, tmp_path)
    taker.write(path=str(tmp_path / "file"), text="taker's")


def test_worker_that_outlives_its_run_writes_nothing(player: Start, tmp_path: Path) -> None:
    driver, worker = player(), player()
    worker.carry(fence=driver.claim_folder(folder=str(tmp_path))["fence"])
    driver.release()
    assert "the run that claimed it has ended" in writes_nothing(worker, tmp_path)


def _write_in_worker(fence: Fence, name: str) -> int:
    with fence.guard():
        files.write_bytes(fence.root / name, b"content")
    return os.getpid()


def _write_until_taken(fence: Fence) -> str:
    with fence.guard():
        try:
            while True:
                files.write_bytes(fence.root / "from worker", b"content")
        except ClaimLostError as error:
            return str(error)


def test_workers_carry_the_claim(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    with claimed(tmp_path) as fence, ProcessPoolExecutor(2, mp_context=context) as pool:
        pids = set(pool.map(_write_in_worker, [fence] * 4, map(str, range(4))))
        assert os.getpid() not in pids
        assert {"0", "1", "2", "3"} <= {path.name for path in tmp_path.iterdir()}
        late = pool.submit(_write_until_taken, fence)
        wait_for((tmp_path / "from worker").exists)
        claim._mark([ticket_of(tmp_path, 1)])
        assert "taken it over" in late.result(10)


def test_fork_that_leaves_the_block_does_not_end_its_parents_claim(player: Start, tmp_path: Path) -> None:
    first = player()
    first.claim_folder(folder=str(tmp_path))
    assert first.fork_that_leaves() == 0
    player().refused("ClaimedError", "claim_folder", folder=str(tmp_path))
    first.write(path=str(tmp_path / "file"), text="still")


def test_one_process_cannot_claim_a_folder_twice(tmp_path: Path) -> None:
    with claimed(tmp_path):
        with pytest.raises(ClaimedError, match=r"by this very process .* end that run first"), claimed(tmp_path):
            pass
        refused = []

        def try_it() -> None:
            with pytest.raises(ClaimedError), claimed(tmp_path):
                pass
            refused.append(True)

        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
        assert refused == [True]
    with claimed(tmp_path) as fence:
        assert fence.number == 2


def test_links_relative_names_and_another_directory_mean_the_same_folder(
    player: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    first = player(settings=QUICK)
    first.chdir(folder=str(tmp_path))
    first.claim_folder(folder="link")
    first.chdir(folder="/")
    for name in (real, link, real / ".." / "link"):
        player().refused("ClaimedError", "claim_folder", folder=str(name))
    before = claim._read(ticket_of(real, 1)).beats
    wait_for(lambda: claim._read(ticket_of(real, 1)).beats > before)  # its heart beats on
    first.write(path=str(real / "file"), text="yes")
    claim._mark([ticket_of(real, 1)])
    for folder in (real, link):
        first.refused("ClaimLostError", "write", path=str(folder / "file"), text="no")


def test_living_process_beats(player: Start, tmp_path: Path) -> None:
    first = player(settings=QUICK)
    first.claim_folder(folder=str(tmp_path))
    ticket = ticket_of(tmp_path, 1)
    before, size = ticket.stat(), ticket.stat().st_size
    wait_for(lambda: ticket.stat().st_mtime > before.st_mtime)
    assert (ticket.stat().st_ino, ticket.stat().st_size) == (before.st_ino, size)
    first.write(path=str(tmp_path / "file"), text="yes")


# Two hosts


def test_other_host_is_believed_until_it_is_silent(player: Start, tmp_path: Path) -> None:
    first, second = player(host="node-1", settings=QUICK), player(host="node-2", settings=QUICK)
    first.claim_folder(folder=str(tmp_path))
    text = second.refused("ClaimedError", "claim_folder", folder=str(tmp_path))
    assert f"process {first.pid} on node-1" in text
    assert "the folder is free 60 s from now" in text
    first.kill()  # which node-2 cannot see
    second.refused("ClaimedError", "claim_folder", folder=str(tmp_path))
    age(ticket_of(tmp_path, 1), 61)
    assert second.claim_folder(folder=str(tmp_path))["number"] == 2


def test_hosts_are_told_apart_by_their_names(player: Start, tmp_path: Path) -> None:
    alone = ("unshare", "--uts", "sh", "-c", 'hostname node-7 && exec "$@"', "sh")
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not give a process another host name (unshare --uts)")
    first, second = player(*alone), player()
    first.claim_folder(folder=str(tmp_path))
    first.kill()
    text = second.refused("ClaimedError", "claim_folder", folder=str(tmp_path))
    assert f"process {first.pid} on node-7" in text
    assert "kill" not in text


def test_process_ids_of_a_container_are_not_taken_for_the_hosts(player: Start, tmp_path: Path) -> None:
    alone = ("unshare", "--pid", "--fork", "--mount-proc")
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a namespace of process ids (unshare --pid)")
    first, second = player(*alone), player(settings=QUICK)
    first.claim_folder(folder=str(tmp_path))
    text = second.refused("ClaimedError", "claim_folder", folder=str(tmp_path))
    assert "process 1 on" in text
    assert "kill" not in text
    first.send("vanish")
    first.process.wait(10)
    second.refused("ClaimedError", "claim_folder", folder=str(tmp_path))  # it cannot know
    age(ticket_of(tmp_path, 1), 61)
    assert second.claim_folder(folder=str(tmp_path))["number"] == 2


def test_system_without_proc_goes_by_silence_alone(player: Start, tmp_path: Path) -> None:
    first, second = player(), player(settings=QUICK)
    for one in (first, second):
        one.know_no_processes()
    first.claim_folder(folder=str(tmp_path))
    first.end()
    text = second.refused("ClaimedError", "claim_folder", folder=str(tmp_path))
    assert "if it is gone, the folder is free 60 s from now" in text
    age(ticket_of(tmp_path, 1), 61)
    assert second.claim_folder(folder=str(tmp_path))["number"] == 2


@pytest.mark.parametrize("seconds", [-86_400, 86_400])
def test_clocks_of_hosts_do_not_count(player: Start, tmp_path: Path, seconds: int) -> None:
    first, second = player(host="node-1", settings=QUICK), player(host="node-2", settings=QUICK)
    second.shift_clock(seconds=seconds)
    first.claim_folder(folder=str(tmp_path))
    text = second.refused("ClaimedError", "claim_folder", folder=str(tmp_path))
    assert "last heard of 0 s ago" in text
    first.stop()
    age(ticket_of(tmp_path, 1), 55)
    text = second.refused("ClaimedError", "claim_folder", folder=str(tmp_path))
    assert "last heard of 5" in text
    age(ticket_of(tmp_path, 1), 10)
    assert second.claim_folder(folder=str(tmp_path))["number"] == 2


def test_living_process_whose_files_look_old_is_seen_to_beat(player: Start, tmp_path: Path) -> None:
    first, second = player(host="node-1", settings=QUICK), player(host="node-2", settings={"HEARTBEAT": 0.5})
    first.look_old()
    first.claim_folder(folder=str(tmp_path))
    wait_for(lambda: ticket_of(tmp_path, 1).stat().st_mtime == 1e9)
    assert f"process {first.pid} on node-1" in second.refused("ClaimedError", "claim_folder", folder=str(tmp_path))


# Moments between two steps


@pytest.mark.parametrize("content", [b"", b'{"host": "node'])
def test_ticket_of_a_process_that_died_before_it_wrote_its_name_holds_for_a_while(
    player: Start, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / CLAIM).mkdir()
    ticket_of(tmp_path, 4).write_bytes(content)
    one = player(settings=QUICK)
    text = one.refused("ClaimedError", "claim_folder", folder=str(tmp_path))
    assert "has not yet written its name; run the same command again 60 s from now" in text
    age(ticket_of(tmp_path, 4), 61)
    assert one.claim_folder(folder=str(tmp_path))["number"] == 5


def test_name_that_follows_is_waited_for(player: Start, tmp_path: Path) -> None:
    with claimed(tmp_path):
        text = ticket_of(tmp_path, 1).read_bytes()
    ticket_of(tmp_path, 1).write_bytes(b"")
    one = player()
    one.send("claim_folder", folder=str(tmp_path))
    time.sleep(0.3)
    ticket_of(tmp_path, 1).write_bytes(text.replace(b"ended x", b"ended -"))
    answer = one.answer()
    assert f"process {os.getpid()}" in answer["text"]


def test_owner_that_was_stopped_before_it_looked_again_gives_way(player: Start, tmp_path: Path) -> None:
    first, second = player(), player(settings=QUICK)
    first.old_listing(numbers=[], times=1)
    first.stop_before(name="_numbers")  # first the look, then, after the ticket, the other look
    first.send("claim_folder", folder=str(tmp_path))
    os.waitid(os.P_PID, first.pid, os.WSTOPPED)
    second.claim_folder(folder=str(tmp_path))
    second.release()
    second.claim_folder(folder=str(tmp_path))
    ticket_of(tmp_path, 1).unlink()  # as if it had been pruned
    first.go_on()
    assert f"process {second.pid}" in first.answer()["text"]
    assert not ticket_of(tmp_path, 1).exists()
    second.write(path=str(tmp_path / "file"), text="second's")


def test_old_listing_is_not_believed_to_be_the_end(player: Start, tmp_path: Path) -> None:
    for _ in range(3):
        with claimed(tmp_path):
            pass
    first, second = player(), player()
    first.old_listing(numbers=[1])
    assert first.claim_folder(folder=str(tmp_path))["number"] == 4
    second.old_listing(numbers=[])
    assert f"process {first.pid}" in second.refused("ClaimedError", "claim_folder", folder=str(tmp_path))
    first.write(path=str(tmp_path / "file"), text="yes")


def test_owner_before_is_told_though_its_taker_died_before_it_could(player: Start, tmp_path: Path) -> None:
    first, second, third = player(), player(settings=QUICK), player(settings=QUICK)
    first.claim_folder(folder=str(tmp_path))
    first.stop()
    age(ticket_of(tmp_path, 1), 61)
    second.stop_before(name="_mark")
    second.send("claim_folder", folder=str(tmp_path))
    os.waitid(os.P_PID, second.pid, os.WSTOPPED)
    assert not claim._read(ticket_of(tmp_path, 1)).taken
    second.kill()
    first.go_on()
    writes_nothing(first, tmp_path)  # the number says so
    assert third.claim_folder(folder=str(tmp_path))["number"] == 3
    assert claim._read(ticket_of(tmp_path, 1)).taken
    first.old_listing(numbers=[1])
    writes_nothing(first, tmp_path)  # the mark says so


def test_tickets_of_the_past_stay_for_a_day(tmp_path: Path) -> None:
    for _ in range(3):
        with claimed(tmp_path):
            pass
    probe = tmp_path / CLAIM / "now.0123456789abcdef"
    probe.touch()
    age(ticket_of(tmp_path, 1), 90_000)
    age(ticket_of(tmp_path, 2), 80_000)
    age(ticket_of(tmp_path, 3), 90_000)
    age(probe, 90_000)
    with claimed(tmp_path) as fence:
        assert fence.number == 4
        assert sorted(path.name for path in (tmp_path / CLAIM).iterdir()) == ["00000002", "00000004"]


def test_claim_that_was_removed_is_lost(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with claimed(tmp_path / "folder"):
        shutil.rmtree(tmp_path / "folder" / CLAIM)
        with pytest.raises(ClaimLostError, match=r"its claim .*00000001 was removed"):
            files.write_bytes(tmp_path / "folder" / "file", b"")
        shutil.rmtree(tmp_path / "folder")
        with pytest.raises(ClaimLostError, match="was removed"):
            files.write_bytes(tmp_path / "folder" / "file", b"")
    with claimed(tmp_path):
        (tmp_path / "kept").write_text("kept")


def test_claim_in_the_place_of_a_removed_one_is_not_ours(player: Start, tmp_path: Path) -> None:
    first, second = player(settings=QUICK), player()
    first.claim_folder(folder=str(tmp_path))
    shutil.rmtree(tmp_path / CLAIM)
    assert second.claim_folder(folder=str(tmp_path))["number"] == 1
    before = ticket_of(tmp_path, 1).read_bytes()
    assert "was removed" in writes_nothing(first, tmp_path)
    first.release()
    assert ticket_of(tmp_path, 1).read_bytes() == before  # neither beaten for nor ended
    second.write(path=str(tmp_path / "file"), text="yes")


def test_error_in_the_block_releases(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), claimed(tmp_path):
        raise RuntimeError("work")
    with claimed(tmp_path) as fence:
        assert fence.number == 2


# Tickets that lie elsewhere


def test_tickets_elsewhere_claim_and_are_put_away(player: Start, tmp_path: Path) -> None:
    tickets = tmp_path / ".map.tif.claim"
    given = {"folder": str(tmp_path), "tickets": str(tickets), "told": str(tmp_path / "map.tif")}
    first, second = player(), player()
    first.claim_folder(**given)
    text = second.refused("ClaimedError", "claim_folder", **given)
    assert text.startswith(f"{tmp_path / 'map.tif'} is being written by process {first.pid}")
    first.release()
    assert list(tmp_path.iterdir()) == []
    assert second.claim_folder(**given)["number"] == 1
    second.write(path=str(tmp_path / "map.tif"), text="yes")


def test_tickets_that_another_has_taken_over_are_not_put_away(player: Start, tmp_path: Path) -> None:
    tickets = tmp_path / ".map.tif.claim"
    given = {"folder": str(tmp_path), "tickets": str(tickets)}
    first, second = player(), player(settings=QUICK)
    first.claim_folder(**given)
    first.stop()
    age(tickets / "00000001", 61)
    second.claim_folder(**given)
    first.go_on()
    first.release()
    second.write(path=str(tmp_path / "map.tif"), text="yes")
    player().refused("ClaimedError", "claim_folder", **given)


def test_tickets_that_are_put_away_in_the_moment_of_a_claim_are_made_anew(player: Start, tmp_path: Path) -> None:
    tickets, one = tmp_path / ".map.tif.claim", player()
    one.stop_before(name="_create")
    one.send("claim_folder", folder=str(tmp_path), tickets=str(tickets))
    os.waitid(os.P_PID, one.pid, os.WSTOPPED)
    tickets.rmdir()
    one.go_on()
    assert one.answer()["value"]["number"] == 1
    assert (tickets / "00000001").exists()


def test_claim_fences_only_what_is_below_it(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with claimed(tmp_path / "mine"):
        claim._mark([ticket_of(tmp_path / "mine", 1)])
        files.write_bytes(tmp_path / "mine too", b"yes")
        with pytest.raises(ClaimLostError):
            files.write_bytes(tmp_path / "mine" / "deep" / "file", b"no")
    files.write_bytes(tmp_path / "mine" / "deep" / "file", b"yes")


def test_fence_survives_pickling(tmp_path: Path) -> None:
    with claimed(tmp_path, told=Path("a name")) as fence:
        copy = pickle.loads(pickle.dumps(fence))
        assert copy == fence
        copy.check()
    with pytest.raises(ClaimLostError, match=r"^a name is no longer this run's: the run that claimed it has ended"):
        copy.check()


# Folders that cannot be written


@pytest.mark.parametrize("what", ["absent", "a file"])
def test_what_is_no_folder_is_refused_in_a_sentence(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "folder"
    if what == "a file":
        folder.write_text("")
    with (
        pytest.raises(UsageError, match=f"{folder} cannot be claimed for writing: .* or choose another folder"),
        claimed(folder),
    ):
        pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_refuses_a_claim_and_ends_none(player: Start, small_disk: Path) -> None:
    first = player(settings=QUICK)
    first.claim_folder(folder=str(small_disk))
    other = small_disk / "other"
    other.mkdir()
    with pytest.raises(OSError, match="No space"):
        (small_disk / "fill").write_bytes(bytes(70_000))
    with pytest.raises(UsageError, match=r"cannot be claimed for writing: No space left .* room there"), claimed(other):
        pass
    assert list((other / CLAIM).iterdir()) == []
    before = claim._read(ticket_of(small_disk, 1)).beats
    wait_for(lambda: claim._read(ticket_of(small_disk, 1)).beats > before)


def test_read_only_file_system_is_refused_in_a_sentence(player: Start, small_disk: Path) -> None:
    first = player(settings=QUICK)
    first.claim_folder(folder=str(small_disk))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UsageError, match="cannot be claimed for writing: Read-only file system"), claimed(small_disk):
        pass
    time.sleep(0.3)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    before = claim._read(ticket_of(small_disk, 1)).beats
    wait_for(lambda: claim._read(ticket_of(small_disk, 1)).beats > before)  # beats that failed ended nothing
    first.write(path=str(small_disk / "file"), text="yes")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that all users may write in."""
    if os.geteuid():
        pytest.skip("only root can act for another user")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o777)
        yield Path(name)


def test_process_of_another_user_is_seen_to_live(player: Start, open_folder: Path) -> None:
    first, second = player(), player()
    first.claim_folder(folder=str(open_folder))
    second.become(user=NOBODY)
    text = second.refused("UsageError", "claim_folder", folder=str(open_folder))
    assert "Permission denied" in text
    (open_folder / CLAIM).chmod(0o777)
    assert f"process {first.pid} on" in second.refused("ClaimedError", "claim_folder", folder=str(open_folder))


def test_owner_that_cannot_be_told_is_not_taken_over(player: Start, open_folder: Path) -> None:
    first, second = player(), player()
    first.claim_folder(folder=str(open_folder))
    (open_folder / CLAIM).chmod(0o777)
    first.kill()
    second.become(user=NOBODY)
    text = second.refused("UsageError", "claim_folder", folder=str(open_folder))
    assert f"Permission denied ({ticket_of(open_folder, 1)})" in text
    assert [path.name for path in (open_folder / CLAIM).iterdir()] == ["00000001"]
    ticket_of(open_folder, 1).chmod(0o666)
    assert second.claim_folder(folder=str(open_folder))["number"] == 2


# Many at once


def test_ten_processes_at_once_are_never_two_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    lines = crowd([folder], tmp_path, size=10, rounds=2)
    assert len(lines) == 2 * 2 * 10


@pytest.mark.slow
def test_hundred_processes_some_of_them_killed_are_never_two_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    crowd([folder], tmp_path, size=100, rounds=1, kill=20)
