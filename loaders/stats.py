"""``python -m loaders.stats STORE``: statistics of every band, in one pass over one or more tile stores."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np

from catalog.errors import StratacubeError, UsageError
from loaders.batch import Quantity
from loaders.histogram import draw_histograms
from loaders.statistics import Statistics
from loaders.store import TileStore, select
from loaders.tally import tally
from loaders.tiles import TileDataset

__all__ = ["compute_statistics", "main"]


def compute_statistics(
    stores: Sequence[Any],
    *,
    quantity: Quantity = "radiance",
    bands: Sequence[str | int] | None = None,
    where: str | None = None,
    by: str = "split",
    sample: int | None = None,
    seed: int = 0,
    workers: int = 0,
    storage_options: dict[str, Any] | None = None,
) -> Statistics:
    """Count every valid pixel of some stores.

    Parameters
    ----------
    stores
        Tile stores; their counts are put together.
    quantity
        As of :class:`loaders.batch.Decoder`.
    bands
        All by default; a native store's bands of different sizes are counted group by group.
    where
        Condition on the tiles' table.
    by
        Column of the table that splits the tiles; statistics are of each value and of all.
    sample, seed
        Look at this many tiles of each store only, drawn by the seed.
    workers
        Processes that read and count; 0 for this one.
    storage_options
        For fsspec.

    Returns
    -------
    Statistics
        With provenance: stores, fingerprints, numbers of tiles, filter, versions.

    Raises
    ------
    StratacubeError
        If a store cannot be read or holds nothing to count.
    """
    counted, described = [], []
    for source in stores:
        store = TileStore.open(source, storage_options)
        table = store.table_for(where, by)
        tiles = select(table, where)
        if sample is not None and sample < len(tiles):
            tiles = np.sort(np.random.default_rng(seed).choice(tiles, sample, replace=False))
        described.append({"store": store.url, "fingerprint": store.fingerprint, "tiles": len(tiles), "of": len(store)})
        splits = table[by].astype(str).to_numpy()[tiles] if by in table else np.full(len(tiles), "all")
        for group in _by_size(store, bands) if len(tiles) else ():
            counted.append((TileDataset(store, bands=group, where=tiles), splits.tolist()))
    total = tally(counted, workers)
    names = total.splits()
    found = {"all": total.bands(None, quantity)}
    if names != ["all"]:
        found |= {name: total.bands(name, quantity) for name in names}
    if not found["all"]:
        raise UsageError(f"no tile has a valid pixel of {quantity}; check the filter and the bands")
    provenance = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": f"stratacube {importlib.metadata.version('stratacube')}",
        "stores": described,
        "where": where,
        "by": by,
        "sample": sample,
        "seed": seed,
        "valid_pixels": int(sum(s.count for s in found["all"].values())),
        "pixels": int(sum(total.pixels.values())),
    }
    return Statistics(quantity, found, provenance)


def _by_size(store: TileStore, bands: Sequence[str | int] | None) -> list[list[str]]:
    """Names of the bands wanted, in groups of one size."""
    chosen = store.bands if bands is None else [store.choose([b])[0] for b in bands]
    return [[b.name for b in chosen if b.shape == shape] for shape in sorted({b.shape for b in chosen})]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser("python -m loaders.stats", description=__doc__)
    parser.add_argument("stores", nargs="+", metavar="STORE", help="tiles.zarr, or the folder of a build; path or URL")
    parser.add_argument("--output", type=Path, default=Path("statistics.json"), help="default: %(default)s")
    parser.add_argument("--picture", type=Path, help="histograms as PNG (default: beside the output)")
    parser.add_argument("--quantity", choices=get_args(Quantity), default="radiance")
    parser.add_argument("--bands", nargs="+", help="such as C01 C13 (default: all)")
    parser.add_argument("--where", help="condition on the plan's columns, such as \"stratum == 'random'\"")
    parser.add_argument("--by", default="split", help="column to split by (default: %(default)s)")
    parser.add_argument("--sample", type=int, help="look at this many tiles of each store only")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--workers", type=int, default=0, help="processes beside this one (default: %(default)s)")
    parser.add_argument("--anonymous", action="store_true", help="read object storage without credentials")
    args = parser.parse_args(argv)
    try:
        statistics = compute_statistics(
            args.stores,
            quantity=args.quantity,
            bands=args.bands,
            where=args.where,
            by=args.by,
            sample=args.sample,
            seed=args.seed,
            workers=args.workers,
            storage_options={"anon": True} if args.anonymous else None,
        )
        statistics.save(args.output)
        picture = args.picture or args.output.with_suffix(".png")
        draw_histograms(statistics, picture)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except StratacubeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(_table(statistics) + f"\nwritten: {args.output}, {picture}\n")
    return 0


def _table(statistics: Statistics) -> str:
    """Numbers of each split as text."""
    lines = [
        f"{'split':10} {'band':5} {'valid pixels':>14} {'mean':>10} {'std':>10} {'min':>10} {'median':>10} {'max':>10}"
    ]
    for split, bands in statistics.splits.items():
        for band, s in bands.items():
            numbers = " ".join(f"{n:10.4g}" for n in (s.mean, s.std, s.min, s.percentiles.get("50", s.mean), s.max))
            lines.append(f"{split:10} {band:5} {s.count:14d} {numbers}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
