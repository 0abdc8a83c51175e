"""Features in a folder: Zarr for arrays, GeoParquet for places, a STAC item; what is done is known by a ledger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import shapely
import zarr
from zarr.codecs import BloscCodec

from catalog.publish.footprints import enclosing_box, footprint
from catalog.publish.public import shown
from cube.job.store import consolidate
from stratacube.errors import UsageError
from stratacube.files import whole_file, write_json
from stratacube.guard import guarded
from training.pooling import Scratch

__all__ = ["FeatureStore", "Place"]

TOKENS = ("sample", "frame", "group", "y", "x", "feature")
_PARQUET = "application/vnd.apache.parquet"


@dataclass(frozen=True)
class Place:
    """Where and when the cells of a sample lie."""

    rings: npt.NDArray[np.float64]
    """(cells down, cells across, points, 2): longitudes and latitudes in degrees; not finite where there is none."""
    times: npt.NDArray[np.datetime64]
    """Of its frames."""
    number: int = 0
    """Of its tile in the store, or of its first frame in the cube."""


class FeatureStore:
    """A folder of features.

    Parameters
    ----------
    folder
        Where.
    about
        What the features are of: model, source and settings. A folder of other features is refused.
    shape
        Samples, frames, groups, rows and columns of patches, and width.
    cell
        Rows and columns of patches that are pooled into one row of the table.
    tokens
        Keep the features of every patch; else pooled ones alone.
    strip
        Rows of patches that are written together.
    ours
        Whether this process keeps the ledger; a worker's driver does for it.
    """

    def __init__(
        self,
        folder: Path,
        about: dict[str, Any],
        shape: tuple[int, int, int, int, int, int],
        cell: tuple[int, int],
        *,
        tokens: bool,
        strip: int,
        ours: bool = True,
    ) -> None:
        self.folder, self.about, self.cell, self.tokens = folder, about, cell, tokens
        path = folder / "features.zarr"
        if path.exists():
            with guarded(f"{path} cannot be read as features", "give another folder"):
                self.group = zarr.open_group(path, mode="r+")
                before: Any = dict(self.group.attrs)["about"]
            before, now = shown(before), json.loads(json.dumps(shown(about)))  # of before, with the source's folders
            if before != now:
                wrong = sorted(k for k in {*before, *now} if before.get(k) != now.get(k))
                raise UsageError(f"{folder} holds features of another {', '.join(wrong)}; give another `output_dir`")
        else:
            self.group = self._create(path, shape, strip)
        self.scratch = Scratch(folder / "strips")
        self._ledger = folder / "done.jsonl"
        self.done = self._read_done() if ours else set()

    def _create(self, path: Path, shape: tuple[int, ...], strip: int) -> zarr.Group:
        samples, frames, groups, rows, columns, width = shape
        cells = -(-rows // self.cell[0]), -(-columns // self.cell[1])
        group = zarr.open_group(path, mode="w", attributes={"about": self.about})

        def array(name: str, dims: Sequence[str], sides: Sequence[int], chunks: Sequence[int], kind: str) -> None:
            fill = np.nan if kind == "f4" else np.iinfo("i8").min
            attributes: Any = {"units": "microseconds since 1970-01-01"} if name == "time" else {}
            group.create_array(
                name, shape=tuple(sides), dtype=kind, chunks=tuple(chunks), fill_value=fill,
                dimension_names=tuple(dims), attributes=attributes, compressors=BloscCodec(cname="zstd", clevel=3),
            )  # fmt: skip

        pooled = ("sample", "cell_y", "cell_x", "group", "feature")
        array("pooled", pooled, (samples, *cells, groups, width), (1, *cells, groups, width), "f4")
        array("valid_share", pooled[:3], (samples, *cells), (1, *cells), "f4")
        array("time", ("sample", "frame"), (samples, frames), (samples, frames), "i8")
        if self.tokens:
            array("tokens", TOKENS, shape, (1, frames, groups, strip, columns, width), "f4")
            array("weight", TOKENS[:-1], shape[:-1], (1, frames, groups, strip, columns), "f4")
        return group

    def array(self, name: str) -> Any:
        """One of the arrays: tokens, weight, pooled, valid_share or time."""
        return self.group[name]

    def write(self, name: str, place: tuple[Any, ...], values: Any) -> None:
        """Write a part of an array."""
        self.array(name)[place] = values

    def mark(self, sample: int) -> None:
        """Record that a sample is there."""
        with self._ledger.open("a") as file:
            file.write(json.dumps([sample, None]) + "\n")
        self.done.add(sample)

    def _read_done(self) -> set[int]:
        if not self._ledger.exists():
            return set()
        found = set()
        for line in self._ledger.read_text().splitlines():
            with suppress(ValueError, TypeError):  # a last line that was cut off
                sample, strip = json.loads(line)
                if strip is None:  # those before had lines of strips too, whose sums are not kept
                    found.add(int(sample))
        self._ledger.write_text("".join(json.dumps([entry, None]) + "\n" for entry in sorted(found)))
        return found

    def finish(self, places: Sequence[Place], title: str, links: list[dict[str, str]]) -> None:
        """Consolidate, and write the table of places and the STAC item.

        Parameters
        ----------
        places
            Of each sample.
        title
            Of the item.
        links
            Of the item: the model and the source.
        """
        consolidate(self.folder / "features.zarr")
        table, boxes = self._table(places)
        with whole_file(self.folder / "features.parquet") as part:
            table.to_parquet(part)
        write_json(self.folder / "item.json", self._item(table, boxes, title, links))

    def _table(self, places: Sequence[Place]) -> tuple[geopandas.GeoDataFrame, list[Any]]:
        rows, shapes, boxes = [], [], []
        for sample, place in enumerate(places):
            pooled, share = self.array("pooled")[sample], self.array("valid_share")[sample]
            times = place.times[~np.isnat(place.times)]
            span = (times.min(), times.max()) if times.size else (np.datetime64("NaT"),) * 2
            for y, x in np.ndindex(share.shape):
                ring = place.rings[y, x]
                ring = ring[np.isfinite(ring).all(axis=1)]
                if not share[y, x] > 0 or len(ring) < 3:
                    continue
                geometry, box = footprint(ring)
                boxes.append(box)
                shapes.append(shapely.geometry.shape(geometry))
                rows.append(
                    (sample, place.number, y, x, *span, float(share[y, x]), pooled[y, x].ravel().astype("f4").tolist())
                )
        names = ["sample", "number", "cell_y", "cell_x", "start", "end", "valid_share", "features"]
        columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
        return geopandas.GeoDataFrame(columns, geometry=shapes, crs="EPSG:4326"), boxes

    def _item(self, table: geopandas.GeoDataFrame, boxes: list[Any], title: str, links: Any) -> dict[str, Any]:
        box = enclosing_box(boxes) if boxes else None
        start, end = (table[name].dropna() for name in ("start", "end"))
        moments = {"datetime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        if len(start):
            first, last = (f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in (start.min(), end.max()))
            moments = {"datetime": None, "start_datetime": first, "end_datetime": last}  # type: ignore[dict-item]
        assets = {
            "features": ("features.zarr", "application/vnd.zarr; version=3", "Features", ["data"]),
            "table": ("features.parquet", _PARQUET, "Pooled features with their places", ["index"]),
            "map": ("map.png", "image/png", "Principal components in red, green and blue", ["overview"]),
        }
        return {
            "type": "Feature",
            "stac_version": "1.1.0",
            "stac_extensions": [],
            "id": self.folder.resolve().name,
            "geometry": None if box is None else shapely.geometry.mapping(shapely.unary_union(table.geometry).envelope),
            **({} if box is None else {"bbox": list(box)}),
            "properties": {"title": title, **moments, "stratacube:features": self.about},
            "links": links,
            "assets": {
                key: {"href": f"./{name}", "type": media, "title": told, "roles": roles}
                for key, (name, media, told, roles) in assets.items()
                if (self.folder / name).exists()
            },
        }
