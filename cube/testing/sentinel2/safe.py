"""Sentinel-2 L2A products written in the real layout, for tests and the demo.

SAFE folder, JPEG2000 by OpenJPEG (lossless, tiled as ESA tiles them), ``MTD_MSIL2A.xml`` and ``MTD_TL.xml`` with the
elements and nesting of the Products Specification Document, offsets as the processing baseline has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
from affine import Affine

__all__ = ["SafeSpec", "outline", "write_safe"]

LAYOUTS = {10: (1024, 256, 64), 20: (640, 128, 8), 60: (192, 64, 4)}
"""Sides of the JPEG2000 tiles, precincts and code-blocks of ESA's files by pixel size.

Those of 10 and 60 m are of files seen; of 20 m no file was at hand to see more than the tiles.
"""

_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""In the order of the document's ``band_id``, 0 to 12."""
_OFFSET_SINCE, _OFFSET = (4, 0), -1000
"""First processing baseline whose reflectances carry an offset, and what it is (BOA_ADD_OFFSET)."""
_RENAMED_SINCE = (2, 6)
"""First processing baseline whose documents name their elements as now (issue 14.5 of the specification)."""
_FORMER = {
    "Product_Info": "L2A_Product_Info",
    "Product_Organisation": "L2A_Product_Organisation",
    "Product_Image_Characteristics": "L2A_Product_Image_Characteristics",
    "QUANTIFICATION_VALUES_LIST": "L1C_L2A_Quantification_Values_List",
    "BOA_QUANTIFICATION_VALUE": "L2A_BOA_QUANTIFICATION_VALUE",
    "PRODUCT_URI": "PRODUCT_URI_2A",
    "IMAGE_FILE": "IMAGE_FILE_2A",
    "TILE_ID": "TILE_ID_2A",
    "DATASTRIP_ID": "DATASTRIP_ID_2A",
}
"""Names of elements before then."""
_SCHEMA = "https://psd-14.sentinel2.eo.esa.int/PSD"


@dataclass(frozen=True, kw_only=True)
class SafeSpec:
    """One product to write."""

    tile: str
    """E.g. ``06WUA``."""
    epsg: int
    ulx: float
    uly: float
    """North-western corner in metres."""
    datatake_start: datetime
    datastrip_start: datetime | None = None
    """Default: three seconds after the datatake."""
    processing_time: datetime
    baseline: str = "05.10"
    platform: str = "S2A"
    relative_orbit: int = 27
    images: Mapping[str, npt.NDArray[np.integer[Any]]] = field(default_factory=dict)
    """Raw counts by asset key: ``B02_20m`` (uint16), ``SCL_20m`` (uint8)."""
    offset: int | None = None
    """BOA_ADD_OFFSET; default: what the baseline has. 0 writes none."""
    quantification: int = 10000
    sun_zenith: float = 50.0

    @property
    def id(self) -> str:
        """Product name."""
        digits = self.baseline.replace(".", "")
        return (
            f"{self.platform}_MSIL2A_{self.datatake_start:%Y%m%dT%H%M%S}_N{digits}_R{self.relative_orbit:03d}"
            f"_T{self.tile}_{self.processing_time:%Y%m%dT%H%M%S}"
        )

    @property
    def is_former(self) -> bool:
        """Whether the baseline is of those that name elements and images otherwise, such as 02.05."""
        return _parts(self.baseline) < _RENAMED_SINCE

    @property
    def strip_start(self) -> datetime:
        """Sensing start of the datastrip."""
        return self.datastrip_start or self.datatake_start + timedelta(seconds=3)

    @property
    def granule(self) -> str:
        """Name of the granule's folder."""
        return f"L2A_T{self.tile}_A026274_{self.strip_start:%Y%m%dT%H%M%S}"

    def image_path(self, key: str) -> str:
        """Path of an image below the product, without extension."""
        pixel = key.rpartition("_")[2]
        name = f"T{self.tile}_{self.datatake_start:%Y%m%dT%H%M%S}_{key}"
        if self.is_former:
            name = f"L2A_{name}"
        return f"GRANULE/{self.granule}/IMG_DATA/R{pixel}/{name}"


def write_safe(spec: SafeSpec, folder: str | Path, *, block: int | None = None, code_block: int | None = None) -> Path:
    """Write a product.

    Parameters
    ----------
    spec
        What to write.
    folder
        Where the SAFE folder goes.
    block
        Side of the JPEG2000 tiles; default: ESA's.
    code_block
        Side of their code-blocks; default: ESA's.

    Returns
    -------
    Path
        The SAFE folder.
    """
    root = Path(folder) / f"{spec.id}.SAFE"
    for key, counts in spec.images.items():
        path = root / f"{spec.image_path(key)}.jp2"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_jp2(path, counts, spec, int(key[-3:-1]), block, code_block)
    (root / "GRANULE" / spec.granule).mkdir(parents=True, exist_ok=True)
    (root / "MTD_MSIL2A.xml").write_text(_named(spec, _product_document(spec)))
    (root / "GRANULE" / spec.granule / "MTD_TL.xml").write_text(_named(spec, _granule_document(spec)))
    return root


