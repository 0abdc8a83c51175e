"""Footprints: GeoJSON's rules, checked against areas and an independent clipper."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from shapely.geometry import shape

from catalog.publish.footprints import enclosing_box, footprint
from stratacube.errors import StratacubeError

SQUARE = [[10.0, 40.0], [10.0, 42.0], [13.0, 42.0], [13.0, 40.0]]


@pytest.mark.parametrize("ring", [SQUARE, SQUARE[::-1], [*SQUARE, SQUARE[0]]])
def test_ring_is_closed_and_counterclockwise(ring):
    geometry, box = footprint(ring)
    exterior = geometry["coordinates"][0]
    assert geometry["type"] == "Polygon"
    assert exterior[0] == exterior[-1]
    assert shapely.LinearRing(exterior).is_ccw
    assert shape(geometry).area == pytest.approx(6.0)
    assert box == (10.0, 40.0, 13.0, 42.0)


@pytest.mark.parametrize("wrap", [False, True])
def test_antimeridian_is_cut(wrap):
    ring = np.array([[178.0, -5.0], [183.0, -5.0], [184.0, 5.0], [177.0, 5.0]])
    area = shapely.Polygon(ring).area
    if wrap:
        ring[:, 0] = (ring[:, 0] + 180.0) % 360.0 - 180.0
    geometry, box = footprint(ring)
    pieces = shape(geometry)
    assert geometry["type"] == "MultiPolygon"
    assert pieces.is_valid
    assert pieces.area == pytest.approx(area)
    assert np.abs(shapely.get_coordinates(pieces)[:, 0]).max() <= 180.0
    assert box == (177.0, -5.0, -176.0, 5.0)
    assert [piece.exterior.is_ccw for piece in pieces.geoms] == [True, True]


def test_concave_ring_over_the_antimeridian_gives_three_pieces():
    ring = [[178, 0], [182, 0], [182, 1], [179, 1], [179, 2], [182, 2], [182, 3], [178, 3]]
    geometry, _ = footprint(ring)
    assert len(geometry["coordinates"]) == 3
    assert shape(geometry).area == pytest.approx(shapely.Polygon(ring).area)


def test_ring_that_touches_the_antimeridian_is_whole():
    geometry, box = footprint([[178, 0], [180, 0], [180, 2], [178, 2]])
    assert geometry["type"] == "Polygon"
    assert box == (178.0, 0.0, 180.0, 2.0)


@pytest.mark.parametrize("ring", [[[0, 0], [1, 1]], [[0, 0], [0, 0], [1, 1]], [[0, 0], [1, 0], [np.nan, np.nan]]])
def test_ring_without_area_is_refused(ring):
    with pytest.raises(StratacubeError, match="three or more finite points"):
        footprint(ring)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([(-100, 0, -90, 10), (-80, -5, -70, 5)], (-100, -5, -70, 10)),
        ([(170, 0, -175, 10), (-178, -5, -160, 5)], (170, -5, -160, 10)),
        ([(170, 0, 175, 1), (-178, 0, -160, 1)], (170, 0, -160, 1)),
        ([(-170, 0, 170, 1), (160, 0, -165, 1)], (-180, 0, 180, 1)),
        ([(20, 0, 20, 1)], (20, 0, 20, 1)),
    ],
)
def test_enclosing_box_is_the_smallest(boxes, expected):
    assert enclosing_box(boxes) == expected


def test_the_smallest_box_leaves_out_the_longest_gap():
    """Counted on a ring of whole degrees, of which each box covers some."""
    rng = np.random.default_rng(5)
    for many in (1, 2, 3, 8, 40):
        for _ in range(40):
            west, wide = rng.integers(-180, 180, many), rng.integers(0, 60, many)
            east = (west + wide + 180) % 360 - 180
            south, north = np.sort(rng.integers(-80, 80, (2, many)), axis=0)
            boxes = np.stack([west, south, east, north], axis=1).astype("f8")
            covered = {int(w + n) % 360 for w, span in zip(west, wide, strict=True) for n in range(span)}
            ends = {int(e) % 360 for e in (*west, *east)}
            gaps = [next((n for n in range(360) if (end + n) % 360 in covered | (ends - {end})), 360) for end in ends]
            free = [0 if end in covered else gap for end, gap in zip(ends, gaps, strict=True)]
            box = enclosing_box(boxes)
            assert box == enclosing_box([tuple(one) for one in boxes.tolist()])
            assert (box[1], box[3]) == (south.min(), north.max())
            assert (box[2] - box[0]) % 360 == (360 - max(free)) % 360


def test_boxes_that_touch_all_round_leave_no_gap():
    assert enclosing_box([(-180.0, 0.0, 0.0, 1.0), (0.0, 0.0, 180.0, 2.0)]) == (-180.0, 0.0, 180.0, 2.0)
