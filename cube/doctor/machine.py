"""The machine: cores, memory, room on disks and in shared memory, and whether its file systems do what builds need."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cube.config import default_cache, default_workers
from stratacube.checks import Check, tried
from stratacube.claim import claimed
from stratacube.files import human_bytes, whole_file

__all__ = ["machine"]

_MEMORY_A_WORKER = 1e9
_LITTLE_DISK, _LITTLE_SHARED = 20e9, 1e9
_FEW_FILES = 1024
_LONGEST_TMPDIR = 80
"""Letters: sockets of worker processes lie in it, and their paths have 107."""
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_CORES = Path("/sys/fs/cgroup/cpu.max")
_SHARED = Path("/dev/shm")


def machine(folder: Path) -> Iterator[Check]:
    """Look at the machine.

    Parameters
    ----------
    folder
        Where builds are to lie; it need not be there yet.
    """
    workers = default_workers()
    yield _cores(workers)
    yield _memory(workers)
    yield _disk(folder)
    there = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
    yield tried("claims", lambda: _claims(there), f"give a folder that can be written, on a disk, instead of {there}")
    yield _temporary()
    yield _shared()
    yield _files()
    yield tried("cache", _cache, "name another folder: export STRATACUBE_CACHE=/path", otherwise="lacks")


def _cores(workers: int) -> Check:
    told = f"{workers} of {os.cpu_count()} may be used; as many worker processes are started"
    try:
        quota, period = _CORES.read_text().split()
        share = float(quota) / float(period)
    except (OSError, ValueError):  # no such limit
        return Check("cores", "works", told)
    if share >= workers:
        return Check("cores", "works", told)
    remedy = f"give `workers={max(1, int(share))}`, which the command line calls --workers"
    return Check("cores", "lacks", f"{told}, but the container has time for {share:g}", remedy)


def _memory(workers: int) -> Check:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [pages]
    for name in _LIMITS:
        try:
            limits.append(int(Path(name).read_text()))
        except (OSError, ValueError):  # another version of control groups, or no limit
            continue
    most = min(limits)
    told = f"{human_bytes(most)}, {human_bytes(most / workers)} a worker"
    if most / workers >= _MEMORY_A_WORKER:
        return Check("memory", "works", told)
    fewer = max(1, int(most / _MEMORY_A_WORKER))
    return Check("memory", "lacks", told, f"take fewer workers, such as --workers {fewer}, or ask for more memory")


def _disk(folder: Path) -> Check:
    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    told = f"{human_bytes(free)} free at {place}"
    if free >= _LITTLE_DISK:
        return Check("disk", "works", told)
    return Check("disk", "lacks", told, "ask what a build will write by its flag --dry-run, or give a larger disk")


def _claims(folder: Path) -> str:
    """Write a file whole, and claim a folder as builds do."""
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as name:
        with whole_file(Path(name) / "file") as part:
            part.write_bytes(b"doctor")
        with claimed(Path(name)):
            pass
    return f"files are written whole and folders claimed in {folder}"


def _temporary() -> Check:
    place = tempfile.gettempdir()
    free = shutil.disk_usage(place).free
    told = f"{human_bytes(free)} free at {place}"
    if len(place) > _LONGEST_TMPDIR:
        return Check("TMPDIR", "broken", f"{place} is too long for the sockets of workers", "export TMPDIR=/tmp")
    if free < _LITTLE_SHARED:
        return Check("TMPDIR", "lacks", told, "export TMPDIR=/path/with/room")
    return Check("TMPDIR", "works", told)


def _shared() -> Check:
    if not _SHARED.is_dir():
        return Check("shared memory", "lacks", f"no {_SHARED}", "train with threads that read: --workers-are threads")
    size = shutil.disk_usage(_SHARED)
    told = f"{human_bytes(size.free)} free of {human_bytes(size.total)} at {_SHARED}"
    if size.free >= _LITTLE_SHARED:
        return Check("shared memory", "works", told)
    remedy = "give the container more, as by --shm-size 8g, or train with threads that read: --workers-are threads"
    return Check("shared memory", "lacks", f"{told}; builds need none, loaders hand batches over by it", remedy)


def _files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = f"{soft} at once"
    if soft == resource.RLIM_INFINITY or soft >= _FEW_FILES:
        return Check("open files", "works", told if soft != resource.RLIM_INFINITY else "without a limit")
    return Check("open files", "lacks", told, f"ulimit -n {_FEW_FILES if hard < 0 else min(hard, 4 * _FEW_FILES)}")


def _cache() -> str:
    """Write into the cache of references that opening an archive keeps."""
    folder = default_cache()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=".doctor-", dir=folder):
        pass
    return f"{folder} can be written"
