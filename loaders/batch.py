"""Batches: as stored, small to move; and decoded, on the device that trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from cube.decode import LAWS, apply_law
from cube.instrument import COUNTS, lacking
from loaders.parts import StoredPart, on_grid
from loaders.rules import TORCH, BandRule
from loaders.travel import Tensors
from stratacube.choices import many
from stratacube.errors import UsageError

__all__ = ["Batch", "Decoder", "PackedBatch", "as_is", "join"]

TIME_CODE = ("year", "day of year", "minute of day", "minutes since the first frame")


@dataclass(frozen=True)
class PackedBatch(Tensors):
    """Samples as stored; ``B`` samples, ``C`` bands, ``T`` frames."""

    values: Tensor
    """(B, C, T, Y, X) uint16 counts, or float32 values that need no decoding, NaN where not valid."""
    mask: Tensor | None
    """(B, T, Y, X) unsigned integers, a bit a band (see ``rules``), set where that band is valid; (B, M, T, Y, X) where
    the bits lie in several masks; None: valid where finite."""
    bands: tuple[str, ...]
    packing: Tensor | None = None
    """(B, T, C, 2) float32: scale and offset to radiance."""
    coefficients: Tensor | None = None
    """(B, T, C, numbers) float32: what the laws take, in the order of ``coefficient_names``."""
    coefficient_names: tuple[str, ...] = ()
    rules: tuple[BandRule, ...] = ()
    """By band, where its validity lies and how it is decoded; empty: values need no decoding."""
    orientation: tuple[int, ...] = ()
    """How decoding turns each sample (:class:`loaders.augment.Placement`); empty: not at all."""
    meta: dict[str, Tensor] = field(default_factory=dict)
    """By name, (B, ...): see docs/loaders.md."""
    labels: dict[str, Tensor] = field(default_factory=dict)
    """By name, (B,), or (B, ...) of what strata say of tiles; of each pixel (B, steps, Y, X)."""
    parts: dict[int, StoredPart] = field(default_factory=dict)
    """By how often their pixels repeat on the grid, bands as they are stored, where some repeat: ``values`` is without
    bands then, (B, 0, T, Y, X), and ``mask`` None, until they are brought :meth:`on_grid`."""

    def __len__(self) -> int:
        return self.values.shape[0]

    def stored(self) -> dict[int, StoredPart]:
        """Bands by how often their pixels repeat on the grid: of whole samples, what there is to count."""
        if self.parts or self.mask is None:
            return self.parts
        mask = self.mask if self.mask.ndim == 5 else self.mask[:, None]
        bands, masks = tuple(range(self.values.shape[1])), tuple(range(mask.shape[1]))
        return {1: StoredPart(self.values, mask, bands, masks, ((0, 0),) * len(self))}

    def on_grid(self) -> PackedBatch:
        """Repeat what is stored once, on the device where the batch is; nothing of it is changed."""
        if not self.parts:
            return self
        masks = 1 + max(rule.mask for rule in self.rules)
        values, mask = on_grid(self.parts, self.values, len(self.bands), masks)
        return replace(self, values=values, mask=mask if masks > 1 else mask[:, 0], parts={})


@dataclass(frozen=True)
class Batch(Tensors):
    """Samples ready for a model."""

    pixels: Tensor
    """(B, T, C, Y, X) float32, normalised if the decoder was given statistics."""
    valid: Tensor
    """(B, T, C, Y, X) bool."""
    bands: tuple[str, ...]
    meta: dict[str, Tensor] = field(default_factory=dict)
    labels: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.pixels.shape[0]


def as_is(batch: Any) -> Any:
    """Collate nothing: batches are read whole (a ``collate_fn`` for other loaders)."""
    return batch


def join(batches: Sequence[PackedBatch]) -> PackedBatch:
    """Put batches of the same kind one after another.

    Raises
    ------
    UsageError
        If their bands or sizes differ.
    """
    if len({tuple((times, *part.shape) for times, part in b.parts.items()) for b in batches}) > 1:
        batches = [b.on_grid() for b in batches]  # one store holds once what another holds repeated
    first = batches[0]
    kinds = dict.fromkeys(map(_kind, batches))
    if len(kinds) > 1:
        raise UsageError(
            f"sources give samples of different kinds: {'; and '.join(kinds)}. Mix them with `whole_batches=True`, or "
            "give them the same bands, steps and crop"
        )
    if len({(b.rules, b.coefficient_names) for b in batches}) > 1:
        raise UsageError(
            f"sources of bands {', '.join(first.bands)} are of instruments with different masks or laws; "
            "mix them with whole_batches=True"
        )

    def together(name: str) -> Any:
        parts = [getattr(b, name) for b in batches]
        if all(isinstance(p, Tensor) for p in parts):
            return torch.cat(parts)
        if name == "parts":
            return {times: StoredPart.join([p[times] for p in parts]) for times in parts[0]}
        if isinstance(parts[0], dict):
            shared = set.intersection(*(set(p) for p in parts))
            return {k: torch.cat([p[k] for p in parts]) for k in parts[0] if k in shared}
        return parts[0]

    turns = [b.orientation or (0,) * len(b) for b in batches]

    joined = {f.name: together(f.name) for f in fields(first) if f.name != "orientation"}
    return replace(first, **joined, orientation=tuple(code for codes in turns for code in codes))


class Decoder(nn.Module):
    """Turns stored counts into what a model takes, on the batch's device.

    Parameters
    ----------
    quantity
        What counts are decoded to, by the name that the store's instrument has for it, such as ``radiance``,
        ``reflectance`` or ``brightness_temperature``, in the units that the store says (:meth:`TileDataset.units`); or
        ``mixed``: of each band the first of its quantities that is not the radiance; or ``counts``: as stored, as
        numbers. Values that are stored decoded stay.
    mean, std
        By band, to normalise by, in the units of the quantity; None leaves physical values.
    fill
        Value of pixels that are not valid, after normalisation. The default 0 is the mean of a normalised band: it
        says nothing. NaN makes every use of such a pixel visible.
    """

    def __init__(
        self,
        quantity: str = "radiance",
        mean: Mapping[str, float] | None = None,
        std: Mapping[str, float] | None = None,
        fill: float = 0.0,
    ) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise UsageError("normalisation needs both mean and std")
        self.quantity = quantity
        self.mean, self.std = dict(mean or {}), dict(std or {})
        self.fill = fill
        self._kept: dict[tuple[Any, ...], Tensor] = {}
        """Mean and deviation by bands and device: made anew for each batch, they would keep the device waiting."""

    def forward(self, packed: PackedBatch) -> Batch:
        """Decode a batch.

        Raises
        ------
        UsageError
            If a band has no such quantity or no statistics.
        """
        packed = packed.on_grid()
        values = packed.values.permute(0, 2, 1, 3, 4)
        pixels = values.to(torch.float32, memory_format=torch.contiguous_format)
        valid = torch.isfinite(pixels) if packed.mask is None else _valid(packed.mask, packed.rules)
        if packed.packing is not None and self.quantity != COUNTS:
            scale, offset = (n[..., None, None] for n in packed.packing.unbind(-1))
            pixels = pixels.mul_(scale).add_(offset)
            self._calibrate(pixels, packed)
        if self.mean:
            mean, std = (self._by_band(packed, name) for name in ("mean", "std"))
            pixels = pixels.sub_(mean).div_(std)
        valid = valid & torch.isfinite(pixels)
        pixels = pixels.masked_fill_(~valid, self.fill)
        pixels, valid = _turn(pixels, packed.orientation), _turn(valid, packed.orientation)
        return Batch(pixels, valid, packed.bands, packed.meta, packed.labels)

    def _calibrate(self, radiance: Tensor, packed: PackedBatch) -> None:
        """Replace radiance by the quantity, in place, with each file's own coefficients."""
        for c, (name, rule) in enumerate(zip(packed.bands, packed.rules, strict=True)):
            law = rule.law(self.quantity)
            if law is None:
                raise lacking(name, self.quantity, rule.names)
            wanted = LAWS[law].coefficients
            if not wanted:  # counts are packings of it
                continue
            if packed.coefficients is None:
                raise UsageError(f"the samples carry no coefficients for {self.quantity}")
            places = {n: packed.coefficient_names.index(n) for n in wanted}
            numbers = {n: packed.coefficients[:, :, c, place, None, None] for n, place in places.items()}
            band = radiance[:, :, c]
            band.copy_(apply_law(law, band, numbers, TORCH))

    def _by_band(self, packed: PackedBatch, name: str) -> Tensor:
        key, numbers = (name, packed.bands, packed.values.device), getattr(self, name)
        if key in self._kept:
            return self._kept[key]
        missing = [b for b in packed.bands if b not in numbers]
        if missing:
            raise UsageError(f"the statistics have {', '.join(numbers)}, but not {', '.join(missing)}")
        values = torch.tensor([numbers[b] for b in packed.bands], device=packed.values.device, dtype=torch.float32)
        return self._kept.setdefault(key, values[:, None, None])


