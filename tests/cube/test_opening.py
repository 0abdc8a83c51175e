"""Stores on object storage: what cannot be read now is an error, and not what was never written."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import fsspec
import numpy as np
import pytest
import xarray as xr
from fsspec.implementations.memory import MemoryFileSystem
from zarr.errors import ZarrUserWarning

from cube.opening import open_store


@pytest.fixture
def url() -> Iterator[str]:
    """A store in memory, of which one array was never written."""
    files = fsspec.filesystem("memory")
    scale = ("band", np.array([0.5, 2.0]))
    unwritten = ("band", np.full(2, np.nan), {}, {"_FillValue": np.nan})
    data = xr.Dataset({"scale": scale, "unwritten": unwritten})
    with warnings.catch_warnings(action="ignore", category=ZarrUserWarning):
        data.to_zarr("memory://held.zarr", zarr_format=3, consolidated=True)
    yield "memory://held.zarr"
    files.rm("/held.zarr", recursive=True)


def test_what_was_never_written_is_fill(url: str) -> None:
    found = open_store(url)
    assert found["scale"].values.tolist() == [0.5, 2.0]
    assert np.isnan(found["unwritten"].values).all()


@pytest.mark.parametrize("fault", [PermissionError("403"), OSError("503 slow down"), TimeoutError("no answer")])
def test_what_cannot_be_read_now_is_an_error(url: str, fault: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    read = MemoryFileSystem.cat_file

    def refused(self: MemoryFileSystem, path: str, *args: int, **how: int) -> bytes:
        if "/scale/c/" in path:
            raise fault
        found: bytes = read(self, path, *args, **how)
        return found

    monkeypatch.setattr(MemoryFileSystem, "cat_file", refused)
    with pytest.raises(type(fault), match=str(fault)):
        open_store(url)
