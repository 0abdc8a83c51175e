"""Publishes a tile build: items, collection, index, and last the catalogue that leads to them."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from catalog.publish import vocabulary as voc
from catalog.publish.assets import STORE
from catalog.publish.cards import CARD, CROISSANT, write_cards
from catalog.publish.collection import Tally, collection, day_catalog, root_catalog
from catalog.publish.datacube import describe_store
from catalog.publish.frame import Geostationary, geostationary
from catalog.publish.geoparquet import ItemModel, seen_from, write_index
from catalog.publish.items import TileDescriber
from catalog.publish.model import TileBuild
from catalog.publish.sources import SOURCES, source_item
from catalog.publish.values import as_list
from stratacube.errors import StratacubeError, UsageError
from stratacube.files import aside, check_guards, remove, tell_folder, write_bytes, write_json, write_text

__all__ = ["publish_tiles"]

FLAT_LIMIT = 1000
"""Up to so many tiles the collection links its items itself; beyond that, one catalogue a day does."""
FILES_LIMIT = 10_000
"""Up to so many tiles each has a file of its own, and so has each scan; more are in tables alone. A file system takes
longer to make a million files than a build takes to make its tiles, and nobody opens them one by one."""


Blocks = Callable[[Sequence[str] | None], Iterable[pd.DataFrame]]
"""Rows of a plan block by block, in order of tile, with some columns or all."""


def publish_tiles(
    output: Path, plan: pd.DataFrame | Blocks, build: TileBuild, prepared: Callable[[], None] = lambda: None
) -> Path:
    """Write the STAC catalogue of a tile store.

    Written are ``tiles/`` (collection, items, ``items.parquet``), ``sources/`` (the item of each scan used)
    and ``catalog.json``. Beyond :data:`FILES_LIMIT` tiles the items are in ``items.parquet`` alone; beyond as many
    scans, these are in the table that the collection names as ``sources``. All is prepared aside; then the old
    catalogue is taken away, the folders are exchanged, and the new ``catalog.json`` is put in place last: where there
    is one, it is whole. Running it again replaces everything. The bytes depend on the arguments and the files at hand
    alone.

    Parameters
    ----------
    output : Path
        Folder of the build. It holds ``tiles.zarr``; ``previews/<tile id>.png``, ``report.md`` and the other
        companions become assets where they are.
    plan : DataFrame or callable
        The tiles to publish: rows of ``plan.parquet`` whose tile was built. Of very many, what yields them block by
        block in order of tile, when called with the names of columns, or None for all.
    build : TileBuild
        What is said of the build as a whole.
    prepared : callable
        Called when all is prepared, before anything is exchanged: for what tells how long this took.

    Returns
    -------
    Path
        ``catalog.json``.

    Raises
    ------
    UsageError
        If there is no tile, two tiles share an id, a footprint or projection is missing, or ``output`` cannot
        be written or holds folders of these names that are not a catalogue's.
    SourceError
        If the store cannot be opened or a source scan is unknown.
    """
    blocks: Blocks = (lambda _: [plan.sort_values("tile")]) if isinstance(plan, pd.DataFrame) else plan
    number = _counted(blocks, output)
    _refuse_foreign(output)
    stage = aside(output / "tiles")
    try:
        stage.mkdir(parents=True)
        _write_tree(output, stage, blocks, number, build)
        prepared()
        return _exchange(output, stage, root_catalog(build))
    except StratacubeError:
        raise
    except OSError as error:
        raise UsageError(
            f"the catalogue cannot be written to {output} ({error.strerror or error}); "
            "make room or choose another folder"
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _counted(blocks: Blocks, output: Path) -> int:
    """Return how many tiles there are, each of a name of its own."""
    names = pd.Index([name for block in blocks(["tile_id"]) for name in block["tile_id"]])
    if names.empty:
        raise UsageError(f"no tile of {output} was built, so there is nothing to publish; see errors.csv")
    if not names.is_unique:
        raise UsageError(f"the plan has tile {names[names.duplicated()][0]} twice; tile ids must be unique")
    return len(names)


def _write_tree(output: Path, stage: Path, blocks: Blocks, number: int, build: TileBuild) -> None:
    """Write ``tiles/`` and ``sources/`` below ``stage``."""
    store = describe_store(output / STORE)
    cut = (scans for block in blocks(["scan_ids"]) for scans in block["scan_ids"])
    scans = sorted({scan for names in cut for scan in as_list(names) if scan})
    linked = len(scans) <= FILES_LIMIT
    shared = _shared_projection(blocks, build)
    describer = TileDescriber(output, build, linked, shared is not None)
    tally, model = Tally(build.observatory.summarised), ItemModel()
    by_day: dict[str, list[str]] = defaultdict(list)
    (stage / "tiles").mkdir()
    lines = stage / "items.ndjson"
    with lines.open("w", encoding="utf-8") as all_items:
        for row, folder in _placed(blocks, number):
            item = describer.item(row, folder)
            all_items.write(_line(seen_from(item, folder, "tiles")))
            tally.add(item)
            model.add(item)
            if folder != "tiles":
                by_day[folder].append(row.tile_id)
                write_text(stage / folder / f"{row.tile_id}.json", _line(item))
    (stage / SOURCES).mkdir()
    sources = _sources(build, scans)
    described = collection(output, build, store, tally, shared)
    if linked:
        for scan, source in sources:
            write_json(stage / SOURCES / f"{scan}.json", source, indent=None)
    elif "sources" not in described["assets"]:
        described["assets"] |= _write_sources(stage, (source for _, source in sources))
    write_cards(stage, output, described, STORE, "plan.parquet")
    write_index(lines, stage / "tiles" / "items.parquet", described, model)
    lines.unlink()
    described["links"] += _children(stage, build, by_day)
    write_json(stage / "tiles" / "collection.json", described)


def _sources(build: TileBuild, scans: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Items of scans, by their ids, of which not the address alone is known."""
    for scan in scans:
        source = build.sources[scan]
        if not isinstance(source, str):
            yield scan, source_item(source, build.observatory.public_address)


