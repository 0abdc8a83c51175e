"""Which codec builds store tiles with, and what the form of their stores gains: on tiles of real scans.

Run by ``python -m tests.benchmarks codecs``; it needs the samples. The rule, written before anything was measured: of
the codecs of Zarr v3 that let no flipped bit pass and write at least 60 MB/s a core, the one that decodes fastest
while the store takes at most 0.8 of the bytes of the store before, whose bands all lay on the grid of 1 km under
Zstandard 3. The same bytes as an earlier benchmark took cannot be used: its steps were overlapping crops of one scan
and its tiles one tile rolled, in which plain Zstandard finds everything again; real tiles hold no such repetition.

All is measured by the CPU time of one process, through the reader of the loaders, checksums included. Pixels count as
native pixels and masks, 16 bits each, whichever form they are read from: MB/s are samples a second, up to a factor.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from cube.config import AbiConfig
from cube.geostationary.resample import repeat
from cube.job.codec import BEFORE, CODECS, codecs_of
from loaders.chunks import ChunkReader, Target
from loaders.parts import StoredPart, on_grid
from tests.benchmarks import table
from tests.benchmarks.real_crops import Crops, real_crops

DEFAULT = str(AbiConfig.model_fields["codec"].default)
LEAST_WRITTEN = 60.0
"""MB/s a core."""
MOST_BYTES = 0.8
"""Of those of the store before."""


COARSE = frozenset(f"C{channel:02d}" for channel in (4, *range(6, 17)))
"""Bands whose pixels are of 2 km."""
Tile = Mapping[str, npt.NDArray[Any]]
Finish = Callable[[Tile], Any]
"""What is done with a tile that was read."""


class Form(NamedTuple):
    """How tiles lie in a store: by name, arrays (tile, step, y, x)."""

    arrays: Mapping[str, npt.NDArray[np.uint16]]


class Cost(NamedTuple):
    """What a way of storing costs."""

    stored: int
    """Bytes on disk."""
    written: float
    """MB/s."""
    read: float
    """MB/s."""


Codecs = Callable[[bool], Sequence[Any]]
"""Codecs of an array, given whether it is a mask."""


def _known(name: str) -> Codecs:
    return lambda mask: codecs_of(name, mask=mask)


def _blosc(name: str, level: int, shuffle: str) -> Codecs:
    def codecs(mask: bool) -> Sequence[Any]:
        how = "shuffle" if mask else shuffle
        return BloscCodec(cname=name, clevel=level, shuffle=how), Crc32cCodec()  # type: ignore[arg-type]

    return codecs


OTHERS: dict[str, Codecs] = {
    "Zstd 6": lambda _: (ZstdCodec(level=6, checksum=True),),
    "Blosc lz4 5 shuffle": _blosc("lz4", 5, "shuffle"),
    "Blosc lz4hc 5 shuffle": _blosc("lz4hc", 5, "shuffle"),
    **{
        f"Blosc {name} {level} {shuffle}": _blosc(name, level, shuffle)
        for name, level in (("zstd", 1), ("zstd", 3), ("zstd", 6), ("lz4hc", 7))
        for shuffle in ("shuffle", "bitshuffle")
    },
}
"""Candidates besides those that builds know by name."""


def native_form(crops: Crops) -> Form:
    """Every band at its own pixel."""
    bands = {f"C{channel:02d}": counts for channel, counts in crops.bands.items()}
    return Form(bands | {f"valid_{pixel}": mask for pixel, mask in crops.valid.items()})


def common_form(crops: Crops) -> Form:
    """All bands on the grid of 1 km, with one mask."""
    finest = max(mask.shape[-1] for mask in crops.valid.values())
    arrays = {}
    if set(crops.valid) == {"2km"}:
        finest *= 2
    for name, values in native_form(crops).arrays.items():
        arrays[name] = repeat(values, finest // values.shape[-1])
    masks = [arrays.pop(f"valid_{pixel}") for pixel in crops.valid]
    return Form(arrays | {"valid": np.bitwise_or.reduce(masks)})


def write(
    folder: Path, forms: Sequence[Form], codecs: Codecs, chunk: Callable[..., tuple[int, ...]] | None = None
) -> float:
    """Write one store for each scan, shard by shard as builds do; CPU seconds are returned, of the shards alone."""
    shutil.rmtree(folder, ignore_errors=True)
    spent = 0.0
    for number, form in enumerate(forms):
        group = zarr.open_group(folder / str(number), mode="w")
        for name, values in form.arrays.items():
            sample = chunk(values.shape[1:]) if chunk else values.shape[1:]
            array = group.create_array(
                name,
                shape=values.shape,
                dtype="<u2",
                chunks=(1, *sample),
                shards=values.shape,
                compressors=list(codecs(name.startswith("valid"))),
            )
            started = time.process_time()
            array[...] = values
            spent += time.process_time() - started
    return spent


def read(folder: Path, forms: Sequence[Form], finish: Finish, rounds: int) -> float:
    """CPU seconds to read every tile of every store into arrays, the best of a few rounds."""
    readers = [ChunkReader(str(folder / str(number))) for number in range(len(forms))]
    best = float("inf")
    rooms = [{name: np.empty(a.shape, "u2") for name, a in form.arrays.items()} for form in forms]
    for _ in range(rounds):
        started = time.process_time()
        for reader, room in zip(readers, rooms, strict=True):
            for tile in range(len(next(iter(room.values())))):
                errors = reader.read([Target(name, tile, out[tile]) for name, out in room.items()])
                assert not any(errors), errors
                finish({name: out[tile] for name, out in room.items()})
        best = min(best, time.process_time() - started)
    for form, room in zip(forms, rooms, strict=True):
        for name, out in room.items():
            np.testing.assert_array_equal(out, form.arrays[name])
    return best


def as_read(tile: Tile) -> None:
    """Leave a tile as it is."""


def thinned(tile: Tile) -> None:
    """Take from a tile of the store before what the native form holds: every other pixel of bands of 2 km."""
    for name, values in tile.items():
        if name in COARSE or name == "valid":
            np.ascontiguousarray(values[:, ::2, ::2])


def repeated(tile: Tile) -> None:
    """Bring a tile to the grid of 1 km, as the loaders do; they need not put bands together first."""
    bands, parts = [name for name in tile if name.startswith("C")], {}
    for times, mask in ((1, "valid_1km"), (2, "valid_2km")):
        if mask in tile:
            names = [name for name in bands if (name in COARSE) == (times == 2)]
            images, bits = (torch.from_numpy(np.stack([tile[n] for n in group])[None]) for group in (names, [mask]))
            parts[times] = StoredPart(images, bits, tuple(map(bands.index, names)), (0,), ((0, 0),))
    side = max(times * part.values.shape[-1] for times, part in parts.items())
    steps = next(iter(tile.values())).shape[0]
    on_grid(parts, torch.empty((1, steps, side, side)), len(bands), 1)


def cost(
    folder: Path, forms: Sequence[Form], codecs: Codecs, pixels: int, rounds: int,
    finish: Finish = as_read, chunk: Callable[..., tuple[int, ...]] | None = None,
) -> Cost:  # fmt: skip
    """Write and read stores; rates are of ``pixels`` of two bytes, whatever the form holds."""
    written = min(write(folder, forms, codecs, chunk) for _ in range(min(rounds, 3)))
    stored = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and f.name != "zarr.json")
    megabytes = 2 * pixels / 1e6
    return Cost(stored, megabytes / written, megabytes / read(folder, forms, finish, rounds))


def rows(scratch: Path, quick: bool) -> list[table.Row]:
    """Measure all candidates, and choose by the rule; on one thread, for threads that wait spend CPU time too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _rows(scratch, quick)
    finally:
        torch.set_num_threads(threads)


