"""``python -m training.embed CHECKPOINT SOURCE``: features of tiles, of composites or of an archive.

Written are ``features.zarr`` (features of every patch with the share of its valid pixels, and pooled ones),
``features.parquet`` (GeoParquet: pooled features with place and time), ``item.json`` (STAC) and ``map.png`` (the three
main components). The same command started again goes on where it was stopped. ``--like ROW`` of features that are there
lists the cells most like one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratacube.command import Answer, Parser, add_common, run
from stratacube.errors import UsageError

if TYPE_CHECKING:
    from training.embed_sources import FeatureSource
    from training.runs import Opened

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser("python -m training.embed", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of a run, a checkpoint, or a published model")
    parser.add_argument(
        "source",
        nargs="?",
        help="tile store or its build, Zarr store of a cube, or with --grid an archive; path or URL",
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="folder of the features")
    parser.add_argument("--which", choices=("last", "best"), default="last", help="checkpoint of a run (default: last)")
    parser.add_argument("--where", help="condition on the columns of a tile store's plan (default: all tiles)")
    parser.add_argument("--bbox", nargs=4, type=float, metavar=("W", "S", "E", "N"), help="part of a cube, degrees")
    parser.add_argument("--grid", help="SOURCE is an archive for cube.open_abi, of which this group is taken: 2km, 1km")
    parser.add_argument("--start", help="first scan of an archive, UTC")
    parser.add_argument("--end", help="end of the scans of an archive, exclusive")
    parser.add_argument("--overlap", type=int, help="of neighbouring windows, pixels (default: half a window)")
    parser.add_argument("--pooled", action="store_true", help="keep pooled features only")
    parser.add_argument("--batch", type=int, default=8, help="windows encoded together (default: 8)")
    parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda (default: cpu)")
    parser.add_argument("--like", type=int, metavar="ROW", help="list the cells most like one of features.parquet")
    parser.add_argument("--neighbours", type=int, default=5, help="how many of them (default: 5)")
    add_common(parser, answers=True)
    parser.set_defaults(run=_run, resumes=True)
    return run(parser, arguments)


def _run(options: argparse.Namespace) -> Answer:
    if options.like is not None:
        return _alike(options)
    if options.source is None:
        raise UsageError("give a source: a tile store, a cube, or an archive with `grid`")
    if options.batch < 1:
        raise UsageError(f"`batch` is {options.batch}; give 1 or more")
    from training.embedding import embed  # noqa: PLC0415  (--help does not wait for torch)
    from training.runs import open_run  # noqa: PLC0415

    opened = open_run(options.checkpoint, which=options.which)
    source = _source(options, opened)
    embed(
        opened,
        source,
        options.output_dir,
        tokens=not options.pooled,
        overlap=options.overlap,
        batch=options.batch,
        device=options.device,
    )
    data = {"samples": source.samples, "output_dir": str(options.output_dir)}
    return Answer(0, (f"{source.samples} images", str(options.output_dir)), data)


def _source(options: argparse.Namespace, opened: Opened) -> FeatureSource:
    from loaders.cubes import open_cube  # noqa: PLC0415
    from training.embed_sources import CubeSource, TileSource  # noqa: PLC0415
    from training.embedding import statistics_of  # noqa: PLC0415

    config = opened.config
    statistics: Any = statistics_of(opened)
    quantity = statistics.quantity or getattr(config.data, "quantity", "")
    if options.grid is not None:
        cube = _archive(options, quantity)
        return CubeSource(cube, options.source, config.model, statistics, quantity, [quantity], options.bbox)
    cube = open_cube(options.source)
    if {"tile", "band"} <= {*map(str, cube.dims)}:
        if options.bbox is not None:
            raise UsageError("tiles are chosen by `where`, not by `bbox`")
        return TileSource(options.source, config.model, statistics, quantity, options.where)
    if options.where is not None:
        raise UsageError("cubes have no table of tiles; leave `where` out, or give `bbox`")
    return CubeSource(cube, options.source, config.model, statistics, quantity, None, options.bbox)


def _archive(options: argparse.Namespace, quantity: str) -> Any:
    from cube import open_abi  # noqa: PLC0415

    tree = open_abi(options.source, start=options.start, end=options.end, chunks=None)
    if options.grid not in tree.children:
        raise UsageError(f"`grid` is {options.grid}; the archive has {', '.join(tree.children)}")
    cube = tree[options.grid].to_dataset()
    if quantity not in cube:
        raise UsageError(
            f"the model takes {quantity}, the archive has radiance, reflectance and brightness_temperature"
        )
    return cube


def _alike(options: argparse.Namespace) -> Answer:
    from training.neighbours import nearest_cells  # noqa: PLC0415

    found = nearest_cells(options.output_dir, options.like, options.neighbours)
    lines, data = [], []
    for row, cell in found.iterrows():
        place = cell.geometry.centroid
        told = {"row": int(row), "sample": int(cell["sample"]), "similarity": round(float(cell["similarity"]), 4)}
        data.append(
            {**told, "longitude": round(place.x, 4), "latitude": round(place.y, 4), "start": str(cell["start"])}
        )
        lines.append("  ".join(f"{key} {value}" for key, value in data[-1].items()))
    return Answer(0, tuple(lines), data)


if __name__ == "__main__":
    sys.exit(main())