def _parts(baseline: str) -> tuple[int, ...]:
    return tuple(int(p) for p in baseline.split("."))


def _named(spec: SafeSpec, document: str) -> str:
    """Document with the names of elements that its baseline has."""
    if not spec.is_former:
        return document
    return re.sub(r"(?<=[</])\w+(?=[ >])", lambda found: _FORMER.get(found[0], found[0]), document)


def write_jp2(
    path: Path,
    counts: npt.NDArray[np.integer[Any]],
    spec: SafeSpec,
    pixel: int,
    block: int | None = None,
    code_block: int | None = None,
) -> None:
    """Write one image, lossless, in the tiling of ESA's files."""
    usual, precinct, fine = LAYOUTS[pixel]
    side, code_side = block or usual, code_block or fine
    resolutions = min(5, max(1, int(np.log2(min(side, *counts.shape))) - 4))
    with rasterio.open(
        path,
        "w",
        driver="JP2OpenJPEG",
        height=counts.shape[0],
        width=counts.shape[1],
        count=1,
        dtype=counts.dtype,
        crs=f"EPSG:{spec.epsg}",
        transform=Affine(pixel, 0, spec.ulx, 0, -pixel, spec.uly),
        QUALITY=100,
        REVERSIBLE="YES",
        YCBCR420="NO",
        tiled=True,  # rasterio passes block sizes on only with it
        blockxsize=side,
        blockysize=side,
        RESOLUTIONS=resolutions,
        PRECINCTS=",".join(resolutions * [f"{{{precinct},{precinct}}}"]),
        CODEBLOCK_WIDTH=code_side,
        CODEBLOCK_HEIGHT=code_side,
    ) as file:
        file.write(counts, 1)


def _offset(spec: SafeSpec) -> int:
    if spec.offset is not None:
        return spec.offset
    return _OFFSET if _parts(spec.baseline) >= _OFFSET_SINCE else 0


def _product_document(spec: SafeSpec) -> str:
    images = "\n".join(f"          <IMAGE_FILE>{escape(spec.image_path(k))}</IMAGE_FILE>" for k in sorted(spec.images))
    offsets = "".join(
        f'\n        <BOA_ADD_OFFSET band_id="{i}">{_offset(spec)}</BOA_ADD_OFFSET>' for i in range(len(_BANDS))
    )
    listed = (
        f"      <BOA_ADD_OFFSET_VALUES_LIST>{offsets}\n      </BOA_ADD_OFFSET_VALUES_LIST>\n" if _offset(spec) else ""
    )
    bands = "\n".join(
        f'        <Spectral_Information bandId="{i}" physicalBand="B{b[1:].lstrip("0")}"/>'
        for i, b in enumerate(_BANDS)
    )
    strip = f"{spec.platform}_OPER_MSI_L2A_DS_2APS_{spec.processing_time:%Y%m%dT%H%M%S}"
    strip += f"_S{spec.strip_start:%Y%m%dT%H%M%S}_N{spec.baseline}"
    clouds = next((v for k, v in spec.images.items() if k.startswith("SCL")), np.zeros((1, 1), "u1"))
    seen = max(1, int((clouds > 0).sum()))
    ring = " ".join(f"{lat:.9f} {lon:.9f}" for lon, lat in outline(spec))
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-2A_User_Product xmlns:n1="{_SCHEMA}/User_Product_Level-2A.xsd">
  <n1:General_Info>
    <Product_Info>
      <PRODUCT_START_TIME>{_time(spec.datatake_start)}</PRODUCT_START_TIME>
      <PRODUCT_STOP_TIME>{_time(spec.datatake_start)}</PRODUCT_STOP_TIME>
      <PRODUCT_URI>{spec.id}.SAFE</PRODUCT_URI>
      <PROCESSING_LEVEL>Level-2A</PROCESSING_LEVEL>
      <PRODUCT_TYPE>S2MSI2A</PRODUCT_TYPE>
      <PROCESSING_BASELINE>{spec.baseline}</PROCESSING_BASELINE>
      <GENERATION_TIME>{_time(spec.processing_time)}</GENERATION_TIME>
      <Datatake datatakeIdentifier="G{spec.platform}_{spec.datatake_start:%Y%m%dT%H%M%S}_026274_N{spec.baseline}">
        <SPACECRAFT_NAME>Sentinel-{spec.platform[1:]}</SPACECRAFT_NAME>
        <DATATAKE_TYPE>INS-NOBS</DATATAKE_TYPE>
        <DATATAKE_SENSING_START>{_time(spec.datatake_start)}</DATATAKE_SENSING_START>
        <SENSING_ORBIT_NUMBER>{spec.relative_orbit}</SENSING_ORBIT_NUMBER>
        <SENSING_ORBIT_DIRECTION>DESCENDING</SENSING_ORBIT_DIRECTION>
      </Datatake>
      <Query_Options completeSingleTile="true"><PRODUCT_FORMAT>SAFE_COMPACT</PRODUCT_FORMAT></Query_Options>
      <Product_Organisation><Granule_List>
        <Granule datastripIdentifier="{strip}" granuleIdentifier="{_tile_id(spec)}" imageFormat="JPEG2000">
{images}
        </Granule>
      </Granule_List></Product_Organisation>
    </Product_Info>
    <Product_Image_Characteristics>
      <Special_Values><SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX></Special_Values>
      <Special_Values>
        <SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>65535</SPECIAL_VALUE_INDEX>
      </Special_Values>
      <QUANTIFICATION_VALUES_LIST>
        <BOA_QUANTIFICATION_VALUE unit="none">{spec.quantification}</BOA_QUANTIFICATION_VALUE>
      </QUANTIFICATION_VALUES_LIST>
{listed}      <Spectral_Information_List>
{bands}
      </Spectral_Information_List>
    </Product_Image_Characteristics>
  </n1:General_Info>
  <n1:Geometric_Info>
    <Product_Footprint><Product_Footprint><Global_Footprint>
      <EXT_POS_LIST>{ring} </EXT_POS_LIST>
    </Global_Footprint></Product_Footprint></Product_Footprint>
  </n1:Geometric_Info>
  <n1:Quality_Indicators_Info>
    <Cloud_Coverage_Assessment>{100 * np.isin(clouds, (8, 9, 10)).sum() / seen:.6f}</Cloud_Coverage_Assessment>
  </n1:Quality_Indicators_Info>
