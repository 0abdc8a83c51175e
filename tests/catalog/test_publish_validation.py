"""The validator itself: what it must refuse."""

from __future__ import annotations

import copy
import json

import pytest

from catalog.publish import publish_tiles
from tests.catalog.publishing import make_build
from tests.stac_validation import validate_stac


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    output = tmp_path_factory.mktemp("publish") / "out"
    plan, build = make_build(output, 1)
    publish_tiles(output, plan, build)
    item = json.loads(next((output / "tiles" / "items").iterdir()).read_text())
    return {"item": item, "collection": json.loads((output / "tiles" / "collection.json").read_text())}


def put(obj, path, value):
    *folders, last = path
    for key in folders:
        obj = obj[key]
    if value is None:
        del obj[last]
    else:
        obj[last] = value


PROPERTIES = ("item", "properties")
BAND = ("collection", "item_assets", "tiles", "bands", 0)
PROVIDER = ("collection", "providers", 1)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("item", "geometry", "coordinates"), [[[0, 0], [0, 1], [1, 1], [0, 0]]]),
        (("item", "stac_version"), "2.0"),
        (("item", "bbox"), [0, 0, 1, 1]),
        ((*PROPERTIES, "datetime"), "yesterday"),
        ((*PROPERTIES, "end_datetime"), "2019-01-01T00:00:00Z"),
        (("collection", "item_assets", "tiles", "proj:wkt2"), None),
        ((*PROPERTIES, "proj:shape"), [512]),
        ((*PROPERTIES, "proj:epsg"), 4326),
        ((*PROPERTIES, "goes:image_type"), "MESO"),
        ((*PROPERTIES, "goes:mesoscale_image_number"), None),
        ((*PROPERTIES, "goes:mode"), 6),
        ((*PROPERTIES, "sat:orbit_state"), "fixed"),
        ((*PROPERTIES, "view:off_nadir"), 91),
        ((*PROVIDER, "processing:software"), {"zarr": 3}),
        (("collection", "cube:dimensions", "time", "extent"), None),
        (("collection", "cube:variables", "C02", "dimensions"), None),
        ((*PROPERTIES, "file:size"), 3),
        ((*BAND, "eo:common_name"), "crimson"),
        ((*BAND, "raster:sampling"), "round"),
        ((*BAND, "data_type"), "u2"),
        (("collection", "assets", "store", "zarr:zarr_format"), 4),
        (("item", "stac_extensions", 0), "https://stac-extensions.github.io/nosuch/v1.0.0/schema.json"),
        (("collection", "extent"), None),
        (("collection", "license"), None),
        (("collection", "cube:dimensions", "tile", "extent"), None),
        (("collection", "item_assets", "tiles", "bands", 1, "eo:center_wavelength"), -1),
    ],
)
def test_a_flaw_is_found(documents, path, value):
    obj = copy.deepcopy(documents)
    put(obj, path, value)
    validate_stac(documents[path[0]])
    with pytest.raises(AssertionError):
        validate_stac(obj[path[0]])
