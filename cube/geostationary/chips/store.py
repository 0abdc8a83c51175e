"""One store of many chips: bands by name, beside them what else there is of numbers, and text in a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr

from cube.geostationary.chips.forms import (
    TEXT,
    Member,
    as_text,
    from_text,
    image_of,
    image_shape,
    pixels_from,
    pixels_of,
)
from cube.geostationary.chips.packing import NO_COUNT, Packing, counts_of, unpacked
from cube.job.store import ArraySpec, create_store, write_region
from cube.opening import IN_FLOAT32
from stratacube.errors import SourceError, UsageError

__all__ = ["ChipLayout", "exported", "write_chips"]

_SHARD = 2**27
"""Bytes of the chips of one task, about, and of which one is always taken."""


@dataclass(frozen=True)
class ChipLayout:
    """What a store of chips has, told by the headers of all their files."""

    chips: int
    steps: int
    """Of the longest; shorter ones end in NaN."""
    bands: tuple[str, ...]
    rows: int
    cols: int
    others: Mapping[str, tuple[tuple[int, ...], str]]
    """By name, the largest shape and the type that holds all of what else there is of numbers."""
    kind: str = "<f4"
    """Type that holds all pixels, and NaN."""
    packings: Mapping[str, Packing] = field(default_factory=dict)
    """Of the bands that are stored as counts."""

    @classmethod
    def of(cls, told: Iterable[tuple[str, Mapping[str, Member]]]) -> ChipLayout:
        """Lay out a store of some files, whose headers are looked at one after another.

        Raises
        ------
        UsageError
            If their chips differ in pixels or bands.
        """
        chips, steps, kind = 0, 0, "<f4"
        size: tuple[int, int, int] | None = None
        others: dict[str, tuple[tuple[int, ...], str]] = {}
        for form, members in told:
            pixels = members[pixels_of(form, members)]
            length, *own = image_shape(form, pixels.shape)
            size = _same_size(size, (own[0], own[1], own[2]))
            chips, steps = chips + 1, max(steps, length)
            kind = np.result_type(kind, pixels.dtype).newbyteorder("<").str
            for name, member in members.items():
                if not member.is_text and member is not pixels:
                    others[name] = _larger(name, others.get(name), member)
        bands, rows, cols = size or (0, 0, 0)
        names = tuple(f"C{number:02d}" for number in range(1, bands + 1))
        return cls(chips, steps, names, rows, cols, others, kind)

    @property
    def at_once(self) -> int:
        """Chips of one task, and of one chunk of what is small."""
        return max(1, _SHARD // (4 * len(self.bands) * self.steps * self.rows * self.cols))

    def arrays(self) -> dict[str, ArraySpec]:
        """Describe the arrays."""
        image = (self.chips, self.steps, self.rows, self.cols)
        told: dict[str, Any] = {"long_name": "radiance as SatVision-Pix4D's chips have it, NaN where there is none"}
        specs: dict[str, ArraySpec] = {}
        for name in self.bands:
            kind, fill, more = self.kind, np.nan, told
            if name in self.packings:
                scale, offset = self.packings[name]
                kind, fill = "<u2", NO_COUNT
                more = {**told, "scale_factor": scale, "add_offset": offset, "_FillValue": NO_COUNT, IN_FLOAT32: 1}
            of_image = ("tile", "time", "y", "x")
            specs[name] = ArraySpec(of_image, image, kind, (1, *image[1:]), fill_value=fill, attributes=more)
        for name, (shape, kind) in self.others.items():
            dims = ("tile", *self._dims(name, shape))
            chunk = 1 if np.prod(shape, dtype="i8") > 2**16 else self.at_once
            fill = np.nan if np.dtype(kind).kind == "f" else 0
            specs[stored_name(name)] = ArraySpec(dims, (self.chips, *shape), kind, (chunk, *shape), fill_value=fill)
        return specs

    def _dims(self, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
        known = {
            (self.steps, self.rows, self.cols): ("time", "y", "x"),
            (self.rows, self.cols): ("y", "x"),
            (self.steps,): ("time",),
        }
        return known.get(shape, tuple(f"{stored_name(name)}_{axis}" for axis in range(len(shape))))


def _same_size(one: tuple[int, int, int] | None, other: tuple[int, int, int]) -> tuple[int, int, int]:
    """Bands, rows and columns of chips, and of one more."""
    if one not in (None, other):
        one, other = sorted([one, other])
        raise UsageError(
            f"chips of one store have one size, not {one[1]} x {one[2]} pixels of {one[0]} bands and {other[1]} x "
            f"{other[2]} of {other[0]}; take them into several stores, by globs that tell them apart"
        )
    return other


def _larger(name: str, known: tuple[tuple[int, ...], str] | None, member: Member) -> tuple[tuple[int, ...], str]:
    """Shape and type that hold an array of one more chip too."""
    shape, kind = known or (member.shape, member.dtype)
    if len(shape) != len(member.shape):
        raise UsageError(f"{name} has {len(shape)} dimensions in one chip and {len(member.shape)} in another")
    largest = tuple(max(a, b) for a, b in zip(shape, member.shape, strict=True))
    return largest, np.result_type(kind, member.dtype).str


def stored_name(name: str) -> str:
    """What a member is called in the store: names with a slash would be groups, and C01 is a band."""
    return "chip_" + name.replace("/", ".")


def create(path: Path, layout: ChipLayout, codec: str) -> None:
    """Write the description of a store."""
    attributes = {"Conventions": "CF-1.11", "title": "SatVision-Pix4D's chips"}
    create_store(path, layout.arrays(), attributes, codec)


def write_chips(
    path: Path, layout: ChipLayout, first: int, chips: Sequence[tuple[str, Mapping[str, npt.NDArray[Any]]]]
) -> None:
    """Write chips that follow one another, the first of which is number ``first``."""
    stack = np.full((len(chips), layout.steps, len(layout.bands), layout.rows, layout.cols), np.nan, layout.kind)
    for i, (form, members) in enumerate(chips):
        image = image_of(form, members[pixels_of(form, members)])
        stack[i, : len(image)] = image
    for place, name in enumerate(layout.bands):
        values = stack[:, :, place]
        counts = counts_of(values, layout.packings[name]) if name in layout.packings else values
        if counts is None:
            raise SourceError(f"{name} of a chip has changed since it was looked at; import them anew with `overwrite`")
        write_region(path, name, first, counts)
    for name, (shape, kind) in layout.others.items():
        fill = np.nan if np.dtype(kind).kind == "f" else 0
        values = np.full((len(chips), *shape), fill, kind)
        for i, (_, members) in enumerate(chips):
            if name in members:
                values[i, ...][tuple(slice(0, n) for n in members[name].shape)] = members[name]
        write_region(path, stored_name(name), first, values)


def row_of(form: str, members: Mapping[str, npt.NDArray[Any]]) -> dict[str, str]:
    """What the table keeps of a chip: its text, and the shapes and types that its arrays had."""
    pixels = pixels_of(form, members)
    told = {name: [list(v.shape), v.dtype.str] for name, v in members.items() if v.dtype.kind not in TEXT}
    text = {name: as_text(v) for name, v in members.items() if v.dtype.kind in TEXT}
    return {
        "form": form,
        "pixels": pixels,
        "arrays": json.dumps(told),
        "text": json.dumps(text),
        "order": json.dumps([*members]),
    }


def exported(path: Path, table: pd.DataFrame) -> Iterator[tuple[str, dict[str, npt.NDArray[Any]]]]:
    """Yield the name of each chip, and its arrays as they were in its file."""
    group = zarr.open_group(path, mode="r")
    bands = sorted(name for name, _ in group.arrays() if not name.startswith("chip_"))
    for row in table.itertuples():
        told, text = json.loads(row.arrays), json.loads(row.text)
        members: dict[str, npt.NDArray[Any]] = {}
        for name in json.loads(row.order):
            if name in text:
                members[name] = from_text(text[name])
                continue
            shape, dtype = told[name]
            if name == row.pixels:
                steps = image_shape(row.form, tuple(shape))[0]
                image = np.stack([_values(group[band], row.tile, steps) for band in bands], axis=1)
                members[name] = pixels_from(row.form, image).astype(dtype, copy=False)
            else:
                window = (row.tile, *(slice(0, n) for n in shape))
                members[name] = np.asarray(group[stored_name(name)][window]).astype(dtype)  # type: ignore[index]
        yield str(row.name), members


def _values(band: Any, chip: int, steps: int) -> npt.NDArray[Any]:
    """Values of a band of a chip, as they were in its file."""
    stored: npt.NDArray[Any] = np.asarray(band[chip, :steps])
    told = band.attrs
    return unpacked(stored, Packing(told["scale_factor"], told["add_offset"])) if IN_FLOAT32 in told else stored
