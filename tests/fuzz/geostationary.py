"""Files of imagers, their pixels, indexes and references, lists of scans, and cloud-system masks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from catalog.geostationary.abi import ABI_NAMES
from catalog.geostationary.ami import AMI_NAMES
from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.items import load_items, save_items
from catalog.geostationary.naming import Naming
from catalog.geostationary.scans import SourceFile, group_scans
from catalog.geostationary.shelf import ScanShelf
from cube.geostationary import reference_leaf, reference_view
from cube.geostationary.chips.forms import read_members, told_members
from cube.geostationary.grid import Window
from cube.geostationary.index import index_file
from cube.geostationary.index_cache import load_index, save_index
from cube.geostationary.read import read_windows
from cube.geostationary.references import read_references, write_references
from cube.geostationary.screen_file import record_of
from cube.strata.masks import find_masks, survey_mask
from cube.testing import (
    write_abi_archive,
    write_abi_file,
    write_ami_file,
    write_cloud_systems,
    write_monthly_cloud_systems,
)
from stratacube.errors import SourceError
from tests.fuzz.containers import damaged_chunk_table, damaged_hdf5, damaged_npz, damaged_parquet
from tests.fuzz.parser import Parser
from tests.fuzz.plain import damaged_bytes, damaged_head, damaged_lines, damaged_text
from tests.fuzz.structured import damaged_json, damaged_json_lines

__all__ = ["PARSERS"]

_START = datetime(2020, 7, 1, 16)
_THEN = 1_600_000_000


def _abi(folder: Path) -> list[Path]:
    paths = write_abi_archive(
        folder, start=_START, hours=0.2, cadence_minutes=5, channels=[2, 13], shape_2km=(60, 60), workers=1
    )
    for path in paths:
        os.utime(path, (_THEN, _THEN))  # caches know files by it
    return list(paths)


def _ami(folder: Path) -> list[Path]:
    return [write_ami_file(folder, band=band, start=_START, shape=(60, 60)) for band in ("ir105", "vi006")]


def _source(path: Path, naming: Naming) -> SourceFile:
    name = naming.parse_path(str(path))
    assert name is not None
    return SourceFile(str(path), path.stat().st_size, "", *name)


def _header(naming: Naming) -> Callable[[Path, Path], Any]:
    return lambda _, path: index_file(_source(path, naming)).describe_encoding()


def _pixels(naming: Naming) -> Callable[[Path, Path], Any]:
    def read(_: Path, path: Path) -> Any:
        index = index_file(_source(path, naming))
        rows, cols = index.rad.shape
        for variable, table in (("rad", index.rad), ("dqf", index.dqf)):
            out = np.empty((min(rows, 500), min(cols, 500)), table.picked_dtype)
            read_windows(index, variable, [Window(0, 0, *out.shape)], [out])  # type: ignore[arg-type]
        return index.signature

    return read


def _chunked(folder: Path) -> list[Path]:
    """A file of several chunks a dataset, whose tables have as many entries."""
    place: dict[str, Any] = {"shape": (60, 60), "chunks": (20, 20), "corner": (-0.019992, 0.059976), "sector": "C"}
    return [write_abi_file(folder, channel=channel, start=_START, shuffle=channel == 8, **place) for channel in (8, 13)]


def _screened(folder: Path, path: Path) -> Any:
    """Whatever its table of chunks says: its pixels, and what a screening finds of it."""
    index = index_file(_source(path, ABI_NAMES))
    _pixels(ABI_NAMES)(folder, path)
    return record_of(index, "scan").row_shares


def _index(folder: Path) -> list[Path]:
    found = []
    for path in _abi(folder):
        found.append(folder / f"{path.name}.npz")
        save_index(index_file(_source(path, ABI_NAMES)), found[-1])
    return found


def _cached(folder: Path, path: Path) -> Any:
    """A damaged one is as if it were not there; what is not there is made again, which never fails."""
    index = load_index(path, _source(next(folder.rglob(path.stem)), ABI_NAMES))
    if index is not None:
        _used(index)
    return None if index is None else asdict(index.grid) | index.describe_encoding() | _tables(index)


def _tables(index: Any) -> dict[str, Any]:
    return {name: (t.offsets.tolist(), t.sizes.tolist()) for name, t in (("r", index.rad), ("d", index.dqf))}


def _used(index: Any) -> None:
    """Read a few pixels by an index, as a build does."""
    out = np.empty((8, 8), index.rad.picked_dtype)
    read_windows(index, "rad", [Window(0, 0, 8, 8)], [out])
    _ = index.signature, index.start


def _is_whole_or_none(found: Any, whole: Any) -> bool:
    return found is None or found == whole


def _references(folder: Path) -> list[Path]:
    indexes = [index_file(_source(path, ABI_NAMES)) for path in _abi(folder / "archive")]
    write_references(indexes, folder / "references")
    return [p for p in (folder / "references").rglob("*") if p.is_file() and p.parent.name in ("Rad", "DQF")] + [
        *(folder / "references").rglob("files/*.parquet"),
    ]


def _described_references(folder: Path) -> list[Path]:
    _references(folder)
    return [*(folder / "references").rglob(".zmetadata")]


def _referred(folder: Path, _: Path) -> Any:
    reference_leaf._read_record.cache_clear()
    reference_leaf._record_size.cache_clear()
    reference_view._group.cache_clear()
    reference_view._rows_of_group.cache_clear()
    for reference in read_references(folder / "references"):
        _used(reference.load())


def _scans(folder: Path) -> list[Path]:
    _abi(folder)
    files = LocalArchive(folder).files("goes16", "M1", None, None)
    save_items(folder / "sources.json", group_scans(files))
    return [folder / "sources.json"]


def _scan_table(folder: Path) -> list[Path]:
    (path,) = _scans(folder)
    save_items(path.with_suffix(".parquet"), load_items(path))
    return [path.with_suffix(".parquet")]


def _listed(folder: Path, path: Path) -> Any:
    shelf = ScanShelf(path)
    return len(load_items(path)), len(list(shelf.scans()))


def _masks(folder: Path) -> list[Path]:
    axis = np.arange(-20.0, 20.0, 4.0)
    daily = write_cloud_systems(folder, date=date(2020, 7, 1), latitudes=axis, longitudes=axis, steps=range(3))
    monthly = write_monthly_cloud_systems(
        folder, year=2020, month=7, days=[1], latitudes=axis, longitudes=axis, steps=range(3)
    )
    return [Path(daily), Path(monthly)]


def _surveyed(folder: Path, path: Path) -> Any:
    files, problems = find_masks(str(path))
    survey = survey_mask(files[0])
    if survey.problem is not None:
        raise SourceError(survey.problem.message)
    return survey, problems


def _slots(folder: Path) -> list[Path]:
    """Masks of a satellite's own pixels, with temperatures."""
    path = folder / "mcstrack_20200701_1200.nc"
    with h5py.File(path, "w") as out:
        out["cloudtracknumber"] = np.arange(48, dtype="f4").reshape(1, 6, 8) % 5
        out["tb"] = np.full((1, 6, 8), 210.0, "f4")
        out["base_time"] = np.array([1593604800.0])
        out["base_time"].attrs["units"] = "seconds since 1970-01-01"
        out["x"], out["y"], out["view"] = np.linspace(-0.01, 0.01, 8), np.linspace(0.01, -0.01, 6), 0
        numbers = {"perspective_point_height": 35786023.0, "semi_major_axis": 6378137.0, "semi_minor_axis": 6356752.3}
        out["view"].attrs.update({**numbers, "longitude_of_projection_origin": -75.0, "sweep_angle_axis": "x"})
        out["view"].attrs["grid_mapping_name"] = "geostationary"
        out["cloudtracknumber"].attrs["grid_mapping"] = "view"
    return [path]


