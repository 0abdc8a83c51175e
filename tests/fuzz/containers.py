"""Damage to files of libraries that keeps them readable by these: other attributes, types, shapes, columns, headers."""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from tests.fuzz.plain import TOKENS, damaged_bytes
from tests.fuzz.structured import changed_value, damaged_json

__all__ = ["damaged_chunk_table", "damaged_hdf5", "damaged_npz", "damaged_parquet", "damaged_safetensors"]

_NUMBERS: tuple[Any, ...] = (0, -1, 1, 2**31 - 1, 2**62, 1e30, -1e-30, np.nan, np.inf, 0.5)


def _values(rng: random.Random) -> Any:
    """What an attribute or a small dataset may hold instead."""
    number = rng.choice(_NUMBERS)
    return rng.choice(
        (
            np.float64(number),
            np.float32(number),
            np.array([number]),
            np.array([]),
            np.array([number] * 3),
            np.array([[number]]),
            rng.choice(TOKENS).replace("\x00", ""),
            np.bytes_(b"\xff\xfe"),
            np.array(["x", "y"], h5py.string_dtype()),
            h5py.Empty("f4"),
            np.array((1, 2.0), [("a", "i4"), ("b", "f8")]),
            np.True_,
        )
    )


def damaged_hdf5(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Change attributes and variables of an HDF5 file."""
    file = io.BytesIO(data)
    with h5py.File(file, "r+") as h5:
        names: list[str] = []
        h5.visit(names.append)
        for _ in range(rng.choice((1, 1, 2, 4))):
            _change_hdf5(rng, h5, [n for n in names if n in h5])
    return file.getvalue()


def damaged_chunk_table(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Change the tables of chunks of an HDF5 file: sizes, masks of filters, places, addresses, and more.

    A node of such a table is ``TREE``, a 1, its level, number of entries and neighbours; then a key (size, mask, and
    the place along each dimension and within an element) and an address by turns: HDF5 File Format Specification,
    III.A.1.
    """
    changed = bytearray(data)
    nodes = [at for at in range(0, len(data) - 24, 8) if data[at : at + 5] == b"TREE\1"]
    for _ in range(rng.choice((1, 1, 2, 4)) if nodes else 0):
        node = rng.choice(nodes)
        entries = max(1, int.from_bytes(data[node + 6 : node + 8], "little"))
        entry = node + 24 + rng.randrange(entries) * (8 + 8 * 3 + 8)  # images have two dimensions
        at, width = rng.choice(
            (
                (node + 5, 1),
                (node + 6, 2),
                (node + 8, 8),
                (node + 16, 8),
                (entry, 4),
                (entry, 4),
                (entry + 4, 4),
                *((entry + 8 + 8 * n, 8) for n in range(3)),
                (entry + 32, 8),
                (entry + 32, 8),
            )
        )
        old = int.from_bytes(data[at : at + width], "little")
        largest = 256**width - 1
        number = rng.choice(
            (0, 1, old + 1, old - 1, 2 * old, old + 20, len(data) - 1, len(data), 2**31, 2**62, largest)
        )
        changed[at : at + width] = (number & largest).to_bytes(width, "little")
    return bytes(changed[: len(data)])


def _change_hdf5(rng: random.Random, h5: h5py.File, names: Sequence[str]) -> None:
    name = rng.choice(names)
    thing = rng.choice((h5, h5[name], h5[name]))
    kind = rng.randrange(8)
    attributes = list(thing.attrs)
    if kind <= 3 and attributes:
        chosen = rng.choice(attributes)
        del thing.attrs[chosen]
        if kind:
            thing.attrs[chosen] = _values(rng)
    elif kind == 4:
        del h5[name]
    elif kind == 5:
        other = rng.choice(names)
        if other != name and isinstance(h5[other], h5py.Dataset):
            del h5[name]
            h5[name] = h5[other]
    elif isinstance(h5[name], h5py.Dataset):
        _replace(rng, h5, name)


def _replace(rng: random.Random, h5: h5py.File, name: str) -> None:
    """Another variable of the same name and attributes: of another type, shape, layout or length."""
    old = h5[name]
    kept, shape, dtype = {}, old.shape or (), old.dtype
    for key in old.attrs:
        try:
            kept[key] = old.attrs[key]
        except (OSError, TypeError):  # references to what was removed
            continue
    del h5[name]
    kind = rng.randrange(5)
    if kind == 0:
        h5[name] = _values(rng)
    elif kind == 1:
        h5.create_dataset(name, shape, rng.choice(("f4", "f8", "i8", "u1", ">i2", "S3", "?")))
    elif kind == 2:
        longest = tuple(rng.choice((0, 1, n + 1, 10**6, 10**12, n)) for n in shape) or (10**9,)
        h5.create_dataset(name, longest, dtype, chunks=None if 0 in longest else tuple(min(64, n) for n in longest))
    elif kind == 3:
        h5.create_dataset(name, (*shape, 2), dtype)
    else:
        h5.create_group(name)
    for key, value in kept.items():
        if key not in ("REFERENCE_LIST", "DIMENSION_LIST"):
            h5[name].attrs[key] = value


def damaged_parquet(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Change columns, rows and the metadata of a table."""
    table = pyarrow.parquet.read_table(io.BytesIO(data), use_threads=False)
    attributes = json.loads((table.schema.metadata or {}).get(b"PANDAS_ATTRS", b"null"))
    frame = table.to_pandas(use_threads=False).astype(object)
    for _ in range(rng.choice((1, 1, 2, 3))):
        frame = _change_frame(rng, frame)
    found = pyarrow.Table.from_pydict({str(c): _column(frame[c].tolist()) for c in frame.columns})
    if attributes is not None:
        text = damaged_json(rng, json.dumps(attributes).encode()) if rng.random() < 0.5 else json.dumps(attributes)
        found = found.replace_schema_metadata({"PANDAS_ATTRS": text} if rng.random() < 0.95 else {})
    file = io.BytesIO()
    pyarrow.parquet.write_table(found, file)
    return file.getvalue()


def _column(values: list[Any]) -> pyarrow.Array:
    """Values as Arrow takes them; as text where they are of several types."""
    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowException, OverflowError, ValueError, TypeError, UnicodeError):
        return pyarrow.array([None if v is None else repr(v)[:200] for v in values])


def _change_frame(rng: random.Random, frame: pd.DataFrame) -> pd.DataFrame:
    if not len(frame.columns):
        return frame
    name, kind = rng.choice(list(frame.columns)), rng.randrange(8)
    frame = frame.copy()
    if kind == 0:
        return frame.drop(columns=name)
    if kind == 1:
        return frame.iloc[: rng.randrange(len(frame) + 1)]
    if kind == 2:
        return pd.concat([frame, frame], ignore_index=True)
    if kind == 3:
        frame[name] = frame[rng.choice(list(frame.columns))]
    elif kind == 4:
        frame[name] = [rng.choice(TOKENS).encode(errors="replace").decode()] * len(frame)
    elif kind == 5:
        frame[name] = [None] * len(frame)
    elif kind == 6:
        frame[name] = [rng.choice(_NUMBERS)] * len(frame)
    elif len(frame):
        values = frame[name].tolist()
        values[rng.randrange(len(values))] = rng.choice((None, -1, 2**62, "x", "../x", 1e300, [], [""]))
        frame[name] = pd.Series(values, dtype=object, index=frame.index)
    return frame


def damaged_npz(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Change the header of an index, or its arrays."""
    with np.load(io.BytesIO(data)) as stored:
        arrays = {name: stored[name] for name in stored.files}
    if rng.random() < 0.6:
        header = damaged_json(rng, arrays["header"].tobytes())
        arrays["header"] = np.frombuffer(header, "u1")
    else:
        name = rng.choice(list(arrays))
        old = arrays.pop(name)
        kind = rng.randrange(5)
        if kind == 0:
            arrays[name] = np.full(old.shape, rng.choice(_NUMBERS[:5]), old.dtype if old.dtype.kind == "i" else "f8")
        elif kind == 1:
            arrays[name] = old.ravel()
        elif kind == 2:
            arrays[name] = old.astype(rng.choice(("f4", "S4", "u1", ">i8")))
        elif kind == 3:
            arrays[name] = old[:0]
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  (names of arrays)
    return file.getvalue()


def damaged_safetensors(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Change the header of weights, and the settings in it."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    notes = header.get("__metadata__", {})
    kind = rng.randrange(3)
    if kind == 0:
        header = changed_value(rng, header)
    elif "stratacube" in notes:
        changed = damaged_json(rng, notes["stratacube"].encode())
        notes["stratacube"] = changed.decode(errors="replace")
    text = json.dumps(header, default=str).encode(errors="replace")
    if kind == 2:
        text = damaged_bytes(rng, text)
    return struct.pack("<Q", len(text)) + text + data[8 + size :]
