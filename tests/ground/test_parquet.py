"""Tables in Parquet: whole or in batches they are the same, and as pandas reads them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stratacube.errors import ClaimLostError
from stratacube.files import fenced
from stratacube.parquet import iter_frames, read_frame, write_frame, write_frames


def frame(rows: int) -> pd.DataFrame:
    made = pd.DataFrame(
        {
            "number": np.arange(rows),
            "name": [f"tile {i}" for i in range(rows)],
            "time": pd.date_range("2020-01-01", periods=rows, freq="h").astype("datetime64[us]"),
            "bands": [np.arange(i % 3, dtype="i8") for i in range(rows)],
        }
    )
    made.attrs = {"version": 3}
    return made


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = frame(1000)
    write_frame(tmp_path / "deep" / "a.parquet", made)
    found = read_frame(tmp_path / "deep" / "a.parquet")
    pd.testing.assert_frame_equal(found, made)
    pd.testing.assert_frame_equal(found, pd.read_parquet(tmp_path / "deep" / "a.parquet"))
    assert found.attrs == {"version": 3}
    assert list(read_frame(tmp_path / "deep" / "a.parquet", ["time"])) == ["time"]


@pytest.mark.parametrize("rows", [1, 300, 1000, 5000])
def test_batches_make_up_the_whole(tmp_path: Path, rows: int) -> None:
    made = frame(1000)
    made.to_parquet(tmp_path / "a.parquet", row_group_size=400)  # with an index, in groups that batches cut across
    parts = list(iter_frames(tmp_path / "a.parquet", rows))
    assert max(map(len, parts)) <= rows
    assert all(part.attrs == {"version": 3} for part in parts)
    pd.testing.assert_frame_equal(pd.concat(parts), made, check_index_type=False)
    (head, *_) = iter_frames(tmp_path / "a.parquet", rows, ["number"])
    assert list(head) == ["number"]


def test_a_table_without_rows_has_no_batches(tmp_path: Path) -> None:
    write_frame(tmp_path / "a.parquet", frame(0))
    assert list(iter_frames(tmp_path / "a.parquet")) == []
    assert list(read_frame(tmp_path / "a.parquet")) == ["number", "name", "time", "bands"]


def test_a_lost_claim_keeps_the_old_table(tmp_path: Path) -> None:
    def lost() -> None:
        raise ClaimLostError("lost")

    write_frame(tmp_path / "a.parquet", frame(1))
    with fenced(tmp_path, lost), pytest.raises(ClaimLostError):
        write_frame(tmp_path / "a.parquet", frame(2))
    assert len(read_frame(tmp_path / "a.parquet")) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_reading_starts_no_thread(tmp_path: Path) -> None:
    write_frame(tmp_path / "a.parquet", frame(100_000))
    code = (
        "import os, sys; from stratacube.parquet import iter_frames, read_frame\n"
        "name = lambda task: open(f'/proc/self/task/{task}/comm').read()\n"
        "threads = lambda: [n for n in map(name, os.listdir('/proc/self/task')) if 'jemalloc' not in n]\n"
        "before = threads(); read_frame(sys.argv[1]); list(iter_frames(sys.argv[1]))\n"
        "sys.exit(len(threads()) - len(before))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.parquet")], check=False)
    assert done.returncode == 0


def test_parts_are_written_as_the_whole(tmp_path: Path) -> None:
    """Though the first part tells less than the others: its lists are all empty, and none of its numbers is there."""
    made = frame(1000).assign(lacks=[[] if i < 500 else [f"C{i % 16:02d}"] for i in range(1000)])
    made["system"] = pd.array([None] * 500 + [7] * 500, "Int64")
    write_frame(tmp_path / "whole.parquet", made, row_group=400)
    parts = (made.iloc[at : at + 400] for at in range(0, 1000, 400))
    write_frames(tmp_path / "parts.parquet", parts, {"version": 4})
    whole, found = read_frame(tmp_path / "whole.parquet"), read_frame(tmp_path / "parts.parquet")
    assert found.attrs == {"version": 4}
    found.attrs = whole.attrs
    pd.testing.assert_frame_equal(found, whole)
    groups = [pq.read_metadata(tmp_path / name) for name in ("whole.parquet", "parts.parquet")]
    assert [[g.row_group(i).num_rows for i in range(g.num_row_groups)] for g in groups] == [[400, 400, 200]] * 2
    schemas = [pq.read_schema(tmp_path / name).remove_metadata() for name in ("whole.parquet", "parts.parquet")]
    assert schemas[0].equals(schemas[1])


def test_lists_that_are_empty_all_along_are_lists_of_text(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.parquet", [frame(3)[["number"]].assign(lacks=[[], [], []])], {})
    assert pq.read_schema(tmp_path / "a.parquet").field("lacks").type == pa.list_(pa.string())
    assert [[*lacks] for lacks in read_frame(tmp_path / "a.parquet")["lacks"]] == [[], [], []]