def _tracks(folder: Path) -> list[Path]:
    rows = "".join(f'{i % 3},2020-07-01T0{i}:00,"POLYGON (({i} 0, {i + 1} 0, {i} 1, {i} 0))",5\n' for i in range(9))
    table = folder / "tracks.csv"
    table.write_text(f"track_id,time,geometry,area_km2\n{rows}")
    features = [
        {
            "type": "Feature",
            "properties": {"track_id": i % 2, "time": f"2020-07-01T0{i}:00Z"},
            "geometry": {"type": "Polygon", "coordinates": [[[i, 0], [i + 1, 0], [i, 1], [i, 0]]]},
        }
        for i in range(4)
    ]
    outlines = folder / "tracks.geojson"
    outlines.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return [table, outlines]


def _chips(folder: Path) -> list[Path]:
    path = folder / "chip.npz"
    more = {"bands": np.arange(2), "timestamps": np.array(["2020-07-01T00:00"]), "metadata": np.array('{"a": 1}')}
    np.savez_compressed(path, chip=np.ones((1, 2, 4, 4), "f4"), **more)
    return [path]


def _taken(folder: Path, path: Path) -> Any:
    form, members = told_members(path)
    return form, sorted(members), sorted(read_members(path))


_HDF5 = (damaged_hdf5, damaged_hdf5, damaged_head, damaged_bytes)
_PARQUET = (damaged_parquet, damaged_parquet, damaged_head, damaged_bytes)
_JSON = (damaged_json, damaged_json_lines, damaged_json_lines, damaged_lines, damaged_text, damaged_bytes)

PARSERS = (
    Parser("abi-headers", _abi, _header(ABI_NAMES), _HDF5),
    Parser("ami-headers", _ami, _header(AMI_NAMES), _HDF5),
    Parser("abi-pixels", _abi, _pixels(ABI_NAMES), _HDF5),
    Parser("ami-pixels", _ami, _pixels(AMI_NAMES), _HDF5),
    Parser("chunk-tables", _chunked, _screened, (damaged_chunk_table,), share=0.5),
    Parser("index-cache", _index, _cached, (damaged_npz,)),
    Parser("index-cache-bytes", _index, _cached, (damaged_bytes, damaged_head), same=_is_whole_or_none),
    Parser("references", _references, _referred, _PARQUET, is_told=False),
    Parser("references-zarr", _described_references, _referred, (damaged_json, damaged_text, damaged_bytes)),
    Parser("scans", _scans, _listed, _JSON),
    Parser("scans-parquet", _scan_table, _listed, _PARQUET, share=0.5),
    Parser("masks", _masks, _surveyed, _HDF5, share=0.3),
    Parser("slots", _slots, _surveyed, _HDF5, share=0.3),
    Parser("tracks", _tracks, _surveyed, (damaged_text, damaged_lines, damaged_bytes), share=0.3),
    Parser("chips", _chips, _taken, (damaged_npz, damaged_bytes, damaged_head), share=0.3),
)
