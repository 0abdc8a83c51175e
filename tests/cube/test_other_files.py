"""A scan or a mask whose variables lie in other files of the machine is refused, before those are opened."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from catalog.geostationary.archives import LocalArchive
from cube.geostationary.hdf5 import variable_or_none
from cube.geostationary.index import index_file
from cube.strata.masks import find_masks, survey_mask
from cube.strata.merra2.files import Merra2
from cube.strata.readers.tobac import TOBAC
from cube.testing import write_abi_file
from stratacube.errors import SourceError, StratacubeError
from tests.cube.test_strata_masks import write_mask

Turn = Callable[[h5py.File, str, Path], None]
"""Make a variable of a file one of another, which is a copy of it."""


def _linked(h5: h5py.File, name: str, other: Path) -> None:
    del h5[name]
    h5[name] = h5py.ExternalLink(str(other), name)


def _linked_twice(h5: h5py.File, name: str, other: Path) -> None:
    """By a link of the file's own, whose path leads through one that is not."""
    del h5[name]
    h5["elsewhere"] = h5py.ExternalLink(str(other), "/")
    h5[name] = h5py.SoftLink(f"elsewhere/{name}")


def _stored_outside(h5: h5py.File, name: str, other: Path) -> None:
    was, attributes = h5[name], dict(h5[name].attrs)
    shape, dtype = was.shape or (1,), was.dtype  # of a single value HDF5 keeps none outside
    raw = other.with_suffix(".raw")
    raw.write_bytes(np.ascontiguousarray(was[()]).tobytes())
    del h5[name]
    made = h5.create_dataset(name, shape, dtype, external=[(str(raw), 0, raw.stat().st_size)])
    _give(made, attributes)


def _put_together(h5: h5py.File, name: str, other: Path) -> None:
    was, attributes = h5[name], dict(h5[name].attrs)
    layout = h5py.VirtualLayout(was.shape, was.dtype)
    layout[...] = h5py.VirtualSource(str(other), name, was.shape)
    del h5[name]
    _give(h5.create_virtual_dataset(name, layout), attributes)


def _give(made: Any, attributes: dict[str, Any]) -> None:
    for key, value in attributes.items():
        if key not in ("DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME"):
            made.attrs[key] = value


WAYS: dict[str, tuple[Turn, str]] = {
    "a link": (_linked, "its {name} is a link to {name} of another file, /"),
    "a link to a link": (_linked_twice, "its {name} is a link to / of another file, /"),
    "values elsewhere": (_stored_outside, "its {name} has its values in another file, /"),
    "put together": (_put_together, "its {name} is put together of other variables, in /"),
}


def turned(path: Path, way: str, name: str, folder: Path) -> tuple[Path, str]:
    """A copy of a file, one variable of which lies in another, and what is to be said of it."""
    turn, said = WAYS[way]
    folder.mkdir(exist_ok=True)
    copy, other = Path(shutil.copy(path, folder)), Path(shutil.copy(path, folder.parent / "other"))
    with h5py.File(copy, "r+") as h5:
        turn(h5, name, other)
    return copy, said.format(name=name)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_abi_file(tmp_path_factory.mktemp("scan"), channel=13, start=datetime(2020, 7, 1, 16), shape=(130, 130))


@pytest.fixture(scope="module")
def mask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = np.zeros((1, 34, 87))
    labels[0, 4:8, 4:8] = 3
    path = tmp_path_factory.mktemp("mask") / "ToocanCloudMask_20200701_1600.nc"
    write_mask(path, labels, np.array([0.0]), dims=("nt", "lat", "lon"))
    with h5py.File(path, "r+") as h5:
        h5["time"].attrs["units"] = "hours since 2020-07-01 16:00:00"
    return path


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["Rad", "DQF", "planck_fk1", "goes_imager_projection", "x"])
def test_a_variable_of_a_scan(scan: Path, tmp_path: Path, way: str, name: str) -> None:
    path, said = turned(scan, way, name, tmp_path / "own")
    (source,) = LocalArchive(path.parent).files(None, None, None, None)
    with pytest.raises(SourceError, match=rf"{path.name} is not a readable ABI L1b file \({said}"):
        index_file(source)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["DCS_number", "lat", "time"])
def test_a_variable_of_a_mask(mask: Path, tmp_path: Path, way: str, name: str) -> None:
    ((found,), _) = find_masks(str(mask))
    assert survey_mask(found).problem is None
    path, said = turned(mask, way, name, tmp_path / "own")
    ((found,), _) = find_masks(str(path))
    problem = survey_mask(found).problem
    assert problem is not None
    with pytest.raises(SourceError, match=rf"{path.name}(:| cannot be read as NetCDF-4 \() ?{said}"):
        raise SourceError(problem.message)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["lat", "lev", "T"])
def test_a_variable_of_merra(tmp_path: Path, way: str, name: str) -> None:
    path = tmp_path / "MERRA2_400.inst3_3d_asm_Np.20200701.nc4"
    with h5py.File(path, "w") as h5:
        h5["lat"], h5["lon"] = np.arange(-90, 91, 10.0), np.arange(-180, 180, 10.0)
        h5["lev"], h5["time"] = np.array([1000.0, 500.0]), np.arange(0, 1440, 180)
        h5["time"].attrs["units"] = "minutes since 2020-07-01 00:00:00"
        h5["T"] = np.zeros((8, 2, 19, 36), "f4")
    assert Merra2(str(tmp_path), ["T"]).told["T"].levels
    path, said = turned(path, way, name, tmp_path / "own")
    with pytest.raises(StratacubeError, match=rf"{path.name} is not a readable file of MERRA-2 \({said}"):
        Merra2(str(path.parent), ["T"])


def test_a_table_of_tracks(tmp_path: Path) -> None:
    table = tmp_path / "Track.nc"
    with h5py.File(table, "w") as h5:
        h5["feature"], h5["cell"] = np.arange(3), np.arange(3)
    with h5py.File(tmp_path / "segmentation.nc", "w") as h5:
        h5["segmentation_mask"] = np.zeros((1, 2, 2), "i4")
    table, said = turned(table, "a link", "cell", tmp_path / "own")
    shutil.copy(tmp_path / "segmentation.nc", table.parent)
    ((file,), _) = find_masks(str(table.parent / "segmentation.nc"))
    with pytest.raises(SourceError, match=rf"Track.nc cannot be read \({said}"):
        TOBAC.survey(file)


def test_links_within_a_file_are_followed_to_their_end(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "own.nc", "w") as h5:
        h5["group/inner"] = np.arange(3)
        h5["group/beside"] = h5py.SoftLink("inner")
        h5["far"] = h5py.SoftLink("/group/beside")
        h5["round"], h5["about"] = h5py.SoftLink("about"), h5py.SoftLink("round")
        h5["lost"] = h5py.SoftLink("group/nothing")
        for name in ("group/inner", "group/beside", "far"):
            found = variable_or_none(h5, name)
            assert found is not None, name
            np.testing.assert_array_equal(found[()], np.arange(3))
        for name in ("lost", "none", "group/inner/deeper"):
            assert variable_or_none(h5, name) is None
        with pytest.raises(ValueError, match="its round is a link that leads to no end"):
            variable_or_none(h5, "round")
