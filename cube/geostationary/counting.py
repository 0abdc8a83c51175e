"""Statistics of a build as its tiles are cut: how often each count occurs, by stratum and split, in no second pass.

The same tables as ``loaders.stats`` makes by reading a store, and the same numbers of them.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cube.geostationary.layout import TileLayout
from cube.summary import FORMAT, BandStatistics, describe, physical_of, rounded_numbers
from stratacube.files import write_bytes, write_text
from stratacube.guard import guarded

__all__ = ["BandCounts", "Counts", "count_band", "read_counts", "write_counts", "write_statistics"]

Key = tuple[str, int, tuple[float, ...]]
"""Label of the tiles, channel, and the numbers that counts are decoded by."""
Counts = dict[Key, npt.NDArray[np.int64]]
"""By key, how often each count occurs, from 0 to the greatest that does."""
BandCounts = dict[tuple[int, int], npt.NDArray[np.int64]]
"""The same of one band by tile and step."""


def count_band(
    counts: npt.NDArray[np.uint16], mask: npt.NDArray[Any], bit: int, valid: npt.NDArray[np.int64]
) -> BandCounts:
    """Count the valid pixels of one band of a shard's tiles.

    Parameters
    ----------
    counts
        (tile, step, y, x).
    mask
        Of the same shape; pixels are valid where ``bit`` is set.
    bit
        Of the band.
    valid
        (tile, step): how many pixels are valid.
    """
    found: BandCounts = {}
    size = counts[0, 0].size
    for tile, step in zip(*(place.tolist() for place in np.nonzero(valid)), strict=True):
        image = counts[tile, step]
        few = valid[tile, step] < size
        table = np.bincount(image[mask[tile, step] & bit != 0] if few else image.ravel())
        found[tile, step] = table
    return found


def _add(total: Counts, key: Key, table: npt.NDArray[np.int64]) -> None:
    there = total.get(key)
    if there is None or len(there) < len(table):
        longer = table.copy()
        if there is not None:
            longer[: len(there)] += there
        total[key] = longer
    else:
        there[: len(table)] += table


def write_counts(
    path: Path,
    layout: TileLayout,
    labels: Sequence[str],
    found: Mapping[int, BandCounts],
    numbers: Mapping[str, npt.NDArray[Any]],
) -> None:
    """Write how often each count occurs in a shard.

    Parameters
    ----------
    path
        Where.
    layout
        Of the store.
    labels
        Of its tiles.
    found
        By channel.
    numbers
        What the headers told of the tiles: :func:`cube.geostationary.numbers.numbers_of`.
    """
    total: Counts = {}
    names = layout.instrument.coefficients
    for channel, tables in found.items():
        band = layout.channels.index(channel)
        packing, decoded = (
            np.stack([numbers[name][..., band] for name in some], axis=-1)
            for some in (("packing_scale", "packing_offset"), names)
        )
        rows = rounded_numbers(packing, decoded)
        known, which = np.unique(rows.reshape(-1, rows.shape[-1]), axis=0, return_inverse=True)
        decoded_by, which = [tuple(row) for row in known.tolist()], which.reshape(rows.shape[:-1])
        for (tile, step), table in tables.items():
            _add(total, (labels[tile], channel, decoded_by[which[tile, step]]), table)
    for key in total:
        total[key] *= layout.repeat(key[1]) ** 2
    keys = sorted(total)
    there = [np.flatnonzero(total[key]) for key in keys]
    packed = io.BytesIO()
    np.savez(  # small beside the pixels, and packing it would take as long as counting
        packed,
        keys=np.array(json.dumps(keys)),
        sizes=np.array([len(t) for t in there], "i8"),
        counts=np.concatenate([np.empty(0, "u2"), *(t.astype("u2") for t in there)]),
        times=np.concatenate([np.empty(0, "i8"), *(total[k][t] for k, t in zip(keys, there, strict=True))]),
    )
    write_bytes(path, packed.getbuffer())


def read_counts(path: Path) -> Iterator[tuple[Key, npt.NDArray[np.intp], npt.NDArray[np.int64]]]:
    """Yield the key of each table of a shard, the counts that occur, and how often.

    Raises
    ------
    SourceError
        If it cannot be read.
    """
    with (
        guarded(f"{path} does not hold the counts of a shard", "remove it and run the same command again"),
        np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored,
    ):
        keys, ends = json.loads(str(stored["keys"])), np.cumsum(stored["sizes"])
        counts, times = stored["counts"].astype("i8"), stored["times"]
        for (label, channel, numbers), end, size in zip(keys, ends, stored["sizes"], strict=True):
            yield (str(label), int(channel), tuple(numbers)), counts[end - size : end], times[end - size : end]


def write_statistics(path: Path, layout: TileLayout, shards: Iterable[Path], tiles: int, config_hash: str) -> None:
    """Write the radiance statistics of a build: of all tiles, and of each stratum and split.

    Parameters
    ----------
    path
        A file of ``loaders.statistics.Statistics``.
    layout
        Of the store.
    shards
        Files of :func:`write_counts`.
    tiles
        How many there are.
    config_hash
        Of the build.
    """
    total: Counts = {}
    for shard in shards:
        for key, counts, times in read_counts(shard):
            table = np.zeros(int(counts[-1]) + 1, "i8")
            table[counts] = times
            _add(total, key, table)
    groups: dict[str, dict[int, list[Key]]] = defaultdict(lambda: defaultdict(list))
    for key in sorted(total):
        for name in {"all", *filter(None, key[0].split("/"))}:
            groups[name][key[1]].append(key)
    splits = {
        name: {layout.band(c).name: vars(_of_band(layout, c, keys, total)) for c, keys in sorted(of.items())}
        for name, of in sorted(groups.items(), key=lambda g: (g[0] != "all", g[0]))
    }
    provenance = {
        "software": f"stratacube {importlib.metadata.version('stratacube')}",
        "config_hash": config_hash,
        "tiles": tiles,
        "by": "stratum and split",
        "counted": "while the tiles were cut",
        "valid_pixels": sum(band["count"] for band in splits.get("all", {}).values()),
    }
    told = {"format": FORMAT, "quantity": layout.instrument.packed(layout.band(layout.channels[0]).name).name}
    write_text(path, json.dumps({**told, "splits": splits, "provenance": provenance}, indent=1) + "\n")


def _of_band(layout: TileLayout, channel: int, keys: Sequence[Key], total: Counts) -> BandStatistics:
    band = layout.band(channel)
    quantity = layout.instrument.packed(band.name)
    values, weights = [], []
    for key in keys:
        there = np.flatnonzero(total[key])
        values.append(physical_of(there, quantity.law, layout.instrument.coefficients, key[2]))
        weights.append(total[key][there])
    found = describe(np.concatenate(values), np.concatenate(weights))
    return replace(found, units=quantity.units, wavelength_um=band.wavelength_um)
