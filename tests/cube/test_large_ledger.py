"""Looking at a build of very many shards: by the heads of the ledger's lines, and without what pixels are read with."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cube.config import AbiConfig
from cube.geostationary.folder import AbiFolder
from cube.job.ledger import Entry, Ledger, Problem
from stratacube.files import Written

SHARDS = 111_112
"""Of a million tiles of 512 x 512 pixels, 7 steps and 16 bands."""
FILES = tuple(Written(f"tiles.zarr/C{c:02d}/c/0/0/0/0", 1_000_000, "0" * 64) for c in range(1, 21))
MADE = Entry("shard-000000", "done", (), {"seconds": 1.5, "tiles": 9}, files=FILES)


def line(entry: Entry) -> str:
    return json.dumps(asdict(entry)) + "\n"


def test_heads_tell_what_whole_lines_do(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    lack = Problem("source", "unreadable", "tile", "scan", "13", "/a.nc")
    entries = [
        MADE,
        replace(MADE, key="shard-000001", status="partial", problems=(lack,)),
        replace(MADE, key="shard-000002", status="failed", problems=(lack,), files=()),
        Entry("planned", "done", facts={"tasks": "4", "words": "36 tiles"}),
        Entry("outcome", "partial", figures={"source: unreadable": 1.0}),
        replace(MADE, key="shard-000002"),  # made in a second run
        replace(MADE, key="shard-000001", status="begun"),
        replace(MADE, key="shard-000004", status="partial", problems=(lack,)),
    ]
    torn = line(replace(MADE, key="shard-000003"))
    path.write_text("".join(map(line, entries)) + torn[: len(torn) // 2] + "\n" + torn[:-2])
    whole, brief = Ledger(path), Ledger(path, brief="shard-")
    assert list(brief.entries) == list(whole.entries)
    assert {k: (e.status, e.problems) for k, e in brief.entries.items()} == {
        k: (e.status, e.problems) for k, e in whole.entries.items()
    }
    assert brief.entries["planned"] == whole.entries["planned"]
    assert brief.entries["outcome"] == whole.entries["outcome"]
    assert (brief.entries["shard-000001"].status, brief.entries["shard-000002"].status) == ("begun", "done")
    assert not any(entry.files for entry in whole.entries.values())  # of a million tiles they would fill the memory
    assert dict(brief.files_of(brief.entries)) == dict(whole.files_of(whole.entries))


def write_build(root: Path, shards: int) -> None:
    """What a build of so many shards, all made, leaves for ``status`` to look at."""
    folder = AbiFolder(root)
    values = {"output_dir": str(root), "local_data_dir": str(root), "satellite": "goes16", "domain": "F"}
    config = AbiConfig.load(None, {**values, "num_tiles": str(9 * shards)})
    with folder.opened(config.described(), config.digest(), overwrite=False):
        told = Entry("planned", "done", facts={"tasks": str(shards), "words": f"{9 * shards} tiles"})
        tail = line(MADE).partition(MADE.key)[2]
        with folder.ledger.open("a") as file:
            file.write(line(told))
            file.writelines(f'{{"key": "shard-{n:06d}{tail}' for n in range(shards))


def imports_of_status(root: Path) -> tuple[str, set[str]]:
    """What a new process says of a build that is not published, and the modules that it imports for it."""
    command = [sys.executable, "-X", "importtime", "-m", "stratacube", "status", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr[-300:]
    return done.stdout, {row.rpartition("|")[2].strip() for row in done.stderr.splitlines()}


def looked_at(root: Path) -> tuple[str, float]:
    """What a new process says of a build of tiles, and the seconds of CPU it takes, its start and imports in them."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said, imported = imports_of_status(root)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "cube.geostationary.folder" in imported
    assert not {"pandas", "zarr", "xarray", "pyarrow"} & imported
    return said, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_status_brings_nothing_that_reads_pixels(tmp_path: Path) -> None:
    write_build(tmp_path / "build", 3)
    said, _ = looked_at(tmp_path / "build")
    assert "planned    27 tiles\ndone       3\npublished  not yet" in said


@pytest.mark.slow
@pytest.mark.long
def test_the_status_of_a_million_tiles_is_told_in_two_seconds(tmp_path: Path) -> None:
    write_build(tmp_path / "build", SHARDS)
    said, seconds = looked_at(tmp_path / "build")
    assert f"done       {SHARDS}" in said
    assert seconds < 2
