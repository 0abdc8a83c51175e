"""What explain tells, against what a build is seen to read."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cube.build import main
from cube.geostationary import read
from stratacube.files import human_bytes
from tests.cube.test_abi_run import BASE, build, put_in_bucket

Ranges = dict[str, set[tuple[int, int]]]


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["explain", *arguments, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_files_and_bytes_are_those_that_a_build_reads(
    small_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = ("--local-data-dir", str(small_archive), "--workers", "1")
    flags = ("abi", "--output-dir", str(tmp_path / "out"), *archive, *BASE, "--num-tiles", "4")
    before = explained(capsys, *flags)
    assert not (tmp_path / "out").exists()
    seen: Ranges = defaultdict(set)
    counted = 0

    def watched(descriptor: int, size: int, offset: int) -> bytes:
        nonlocal counted
        counted += size
        seen[os.readlink(f"/proc/self/fd/{descriptor}")].add((offset, offset + size))
        return os.pread(descriptor, size, offset)

    class Watched:
        pread = staticmethod(watched)

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

    monkeypatch.setattr(read, "os", Watched())
    assert build(small_archive, tmp_path / "out", "--workers", "1", "--num-tiles", "4") == 0
    told: Ranges = {f["href"]: {(a, b) for part in f["parts"] for a, b in part["ranges"]} for f in before}
    assert told == seen
    assert sum(part["bytes"] for f in before for part in f["parts"]) == counted
    assert all(f["size"] == Path(f["href"]).stat().st_size for f in before)
    ledger = [json.loads(line) for line in (tmp_path / "out" / "ledger.jsonl").read_text().splitlines()]
    shards = {entry["key"]: entry["figures"]["bytes"] for entry in ledger if entry["key"].startswith("shard-")}
    tiles = sum(part["bytes"] for f in before for part in f["parts"] if part["what"] == "tiles")
    assert tiles == sum(shards.values())
    table = tmp_path / "ranges.csv"
    assert main(["explain", *flags, "--files", "2", "--output", str(table)]) == 0  # by the plan of the folder now
    printed = capsys.readouterr().out
    sizes = sum(Path(f["href"]).stat().st_size for f in before)
    ranges = sum(len(part["ranges"]) for f in before for part in f["parts"])
    once = sum(len(set().union(*(range(a, b) for a, b in parts))) for parts in seen.values())
    assert once < counted  # the look at the scans and the tiles read some of the same
    amount = f"{human_bytes(counted)}, {human_bytes(counted - once)} of it again, in {ranges} ranges"
    assert printed.splitlines()[0] == f"reads {amount} of {len(before)} files of {human_bytes(sizes)}"
    assert f"and {len(before) - 2} files more" in printed
    rows = pd.read_csv(table)
    assert (rows["stop"] - rows["start"]).sum() == counted
    assert set(rows["what"]) == {"screening", "tiles"}


def test_what_is_downloaded_is_told_whole(
    small_archive: Path, s3_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_in_bucket(s3_server, small_archive)
    period = ("--start-dt", "2020-07-01T16:00", "--end-dt", "2020-07-01T18:00", "--s3-endpoint", s3_server)
    flags = ("abi", "--output-dir", str(tmp_path / "out"), *BASE, "--num-tiles", "1", *period, "--screen", "off")
    ranges = explained(capsys, *flags)
    assert {part["what"] for f in ranges for part in f["parts"]} == {"tiles"}
    whole = explained(capsys, *flags, "--download", "--local-data-dir", str(tmp_path / "here"))
    assert [f["parts"][0]["bytes"] for f in whole] == [f["size"] for f in whole] == [f["size"] for f in ranges]
    assert whole[0]["parts"][0]["what"] == "download"


def test_what_is_too_large_to_be_looked_at_is_not_told_as_read_whole(
    small_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of images that lie in one chunk; a purpose without ranges is one for which the file is read whole."""
    monkeypatch.setattr("cube.geostationary.explain.looked_at", lambda *_, **__: [])
    archive = ("--local-data-dir", str(small_archive), "--workers", "1")
    reads = explained(capsys, "abi", "--output-dir", str(tmp_path / "out"), *archive, *BASE, "--num-tiles", "1")
    assert {part["what"] for f in reads for part in f["parts"]} == {"tiles"}


def test_only_builds_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["explain", "abbi"])
    assert "unknown command 'abbi' (did you mean abi?)" in capsys.readouterr().err
    assert main(["explain", "abi", "--no-archive", "--plan-only", "--stratification", "convection"]) == 2
