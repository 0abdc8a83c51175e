"""Files of a virtual cube's archive that come late, in an odd order, damaged, or to a cube that is being read."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import numpy as np

import cube
from cube.geostationary.index import index_file
from cube.geostationary.open import list_archive
from cube.testing import write_abi_file


def scan(root: Path, channel: int, month: int, day: int = 1) -> Path:
    """A small file of a band."""
    return write_abi_file(root, channel=channel, start=datetime(2020, month, day, 16), shape=(20, 20))


def add(store: Path, archive: Path, paths: Iterable[Path]) -> None:
    """Put files into a store in one call."""
    wanted = {str(path) for path in paths}
    cube.write_references([index_file(file) for file in list_archive(archive) if file.href in wanted], store)


def test_bands_that_are_written_anew_from_different_months_leave_each_other_alone(tmp_path: Path) -> None:
    archive, store = tmp_path / "archive", tmp_path / "store"
    add(store, archive, [scan(archive, channel, month) for channel in (7, 13) for month in (6, 7, 8)])
    add(store, archive, [scan(archive, 7, 6, day=2), scan(archive, 13, 7, day=2)])
    ours, truth = cube.open_abi(store)["2km"], cube.open_abi(archive, cache=tmp_path / "index")["2km"]
    assert ours.sizes["time"] == truth.sizes["time"] == 5
    np.testing.assert_array_equal(ours["radiance"], truth["radiance"])
