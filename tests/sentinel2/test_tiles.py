"""Where tiles lie: against the real metadata, and against the military grid by pyproj."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pyproj
import pytest

from catalog.sentinel2.tiles import beside, check_grid, size_remark, tile_bbox, tile_grid, touches
from stratacube.errors import SourceError
from tests.sentinel2.squares import square_at


def test_every_band_of_several_zones() -> None:
    """A place lies in the tile that is named after its square, and that tile begins at the square's corner."""
    places = 0
    for zone in (1, 2, 3, 30, 31, 60):
        for lat in [x / 4 for x in range(-319, 336, 5)]:
            epsg = (32600 if lat >= 0 else 32700) + zone
            x, y = pyproj.Transformer.from_crs(4326, epsg, always_xy=True).transform(6 * zone - 183 + 0.4, lat)
            code, ulx, uly = tile_grid(square_at(x, y, epsg))
            assert code == f"EPSG:{epsg}"
            assert 0 <= x - ulx < 100_060
            assert 0 <= uly - y < 100_060
            assert 0 <= x // 100_000 * 100_000 - ulx < 60
            assert ulx % 60 == 0
            places += 1
    assert places > 700


def test_tiles_of_all_real_metadata(data_folder: Path) -> None:
    """But for three copies of a sample whose metadata was made from that of its neighbour (its tileInfo says BP)."""
    root = data_folder / "sentinel2"
    if not root.is_dir():
        pytest.skip(f"{root} is not here")
    seen, wrong = set(), set()
    for path in (*root.rglob("*MTD_*.xml"), *root.rglob("metadata.xml"), *root.rglob("granule_metadata.xml")):
        document = ET.parse(path).getroot()
        told = document.findtext(".//TILE_ID") or document.findtext(".//TILE_ID_2A") or ""
        tile = re.search(r"_T(\d{2}[A-Z]{3})_", told)
        if tile is None:
            continue
        sizes = {s.get("resolution"): s for s in document.iter("Size")}
        for place in document.iter("Geoposition"):
            rows, cols = (int(sizes[place.get("resolution")].findtext(n) or 0) for n in ("NROWS", "NCOLS"))
            ulx, uly, dx, dy = (float(place.findtext(n) or 0) for n in ("ULX", "ULY", "XDIM", "YDIM"))
            code = document.findtext(".//HORIZONTAL_CS_CODE")
            assert size_remark((rows, cols), (dx, 0, ulx, 0, dy, uly)) == ""
            seen.add(tile[1])
            try:
                check_grid("x", tile[1], code, (rows, cols), (dx, 0, ulx, 0, dy, uly))
            except SourceError:
                wrong.add(path.parent.name)
    assert len(seen) >= 20
    assert wrong == {
        name for name in (p.parent.name for p in root.rglob("tileInfo.json")) if "T34LBQ" in name
    }  # fmt: skip
    assert json.loads(next(root.rglob("*T34LBQ/tileInfo.json")).read_text())["gridSquare"] == "BP"


@pytest.mark.parametrize("tile", ["61TWL", "00TWL", "33IWL", "33TIL", "33TWO", "32TWL", "33AWL", "3TWL", "33TWLX"])
def test_names_of_no_tile(tile: str) -> None:
    with pytest.raises(SourceError, match=tile):
        tile_grid(tile)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"shape": (400, 300), "transform": (20, 0, 520000, 0, -20, 5060000)}, ""),
        ({"transform": (20, 0, 519980, 0, -20, 5100000)}, "begins at 519980 5100000"),
        ({"transform": (20, 0, 500000, 0, -20, 5100000)}, "begins at 500000"),
        ({"transform": (20, 0, 499980, 0, -20, 5100020)}, "begins at 499980 5100020"),
        ({"transform": (20, 0, 499980, 0, -20, 5000000)}, "begins at"),
        ({"transform": (20, 0, 499960, 0, -20, 5100000)}, "begins at"),
        ({"shape": (5491, 5490)}, "are not the grid of a tile"),
        ({"shape": (0, 5490)}, "are not the grid of a tile"),
        ({"transform": (20, 1, 499980, 0, -20, 5100000)}, "are not the grid of a tile"),
        ({"transform": (20, 0, 499980, 0, -10, 5100000)}, "are not the grid of a tile"),
        ({"transform": (float("nan"), 0, 499980, 0, -20, 5100000)}, "are not the grid of a tile"),
        ({"transform": (20, 0, float("nan"), 0, -20, 5100000)}, "are not the grid of a tile"),
        ({"shape": (5490, 2000), "transform": (20, 0, 519980, 0, -20, 5090000)}, ""),
        ({"proj_code": "EPSG:32634"}, "said to be in EPSG:32634"),
        ({"proj_code": None}, "said to be in None"),
        ({"tile": "33TVL"}, "tile 33TVL lies in EPSG:32633 with its corner at 399960 5100000"),
    ],
)
def test_grids_of_33twl(changes: dict[str, object], words: str) -> None:
    usual = {
        "name": "x",
        "tile": "33TWL",
        "proj_code": "EPSG:32633",
        "shape": (5490, 5490),
        "transform": (20, 0, 499980, 0, -20, 5100000),
    }
    if words:
        with pytest.raises(SourceError, match=rf"^x: .*{words}"):
            check_grid(**{**usual, **changes})  # type: ignore[arg-type]
    else:
        check_grid(**{**usual, **changes})  # type: ignore[arg-type]


def test_ground_of_tiles() -> None:
    west, south, east, north = tile_bbox("33TWL")
    assert (west, north) == pytest.approx((15.0, 46.05), abs=0.02)
    assert (east, south) == pytest.approx((16.42, 45.06), abs=0.03)
    west, _, east, _ = tile_bbox("01WCS")
    assert west > 170 > -170 > east
    assert touches(tile_grid("01WCS").ground, (179.0, 68.9, 180.0, 69.0))
    assert touches(tile_grid("01WCS").ground, (-180.0, 68.9, -179.9, 69.0))
    assert not touches(tile_grid("01WCS").ground, (0.0, 68.9, 10.0, 69.0))
    assert not touches(tile_grid("33TWL").ground, (16.5, 45.0, 17.0, 46.0))


def test_what_is_odd_about_a_grid_is_told() -> None:
    at = (20, 0, 499980, 0, -20, 5100000)
    assert size_remark((5490, 5490), at) == "" == size_remark(None, None)
    assert size_remark((915, 915), (120, *at[1:4], -120, at[5])) == ""
    assert size_remark((240, 64), at) == "240 x 64 pixels of 20 m where a whole tile has 5490 x 5490"
    assert not beside("33TWL", (240, 64), at)
    assert beside("33TWL", (240, 64), (*at[:2], 499960, *at[3:]))
    assert beside("33TWL", (240, 64), (*at[:5], 5100020))
    last = 499980 + 109800 - 64 * 20, 5100000 - 109800 + 240 * 20
    assert not beside("33TWL", (240, 64), (20, 0, last[0], 0, -20, last[1]))
    assert beside("33TWL", (240, 64), (20, 0, last[0] + 20, 0, -20, last[1]))
    assert beside("33TWL", (240, 64), (20, 0, last[0], 0, -20, last[1] - 20))
