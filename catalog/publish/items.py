"""STAC items of tiles: what tells one from another. What all have in common stands in their collection, once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from catalog.publish import vocabulary as voc
from catalog.publish.assets import STORE, THUMBNAIL
from catalog.publish.footprints import footprint
from catalog.publish.frame import Geostationary, TileFrame, geostationary
from catalog.publish.model import TileBuild
from catalog.publish.public import shown, without_folders
from catalog.publish.sources import source_end, source_href
from catalog.publish.values import as_list, number, relative, timestamp
from stratacube.errors import SourceError, UsageError

__all__ = ["TileDescriber"]

EXTENSIONS = (voc.PROJECTION, voc.VIEW)


@dataclass(frozen=True)
class TileDescriber:
    """Turns rows of a plan into STAC items.

    Parameters
    ----------
    output
        The folder with the store and the previews.
    build
        What the tiles are of.
    linked
        Whether the items of their scans lie beside them, to be linked to.
    placed
        Whether the collection tells the CRS, which all tiles share.
    """

    output: Path
    build: TileBuild
    linked: bool = True
    placed: bool = False

    def item(self, row: Any, folder: str) -> dict[str, Any]:
        """Return the item of one tile.

        Parameters
        ----------
        row : named tuple
            A row of the plan.
        folder : str
            Where the item will be, relative to the output folder; its links are relative to that.

        Returns
        -------
        dict
            A STAC 1.1.0 item.

        Raises
        ------
        SourceError
            If the tile was cut from a scan that ``build.sources`` does not hold.
        UsageError
            If the tile has no footprint or its platform no projection.
        """
        if row.tile not in self.build.footprints:
            raise UsageError(f"tile {row.tile_id} has no footprint; give one for every tile of the plan")
        frame = self._frame(row)
        geometry, bbox = footprint(self.build.footprints[row.tile])
        own = self._satellite(row)
        orbit = [voc.SAT] if any(name.startswith("sat:") for name in own) else []
        return {
            "type": "Feature",
            "stac_version": voc.STAC_VERSION,
            "stac_extensions": sorted([*EXTENSIONS, *orbit, *self.build.observatory.extensions]),
            "id": row.tile_id,
            "collection": self.build.id,
            "geometry": geometry,
            "bbox": list(bbox),
            "properties": {
                "platform": self.build.observatory.platform_name(row.platform),
                **self._times(row),
                **({} if self.placed else frame.projection.proj_fields()),
                **frame.proj_fields(),
                "proj:centroid": {"lat": round(row.latitude, 6), "lon": round(row.longitude, 6)},
                **own,
                **self._view(row, frame),
                **self._provenance(row),
            },
            "links": self._links(row, folder),
            "assets": self._assets(row, folder),
        }

    @cached_property
    def _projected(self) -> dict[int, tuple[Any, Geostationary]]:
        """What was worked out of a CRS, by its identity: comparing two takes longer than describing a tile."""
        return {}

    def _frame(self, row: Any) -> TileFrame:
        build = self.build
        crs = build.projections.get(row.tile) or build.projections.get(row.platform)
        if crs is None:
            known = ", ".join(sorted(p for p in build.projections if isinstance(p, str))) or "none"
            raise UsageError(
                f"tile {row.tile_id} is of {row.platform}, but projections are given for {known}; add that platform"
            )
        if id(crs) not in self._projected:
            self._projected[id(crs)] = crs, geostationary(crs)
        return TileFrame(self._projected[id(crs)][1], row.x_left, row.y_top, build.pixel, build.tile_size)

    def _times(self, row: Any) -> dict[str, Any]:
        """Event time, and the time the scans took; the requested times where no scan is known."""
        starts = [pd.Timestamp(t) for t in as_list(row.scan_starts) if not pd.isna(t)]
        starts = starts or [pd.Timestamp(t) for t in as_list(row.requested_times)] or [row.event_time]
        ends = [source_end(self.build.sources.get(scan)) for scan in _scans(row)]
        known_ends = [end for end in ends if end is not None]
        return {
            "datetime": timestamp(row.event_time),
            "start_datetime": timestamp(min(starts)),
            "end_datetime": timestamp(max([*starts, *known_ends])),
        }

    def _satellite(self, row: Any) -> dict[str, Any]:
        sources = [self.build.sources.get(scan) for scan in _scans(row)]
        return self.build.observatory.fields(row, sources)

    def _view(self, row: Any, frame: TileFrame) -> dict[str, Any]:
        fields = {
            "view:off_nadir": frame.off_nadir,
            "view:azimuth": frame.azimuth(row.longitude, row.latitude),
        }
        angles = self.build.angles
        if angles is None or row.tile not in angles.index:
            return fields
        names = ("view_zenith", "solar_zenith", "solar_azimuth")
        view_zenith, solar_zenith, solar_azimuth = (number(angles.at[row.tile, name]) for name in names)
        if view_zenith is not None:
            fields["view:incidence_angle"] = round(view_zenith, 3)
        if solar_zenith is not None:
            fields["view:sun_elevation"] = round(90.0 - solar_zenith, 3)
        if solar_azimuth is not None:
            fields["view:sun_azimuth"] = round(solar_azimuth % 360.0, 3) % 360.0
        return fields

    def _provenance(self, row: Any) -> dict[str, Any]:
        return {
            "stratacube:tile_index": int(row.tile),
            "stratacube:stratum": row.stratum,
            **({"stratacube:split": row.split} if hasattr(row, "split") else {}),
            "stratacube:sector": row.sector,
            "stratacube:row": int(row.row),
            "stratacube:col": int(row.col),
            **_known(system_id=number(row.system_id), probability=_short(row.probability), score=_short(row.score)),
            "stratacube:scan_starts": [timestamp(t) for t in as_list(row.scan_starts)],
            **self._observed(row),
            **({} if self.linked else _known(scan_ids=[str(scan) for scan in as_list(row.scan_ids)])),
            "stratacube:window_start": int(row.window_start),
            "stratacube:window_scores": [_short(s) for s in as_list(row.window_scores)],
            **_known(missing=[str(m) for m in as_list(row.missing)], errors=self._tile_errors(row)),
        }

    def _observed(self, row: Any) -> dict[str, Any]:
        if row.tile not in self.build.observed:
            return {}
        return {"stratacube:observation_times": [timestamp(t) for t in np.asarray(self.build.observed[row.tile])]}

    def _tile_errors(self, row: Any) -> list[dict[str, str]]:
        """Return what failed for this tile, and for the whole of a scan it was cut from."""
        keys: Sequence[str] = [row.tile_id, *_scans(row)]
        return [error for key in keys for error in self._errors.get(key, [])]

    @cached_property
    def _errors(self) -> dict[str, list[dict[str, str]]]:
        """Errors by tile id; those of a whole scan by scan id."""
        errors: dict[str, list[dict[str, str]]] = defaultdict(list)
        for row in self.build.errors.astype(object).fillna("").itertuples(index=False):
            error = {"scan": str(row.scan), "file": shown(str(row.file)), "reason": without_folders(str(row.reason))}
            errors[str(row.tile or row.scan)].append(error)
        return dict(errors)

    def _links(self, row: Any, folder: str) -> list[dict[str, Any]]:
        collection = relative("tiles/collection.json", folder)
        parent = collection if folder in ("tiles", "tiles/items") else "./catalog.json"
        links = [
            {"rel": "root", "href": relative("catalog.json", folder), "type": voc.JSON_TYPE},
            {"rel": "parent", "href": parent, "type": voc.JSON_TYPE},
            {"rel": "collection", "href": collection, "type": voc.JSON_TYPE},
        ]
        for scan in _scans(row) if self.linked else ():
            if scan not in self.build.sources:
                raise SourceError(
                    f"tile {row.tile_id} was cut from scan {scan}, which is not among the "
                    f"{len(self.build.sources)} sources given; publish with the plan's own sources"
                )
            href = relative(source_href(scan, self.build.sources[scan]), folder)
            links.append({"rel": "derived_from", "href": href})
        return links

    def _assets(self, row: Any, folder: str) -> dict[str, Any]:
        store: dict[str, Any] = {"href": relative(STORE, folder), "type": voc.ZARR_TYPE, "roles": ["data"]}
        store["stratacube:tile_index"] = int(row.tile)
        picture = f"previews/{row.tile_id}.png"
        if not (self.output / picture).is_file():
            return {"tiles": store}
        return {
            "tiles": store,
            "thumbnail": {"href": relative(picture, folder), "type": THUMBNAIL["type"], "roles": ["thumbnail"]},
        }


def _known(**values: Any) -> dict[str, Any]:
    """Those of our own fields that say something."""
    return {f"stratacube:{name}": value for name, value in values.items() if value is not None and value != []}


def _short(value: Any) -> int | float | None:
    """Return a number to six digits."""
    known = number(value)
    return float(f"{known:.6g}") if isinstance(known, float) else known


def _scans(row: Any) -> list[str]:
    """Ids of the scans a tile was cut from, each once, in time order."""
    return list(dict.fromkeys(str(scan) for scan in as_list(row.scan_ids) if scan))
