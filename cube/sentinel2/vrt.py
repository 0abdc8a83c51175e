"""All cells of a build as one image a band, for GDAL: a VRT each, and a tile index of all.

Format of a VRT: https://gdal.org/drivers/raster/vrt.html; of a tile index:
https://gdal.org/drivers/raster/gti.html. Paths in both are relative to them, so that a build can be moved.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pyproj
import rasterio
import shapely

from catalog.sentinel2.publish import CellRecord
from cube.sentinel2.lattice import Lattice, Window, union
from stratacube.files import remove, write_bytes

__all__ = ["INDEX", "MOSAICS", "vrt_name", "write_mosaics"]

MOSAICS = "mosaics"
"""Folder of both, below the build's."""

INDEX = "cells.gti.gpkg"
"""The tile index; its name is what GDAL knows one by."""

_TYPES = {"float32": "Float32", "int16": "Int16", "uint16": "UInt16", "uint32": "UInt32", "int32": "Int32"}
_LAYER = "cells"


def vrt_name(path: str, cell: str, suffix: str = "") -> str:
    """Return the VRT of a band by the name of its file in a cell: ``B04_median.vrt``, ``count.vrt``."""
    return f"{Path(path).stem.removeprefix(f'cell_{cell}_').removesuffix('_clip')}{suffix}.vrt"


def write_mosaics(root: Path, lattice: Lattice, cells: Sequence[CellRecord]) -> dict[str, str]:
    """Write the VRT of each band and the tile index.

    Parameters
    ----------
    root
        Folder of the build.
    lattice
        That all cells lie on.
    cells
        The cells that were made.

    Returns
    -------
    dict of str to str
        By band, and by band and period where there are several, its VRT relative to the build's folder; empty where
        there are no GeoTIFFs.
    """
    remove(root / MOSAICS)
    periods: dict[str, list[CellRecord]] = {}
    for cell in cells:
        if cell.files:
            periods.setdefault(cell.period[0] if cell.period else "", []).append(cell)
    written = {}
    for period, there in periods.items():  # one over another would be no mosaic: each has its own
        suffix = f"_{period}" if period else ""
        for band in dict.fromkeys(name for cell in there for name in cell.files):
            path = f"{MOSAICS}/{vrt_name(there[0].files[band], there[0].id, suffix)}"
            document = _vrt(root, lattice, {c.files[band]: c for c in there if band in c.files})
            write_bytes(root / path, document)
            written[band + suffix] = path
        write_bytes(root / MOSAICS / INDEX.replace(".", f"{suffix}.", 1), _index(lattice, there))
    return written


def _window(cell: CellRecord) -> Window:
    assert cell.corner is not None  # cells on no common lattice make no mosaic
    return Window(*cell.corner, *cell.shape)


def _vrt(root: Path, lattice: Lattice, files: Mapping[str, CellRecord]) -> bytes:
    """Document of one band; the first of its files tells what is alike in all."""
    whole = union([_window(cell) for cell in files.values()])
    with rasterio.open(root / next(iter(files)), driver="GTiff") as file:
        kind, nodata = _TYPES[file.dtypes[0]], repr(file.nodata)
        told = {"Description": file.descriptions[0], "NoDataValue": nodata, "UnitType": file.units[0]}
        told |= {"Offset": "0", "Scale": repr(file.scales[0])}
    top = ET.Element("VRTDataset", rasterXSize=str(whole.width), rasterYSize=str(whole.height))
    ET.SubElement(top, "SRS").text = pyproj.CRS(lattice.crs).to_wkt("WKT2_2019")
    ET.SubElement(top, "GeoTransform").text = _geotransform(lattice, whole)
    band = ET.SubElement(top, "VRTRasterBand", dataType=kind, band="1")
    for tag, text in told.items():
        ET.SubElement(band, tag).text = text
    for path, cell in files.items():
        # A SimpleSource would lay its missing pixels over a neighbour's: windows of cells overlap if no rectangles.
        source = ET.SubElement(band, "ComplexSource")
        ET.SubElement(source, "SourceFilename", relativeToVRT="1").text = f"../{path}"
        ET.SubElement(source, "SourceBand").text = "1"
        _rectangle(source, "SrcRect", 0, 0, cell)
        place = _window(cell)
        _rectangle(source, "DstRect", place.col - whole.col, place.row - whole.row, cell)
        ET.SubElement(source, "NODATA").text = nodata
    ET.indent(top)
    document: bytes = ET.tostring(top, encoding="utf-8", xml_declaration=True)
    return document


def _geotransform(lattice: Lattice, window: Window) -> str:
    return ", ".join(repr(float(n)) for n in lattice.transform(window).to_gdal())


def _rectangle(source: ET.Element, tag: str, left: int, top: int, cell: CellRecord) -> None:
    height, width = cell.shape
    ET.SubElement(source, tag, xOff=str(left), yOff=str(top), xSize=str(width), ySize=str(height))


def _index(lattice: Lattice, cells: Sequence[CellRecord]) -> bytes:
    """GeoPackage with a row a cell: its outline, and the path of each band; ``location`` is the first one's."""
    import pyogrio  # noqa: PLC0415  (a second GDAL, which only this needs)

    bands = list(dict.fromkeys(name for cell in cells for name in cell.files))
    fields: dict[str, list[str]] = {"cell": [c.id for c in cells]}
    for name in ("location", *bands):
        band = bands[0] if name == "location" else name
        fields[name] = [f"../{c.files[band]}" if band in c.files else "" for c in cells]
    whole = union([_window(cell) for cell in cells])
    grid = {"XSIZE": str(whole.width), "YSIZE": str(whole.height), "GEOTRANSFORM": _geotransform(lattice, whole)}
    boxes = [shapely.box(*lattice.bounds(_window(cell))) for cell in cells]
    buffer = io.BytesIO()
    before = {key: pyogrio.get_gdal_config_option(key) for key in _SAME}
    pyogrio.set_gdal_config_options(_SAME)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a CRS without a code
            pyogrio.raw.write(
                buffer, shapely.to_wkb(boxes), [np.array(v, object) for v in fields.values()], list(fields),
                driver="GPKG", layer=_LAYER, geometry_type="Polygon", crs=lattice.crs, layer_metadata=grid,
                dataset_options=_READ_BY_ALL,
            )  # fmt: skip
    finally:
        pyogrio.set_gdal_config_options(before)
    return buffer.getvalue()


_SAME = {"OGR_CURRENT_DATE": "2000-01-01T00:00:00.000Z"}
"""A GeoPackage holds the time of its making; without it, the same build gives the same bytes."""

_READ_BY_ALL = {"VERSION": "1.2"}
"""Of the format: older GDAL warns of newer ones."""