def _write_sources(stage: Path, items: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Write the scans in one table, for the list that they were found in names files of this machine."""
    lines, model = stage / "sources.ndjson", ItemModel()
    with lines.open("w", encoding="utf-8") as all_items:
        for item in items:
            all_items.write(_line(item))
            model.add(item)
    if model.count:
        write_index(lines, stage / SOURCES / "sources.parquet", None, model)
    lines.unlink()
    title = "Source scans, in one stac-geoparquet table"
    told = {"href": f"../{SOURCES}/sources.parquet", "type": voc.PARQUET_TYPE, "title": title, "roles": ["metadata"]}
    return {"sources": told} if model.count else {}


def _line(item: dict[str, Any]) -> str:
    return json.dumps(item, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def _shared_projection(blocks: Blocks, build: TileBuild) -> Geostationary | None:
    """Return the projection of all tiles, if it is one."""
    places = (
        place for block in blocks(["tile", "platform"]) for place in zip(block["tile"], block["platform"], strict=True)
    )
    views = (build.projections.get(tile) or build.projections.get(platform) for tile, platform in places)
    first = next(views)
    return geostationary(first) if first is not None and all(crs is first for crs in views) else None


def _placed(blocks: Blocks, number: int) -> Iterator[tuple[Any, str]]:
    """Rows of a plan with the folder of their item; that of the table where it has no file of its own."""
    one = "tiles" if number > FILES_LIMIT else "tiles/items" if number <= FLAT_LIMIT else None
    for block in blocks(None):
        days = block["event_time"].dt.strftime("%Y-%m-%d")
        for row, day in zip(block.itertuples(index=False), days, strict=True):
            yield row, one or f"tiles/{day}"


def _children(stage: Path, build: TileBuild, by_day: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Links of the collection to its items, or to the catalogues of the days, which are written; or none."""
    if not by_day:
        return []
    if list(by_day) == ["tiles/items"]:
        ids = by_day["tiles/items"]
        return [{"rel": "item", "href": f"./items/{i}.json", "type": voc.GEOJSON_TYPE, "title": i} for i in ids]
    links = []
    for folder, ids in sorted(by_day.items()):
        day = folder.removeprefix("tiles/")
        write_json(stage / folder / "catalog.json", day_catalog(build, day, ids))
        links.append({"rel": "child", "href": f"./{day}/catalog.json", "type": voc.JSON_TYPE, "title": day})
    return links


def _refuse_foreign(output: Path) -> None:
    """Refuse to replace folders that are there but were not written here."""
    # One file of ours is enough: another may have been lost, which is why the folder is written anew.
    for name, ours in (("tiles", ("collection.json", "items.parquet")), (SOURCES, ("*.json", "sources.parquet"))):
        folder = output / name
        if folder.is_dir() and any(folder.iterdir()) and not any(any(folder.glob(o)) for o in ours):
            raise UsageError(f"{folder} is there but is not part of a catalogue; move it away or choose another folder")


def _exchange(output: Path, stage: Path, catalog: dict[str, Any]) -> Path:
    """Put the staged folders in the place of the old ones, then the catalogue."""
    path = output / "catalog.json"
    remove(path)
    for name in ("tiles", SOURCES):
        remove(output / name)
        check_guards(output)
        (stage / name).rename(output / name)
        tell_folder(output / name)
    for name in (CARD, CROISSANT):
        write_bytes(output / name, (stage / name).read_bytes())
    write_json(path, catalog)
    return path
