"""Pages and drawings: what is where on a map, what charts count, and that nothing foreign gets into the markup."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import shapely

from stratacube.page import (
    Code,
    Crowd,
    Facts,
    Page,
    Place,
    Section,
    Series,
    Table,
    as_html,
    as_markdown,
    at_even_steps,
    bars,
    calendar,
    columns,
    footprint_map,
    html_of,
    lines,
)
from stratacube.page.earth import Frame

SVG = "{http://www.w3.org/2000/svg}"


def square(lon: float, lat: float, side: float = 2.0) -> np.ndarray:
    return np.array([[lon, lat], [lon + side, lat], [lon + side, lat + side], [lon, lat + side]])


def drawn(picture):
    return ElementTree.fromstring(picture.to_bytes())


@pytest.mark.parametrize(
    ("place", "is_land"),
    [
        ((-98, 39), True),
        ((-40, 40), False),
        ((134, -25), True),
        ((179, 67), True),
        ((-178, 67), True),
        ((0, -80), True),
    ],
)
def test_land_is_where_it_is(place, is_land):
    frame = Frame.around(square(*place), 600.0)
    land = shapely.union_all([shapely.make_valid(shapely.Polygon(ring)) for ring in frame.land()])
    spot = frame.pixels(np.array([place], "f8"))[0]
    assert shapely.contains_xy(land, *spot) == is_land


def test_map_is_as_wide_in_kilometres_as_it_is_high():
    frame = Frame.around(square(20, 60), 600.0)
    along, up = frame.scale
    middle = (frame.south + frame.north) / 2
    assert along / up == pytest.approx(np.cos(np.radians(middle)), rel=1e-6)
    edges = frame.pixels(np.array([[frame.middle, frame.south], [frame.middle, frame.north]]))
    assert edges.ravel() == pytest.approx([300.0, frame.height, 300.0, 0.0])
    corners = frame.pixels(square(20, 60))
    assert (corners >= 0).all()
    assert (corners <= [frame.width, frame.height]).all()


def test_footprint_over_the_antimeridian_hangs_together():
    ring = np.array([[179.0, 10], [-179.0, 10], [-179.0, 12], [179.0, 12]])
    frame = Frame.around(ring, 600.0)
    assert abs(frame.middle) == pytest.approx(180.0)
    assert frame.east - frame.west < 10
    x = frame.pixels(ring, whole=True)[:, 0]
    assert np.ptp(x) == pytest.approx(2.0 * frame.scale[0])


def test_map_tells_groups_splits_and_what_was_refused():
    places = [Place(square(n, 5), f"tile {n}", "a" if n < 3 else "b<c", "train" if n else "val") for n in range(5)]
    picture = footprint_map(places, alt="where", refused=np.array([[1.0, 6.0], [2.0, 7.0]]))
    root = drawn(picture)
    words = [node.text for node in root.iter(f"{SVG}text")]
    for told in ("a  3", "b<c  2", "train  4", "val  1", "refused  2"):
        assert told in words
    assert [n.text for n in root.iter(f"{SVG}title")][1:] == [f"tile {n}" for n in range(5)]
    assert "1°E" in words


def test_large_map_stays_small():
    places = [Place(np.array([[n % 300 / 10, n / 1000]])) for n in range(30_000)]
    picture = footprint_map(places, alt="many")
    assert len(picture.to_bytes()) < 700_000
    assert "4000 of 30000 are drawn" in picture.drawing


def test_a_map_of_some_places_tells_of_all():
    """Of very many only those that are drawn need be given, with the numbers of all."""
    rng, names = np.random.default_rng(3), np.array(["land", "sea", "ice"])
    where, groups = rng.uniform(-60, 60, (4500, 2)), names[rng.integers(0, 3, 4500)]
    places = [
        Place(p[None], str(n), str(g), "val" if n % 9 else "gap")
        for n, (p, g) in enumerate(zip(where, groups, strict=True))
    ]
    whole = Crowd(where, 4500, {n: int((groups == n).sum()) for n in names.tolist()}, {"val": 4000, "gap": 500})
    some = [places[n] for n in at_even_steps(4500)]
    grey = np.array([[70.0, 10.0]])
    alone = footprint_map(places, alt="a", refused=grey).markup()
    assert footprint_map(some, alt="a", refused=grey, crowd=whole).markup() == alone
    assert "4000 of 4500 are drawn" in alone
    assert "gap  500" in alone
    far = footprint_map(some, alt="a", refused=np.array([[150.0, 10.0]]), crowd=whole).markup()
    assert "150°E" in far  # the map reaches to what was refused
    assert "150°E" not in alone


def test_cells_are_coloured_by_their_value():
    picture = footprint_map([Place(square(0, 0), value=0.0), Place(square(3, 0), value=1.0)], alt="v", what="valid")
    colours = re.findall(r'style="color:(#\w+)" d=', picture.drawing)
    assert colours == ["#440154", "#fde725"]


def test_bars_are_as_long_as_what_was_found():
    root = drawn(bars([("random", 6, 12, ""), ("snow", 12, 12, "given up")], alt="quotas"))
    found = [float(n.get("width")) for n in root.iter(f"{SVG}rect") if n.get("class") == "solid"]
    asked = [float(n.get("width")) for n in root.iter(f"{SVG}rect") if n.get("class") == "track"]
    assert found[0] / asked[0] == pytest.approx(0.5, abs=0.01)
    assert found[1] == asked[1]


def test_calendar_shows_hours_of_few_days_and_days_of_many():
    day = date(2020, 1, 31)
    hours = {(day, 3): (6, 6, 0), (day, 4): (6, 0, 1), (date(2020, 2, 1), 0): (4, 2, 0)}
    cells = [n for n in drawn(calendar(hours, alt="c")).iter(f"{SVG}rect") if n.find(f"{SVG}title") is not None]
    assert [(c.get("class"), c[0].text) for c in cells] == [
        ("l4", "2020-01-31, utc hour 3: 6 of 6 whole"),
        ("l1 bad", "2020-01-31, utc hour 4: 0 of 6 whole, 1 unfit"),
        ("l2", "2020-02-01, utc hour 0: 2 of 4 whole"),
    ]
    hours[date(2020, 6, 1), 0] = (1, 1, 0)
    texts = [n.text for n in drawn(calendar(hours, alt="c")).iter(f"{SVG}title")]
    assert "2020-01, day 31: 6 of 12 whole, 1 unfit" in texts
    assert "2020-06, day 1: 1 of 1 whole" in texts


def test_lines_leave_out_what_is_not_finite():
    picture = lines([Series("a", [0, 1, 2, 3], [1, np.nan, 3, 4]), Series("b", [0], [2])], alt="l", x="step", y="loss")
    path = next(n.get("d") for n in drawn(picture).iter(f"{SVG}path") if n.get("class") == "run")
    assert path.count("L") == 2
    assert lines([], alt="none", x="", y="").height < 10


def test_file_that_stands_alone_and_what_a_notebook_shows(tmp_path: Path):
    picture = bars([("a", 1, 2, "")], alt="a & b")
    path = picture.save(tmp_path / "quota")
    assert path.name == "quota.svg"
    assert ElementTree.parse(path).getroot().find(f"{SVG}title").text == "a & b"
    assert picture._repr_mimebundle_()["image/svg+xml"] == path.read_text()


def test_foreign_text_is_text():
    evil = "<img src=x onerror=alert(1)>"
    page = html_of(
        Page(
            evil,
            evil,
            [evil, Facts([(evil, evil, evil)])],
            [Section(evil, [Table([evil], [[evil]]), Code(evil)])],
            evil,
        )
    )
    assert "<img" not in page
    assert "onerror=alert(1)&gt;" in page
    place = Place(square(0, 0), evil, evil, link='"><script>')
    assert "<img" not in footprint_map([place], alt=evil).markup()
    assert "<script" not in footprint_map([place], alt=evil).markup()


def test_blocks_are_told_in_both_ways():
    table = Table(["Name", "Count"], [("a|b", 3), ("c", 4)])
    blocks = ["**Two** of `x`.", table, Code("print(1)"), Facts([("a", "1", "")])]
    assert as_markdown(blocks) == (
        "**Two** of `x`.\n\n| Name | Count |\n| --- | ---: |\n| a\\|b | 3 |\n| c | 4 |\n\n```python\nprint(1)\n```"
    )
    html = as_html(blocks)
    assert "<strong>Two</strong> of <code>x</code>." in html
    assert '<td class="n">3</td>' in html


def test_each_of_a_few_columns_has_its_name():
    rows = [("2020-07-01", 24, ""), ("2021-06-01", 30, ""), ("2021-07-01", 1, "")]
    picture = drawn(columns(rows, alt="Items by day"))
    written = [text.text for text in picture.iter(f"{SVG}text")]
    assert [name for name, _, _ in rows if name not in written] == []