</n1:Level-2A_User_Product>
"""


def _granule_document(spec: SafeSpec) -> str:
    shapes = {int(k[-3:-1]): v.shape for k, v in spec.images.items()}
    sizes = "\n".join(
        f'      <Size resolution="{p}"><NROWS>{s[0]}</NROWS><NCOLS>{s[1]}</NCOLS></Size>'
        for p, s in sorted(shapes.items())
    )
    places = "\n".join(
        f'      <Geoposition resolution="{p}"><ULX>{spec.ulx:.0f}</ULX><ULY>{spec.uly:.0f}</ULY>'
        f"<XDIM>{p}</XDIM><YDIM>-{p}</YDIM></Geoposition>"
        for p in sorted(shapes)
    )
    strip = f"{spec.platform}_OPER_MSI_L2A_DS_2APS_{spec.processing_time:%Y%m%dT%H%M%S}"
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-2A_Tile_ID xmlns:n1="{_SCHEMA}/S2_PDI_Level-2A_Tile_Metadata.xsd">
  <n1:General_Info>
    <TILE_ID metadataLevel="Brief">{_tile_id(spec)}</TILE_ID>
    <DATASTRIP_ID metadataLevel="Standard">{strip}_S{spec.strip_start:%Y%m%dT%H%M%S}_N{spec.baseline}</DATASTRIP_ID>
    <SENSING_TIME metadataLevel="Standard">{_time(spec.strip_start)}</SENSING_TIME>
  </n1:General_Info>
  <n1:Geometric_Info>
    <Tile_Geocoding metadataLevel="Brief">
      <HORIZONTAL_CS_NAME>WGS84 / UTM zone {spec.epsg % 100:02d}{"N" if spec.epsg < 32700 else "S"}</HORIZONTAL_CS_NAME>
      <HORIZONTAL_CS_CODE>EPSG:{spec.epsg}</HORIZONTAL_CS_CODE>
{sizes}
{places}
    </Tile_Geocoding>
    <Tile_Angles metadataLevel="Standard">
      <Mean_Sun_Angle>
        <ZENITH_ANGLE unit="deg">{spec.sun_zenith}</ZENITH_ANGLE>
        <AZIMUTH_ANGLE unit="deg">160.0</AZIMUTH_ANGLE>
      </Mean_Sun_Angle>
    </Tile_Angles>
  </n1:Geometric_Info>
</n1:Level-2A_Tile_ID>
"""


def _tile_id(spec: SafeSpec) -> str:
    made = f"{spec.processing_time:%Y%m%dT%H%M%S}"
    return f"{spec.platform}_OPER_MSI_L2A_TL_2APS_{made}_A026274_T{spec.tile}_N{spec.baseline}"


def outline(spec: SafeSpec) -> list[tuple[float, float]]:
    """Return the ring of (longitude, latitude) round a product's pixels."""
    pixel, (rows, cols) = next(((int(k[-3:-1]), v.shape) for k, v in spec.images.items()), (20, (1, 1)))
    right, bottom = spec.ulx + cols * pixel, spec.uly - rows * pixel
    x = [spec.ulx, right, right, spec.ulx, spec.ulx]
    y = [spec.uly, spec.uly, bottom, bottom, spec.uly]
    lon, lat = pyproj.Transformer.from_crs(spec.epsg, 4326, always_xy=True).transform(x, y)
    return list(zip(map(float, lon), map(float, lat), strict=True))


def _time(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds") + "Z"