def _kind(batch: PackedBatch) -> str:
    """What the samples of a batch are, in words."""
    steps, rows, columns = batch.values.shape[2:]  # there may be no bands yet: they come onto this grid
    form = "values" if batch.values.dtype.is_floating_point else "counts"
    told = f"{form} of {', '.join(batch.bands)} in {many(steps, 'step')} of {rows} x {columns} pixels"
    several = {name: tuple(values.shape[1:]) for name, values in batch.labels.items() if values.ndim > 1}
    return f"{told}, labels {several}" if several else told


def _valid(mask: Tensor, rules: Sequence[BandRule]) -> Tensor:
    """Take each band's bit out of the masks; (B, T, C, Y, X)."""
    # Torch shifts signed integers only. The highest bit of the widest comes out as the sign, which the 1 cuts off.
    wide = mask.to(torch.int32 if mask.element_size() < 4 else torch.int64)
    bits = _numbers(tuple(r.bit for r in rules), mask.device, wide.dtype)[:, None, None]
    if mask.ndim == 4:
        return (wide[:, :, None] >> bits) & 1 != 0
    which = _numbers(tuple(r.mask for r in rules), mask.device, torch.int64)
    return (wide[:, which].transpose(1, 2) >> bits) & 1 != 0


@lru_cache(maxsize=64)
def _numbers(numbers: tuple[int, ...], device: torch.device, kind: torch.dtype) -> Tensor:
    """Small numbers on a device, copied there once."""
    return torch.tensor(numbers, device=device, dtype=kind)


def _turn(image: Tensor, orientation: Sequence[int]) -> Tensor:
    """Turn each sample of (B, ..., Y, X) as drawn."""
    if not any(orientation):
        return image
    turned = []
    for sample, code in zip(image, orientation, strict=True):
        quarter = torch.rot90(sample, code % 4, (-2, -1))
        turned.append(quarter.flip(-1) if code >= 4 else quarter)
    return torch.stack(turned)