def _rows(scratch: Path, quick: bool) -> list[table.Row]:
    data = Path(os.environ.get("STRATACUBE_DATA") or table.CHECKOUT.parent / "shared" / "data")
    crops = list(real_crops(data, steps=7, size=320, most=1 if quick else 3))
    natives, commons = [native_form(c) for c in crops], [common_form(c) for c in crops]
    pixels = sum(a.size for form in natives for a in form.arrays.values())
    folder, rounds = scratch / "stores", 1 if quick else 5
    cost(folder, natives, _known(BEFORE), pixels, 1)  # what a process does once is not to be counted

    before = cost(folder, commons, _known(BEFORE), pixels, rounds, thinned)
    before_whole = cost(folder, commons, _known(BEFORE), pixels, rounds)
    named = {f"`{name}`": _known(name) for name in CODECS}
    found = {name: cost(folder, natives, codecs, pixels, rounds) for name, codecs in (named | OTHERS).items()}
    plain = found[f"`{BEFORE}`"]
    section = "Codecs: native pixels and masks, by CPU time, against the same pixels from the store before"
    made = [_codec_row(section, name, each, before, plain) for name, each in found.items()]
    fit = {n: c for n, c in found.items() if c.written >= LEAST_WRITTEN and c.stored <= MOST_BYTES * before.stored}
    chosen, ours = max(fit, key=lambda n: fit[n].read, default="`zstd`"), found[f"`{DEFAULT}`"]
    rule = "Codecs: the rule"
    shapes = "Codecs: chunks that are not whole tiles, by CPU time"
    whole = cost(folder, natives, _known(DEFAULT), pixels, rounds, repeated)
    steps = cost(folder, natives, _known(DEFAULT), pixels, 1, chunk=lambda s: (1, *s[1:]))
    quarters = cost(folder, natives, _known(DEFAULT), pixels, 1, chunk=lambda s: (s[0], s[1] // 2, s[2] // 2))
    shutil.rmtree(folder)
    table_row = table.compare
    return [
        table_row(rule, f"bytes, `{DEFAULT}` against the store before", ours.stored / 1e6, before.stored / 1e6, "MB",
                  target=f"ours <= {MOST_BYTES} theirs"),
        table_row(rule, f"reading native pixels, `{DEFAULT}`", ours.read, before.read, "MB/s", higher_is_better=True,
                  target="ratio >= 3", note=f"of the store before every other pixel is taken; {before_whole.read:,.0f} "
                  "MB/s without"),
        table_row(rule, f"reading, repeated to 1 km on the CPU, `{DEFAULT}`", whole.read, before_whole.read, "MB/s",
                  higher_is_better=True, note="the store before needs no repeating"),
        table_row(rule, f"writing, `{DEFAULT}`", ours.written, None, "MB/s", target=f"ours >= {LEAST_WRITTEN:g}"),
        table_row(rule, f"what the rule chooses in this run: {chosen}", found[chosen].read, ours.read, "MB/s",
                  higher_is_better=True, note=f"against the default, `{DEFAULT}`"),
        *made,
        *(
            table_row(shapes, what, each.read, ours.read, "MB/s", higher_is_better=True,
                      note=f"{each.stored / ours.stored:.2f} of the bytes")
            for what, each in (("of one step", steps), ("of a quarter of a tile", quarters))
        ),
    ]  # fmt: skip


def _codec_row(section: str, name: str, found: Cost, before: Cost, plain: Cost) -> table.Row:
    note = (
        f"{found.stored / before.stored:.2f} of the bytes of the store before, {found.stored / plain.stored:.2f} of "
        f"those of `{BEFORE}` for the same pixels; written at {found.written:.0f} MB/s"
    )
    return table.compare(section, name, found.read, before.read, "MB/s", higher_is_better=True, note=note)
