"""One store of many chips: bands by name, beside them what else there is of numbers, and text in a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from cube.job.store import ArraySpec, create_store, write_region
from stratacube.errors import UsageError

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

    @classmethod
    def of(cls, told: Sequence[tuple[str, Mapping[str, Member]]]) -> ChipLayout:
        """Lay out a store of some files.

        Raises
        ------
        UsageError
            If their chips differ in pixels or bands.
        """
        shapes = [image_shape(form, members[pixels_of(form, members)].shape) for form, members in told]
        sizes = {shape[1:] for shape in shapes}
        if len(sizes) > 1:
            one, other = sorted(sizes)[:2]
            raise UsageError(
                f"chips of one store have one size, not {one[1]} x {one[2]} pixels of {one[0]} bands and {other[1]} x "
                f"{other[2]} of {other[0]}; take them into several stores, by globs that tell them apart"
            )
        bands, rows, cols = sizes.pop()
        others: dict[str, tuple[tuple[int, ...], str]] = {}
        for form, members in told:
            for name, member in members.items():
                if member.is_text or name == pixels_of(form, members):
                    continue
                shape, kind = others.get(name, (member.shape, member.dtype))
                if len(shape) != len(member.shape):
                    raise UsageError(
                        f"{name} has {len(shape)} dimensions in one chip and {len(member.shape)} in another"
                    )
                largest = tuple(max(a, b) for a, b in zip(shape, member.shape, strict=True))
                others[name] = largest, np.result_type(kind, member.dtype).str
        names = tuple(f"C{number:02d}" for number in range(1, bands + 1))
        kinds = [members[pixels_of(form, members)].dtype for form, members in told]
        kind = np.result_type("<f4", *kinds).newbyteorder("<").str
        return cls(len(told), max(s[0] for s in shapes), names, rows, cols, others, kind)

    @property
    def at_once(self) -> int:
        """Chips of one task, and of one chunk of what is small."""
        return max(1, _SHARD // (4 * len(self.bands) * self.steps * self.rows * self.cols))

    def arrays(self) -> dict[str, ArraySpec]:
        """Describe the arrays."""
        image = (self.chips, self.steps, self.rows, self.cols)
        told = {"long_name": "radiance as SatVision-Pix4D's chips have it, NaN where there is none"}
        specs = {
            name: ArraySpec(
                ("tile", "time", "y", "x"), image, self.kind, (1, *image[1:]), fill_value=np.nan, attributes=told
            )
            for name in self.bands
        }
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
        write_region(path, name, first, stack[:, :, place])
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
                image = np.stack([np.asarray(group[band][row.tile, :steps]) for band in bands], axis=1)  # type: ignore[index]
                members[name] = pixels_from(row.form, image).astype(dtype, copy=False)
            else:
                window = (row.tile, *(slice(0, n) for n in shape))
                members[name] = np.asarray(group[stored_name(name)][window]).astype(dtype)  # type: ignore[index]
        yield str(row.name), members
