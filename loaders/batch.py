"""Batches: as stored, small to move; and decoded, on the device that trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy.typing as npt
import torch
from torch import Tensor, nn

from cube.decode import LAWS, apply_law
from loaders.quantities import Quantity
from loaders.rules import TORCH, BandRule
from stratacube.errors import UsageError

__all__ = ["Batch", "Decoder", "PackedBatch", "Quantity", "as_is", "join"]

TIME_CODE = ("year", "day of year", "minute of day", "minutes since the first frame")


_SMALL = 2**16
"""Bytes of a tensor that is handed over by value: shared memory costs a file and a message for each tensor."""


class _Tensors:
    """What both kinds of batch share: every field that is, or holds, tensors moves together."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes: small tensors by value, large ones in as few shared files as hold them."""
        rooms: list[Tensor] = []
        values = {f.name: _packed(getattr(self, f.name), rooms) for f in fields(self)}  # type: ignore[arg-type]
        return _rebuilt, (type(self), values, rooms)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        def apply(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value)
            if isinstance(value, dict):
                return {k: apply(v) for k, v in value.items()}
            return value

        return replace(self, **{f.name: apply(getattr(self, f.name)) for f in fields(self)})  # type: ignore[type-var, arg-type]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Move to a device."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Copy to page-locked memory, from where a GPU takes it while it computes."""
        return self._map(lambda t: t.pin_memory())


@dataclass(frozen=True)
class _ByValue:
    """A small tensor on its way."""

    array: npt.NDArray[Any]

    def unpack(self, rooms: list[Tensor]) -> Tensor:
        return torch.from_numpy(self.array)


@dataclass(frozen=True)
class _Part:
    """A large tensor on its way: a part of a room that travels once, whatever parts of it do."""

    room: int
    dtype: torch.dtype
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def unpack(self, rooms: list[Tensor]) -> Tensor:
        storage = rooms[self.room].untyped_storage()
        part: Tensor = torch.empty(0, dtype=self.dtype).set_(storage, self.start, self.shape, self.strides)
        return part


def _packed(value: Any, rooms: list[Tensor]) -> Any:
    if isinstance(value, dict):
        return {k: _packed(v, rooms) for k, v in value.items()}
    if not isinstance(value, Tensor) or value.device.type != "cpu":
        return value
    if value.nbytes < _SMALL:
        return _ByValue(value.numpy())
    storage = value.untyped_storage()
    places = [room.untyped_storage().data_ptr() for room in rooms]
    if storage.data_ptr() not in places:
        places.append(storage.data_ptr())
        rooms.append(torch.empty(0, dtype=torch.uint8).set_(storage))
    place = places.index(storage.data_ptr())
    return _Part(place, value.dtype, int(value.storage_offset()), tuple(value.shape), value.stride())


def _unpacked(value: Any, rooms: list[Tensor]) -> Any:
    if isinstance(value, dict):
        return {k: _unpacked(v, rooms) for k, v in value.items()}
    return value.unpack(rooms) if isinstance(value, _ByValue | _Part) else value


def _rebuilt(kind: type[_Tensors], values: dict[str, Any], rooms: list[Tensor]) -> _Tensors:
    return kind(**{name: _unpacked(value, rooms) for name, value in values.items()})


@dataclass(frozen=True)
class PackedBatch(_Tensors):
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
    """By name, (B,)."""

    def __len__(self) -> int:
        return self.values.shape[0]


@dataclass(frozen=True)
class Batch(_Tensors):
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
    first = batches[0]
    kinds = {(b.bands, tuple(b.values.shape[1:]), b.values.dtype) for b in batches}
    if len(kinds) > 1:
        raise UsageError(
            f"sources give samples of different kinds ({'; '.join(map(str, sorted(map(str, kinds))))}); "
            "mix them with whole_batches=True, or give them the same bands, steps and crop"
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
        ``radiance`` (units of the files), ``reflectance`` (1), ``brightness_temperature`` (K), or ``mixed``:
        reflectance of the bands that have it and brightness temperature of the others. Values that are stored decoded
        stay.
    mean, std
        By band, to normalise by, in the units of the quantity; None leaves physical values.
    fill
        Value of pixels that are not valid, after normalisation. The default 0 is the mean of a normalised band: it
        says nothing. NaN makes every use of such a pixel visible.
    """

    def __init__(
        self,
        quantity: Quantity = "radiance",
        mean: Mapping[str, float] | None = None,
        std: Mapping[str, float] | None = None,
        fill: float = 0.0,
    ) -> None:
        super().__init__()
        if quantity not in ("radiance", "reflectance", "brightness_temperature", "mixed"):
            raise UsageError(
                f"quantity {quantity!r} is not known; choose radiance, reflectance, brightness_temperature or mixed"
            )
        if (mean is None) != (std is None):
            raise UsageError("normalisation needs both mean and std")
        self.quantity = quantity
        self.mean, self.std = dict(mean or {}), dict(std or {})
        self.fill = fill

    def forward(self, packed: PackedBatch) -> Batch:
        """Decode a batch.

        Raises
        ------
        UsageError
            If a band has no such quantity or no statistics.
        """
        values = packed.values.permute(0, 2, 1, 3, 4)
        pixels = values.to(torch.float32, memory_format=torch.contiguous_format)
        valid = torch.isfinite(pixels) if packed.mask is None else _valid(packed.mask, packed.rules)
        if packed.packing is not None:
            scale, offset = (n[..., None, None] for n in packed.packing.unbind(-1))
            pixels = pixels.mul_(scale).add_(offset)
            self._calibrate(pixels, packed)
        if self.mean:
            mean, std = (self._by_band(packed, numbers) for numbers in (self.mean, self.std))
            pixels = pixels.sub_(mean).div_(std)
        valid = valid & torch.isfinite(pixels)
        pixels = pixels.masked_fill_(~valid, self.fill)
        pixels, valid = _turn(pixels, packed.orientation), _turn(valid, packed.orientation)
        return Batch(pixels, valid, packed.bands, packed.meta, packed.labels)

    def _calibrate(self, radiance: Tensor, packed: PackedBatch) -> None:
        """Replace radiance by the quantity, in place, with each file's own coefficients."""
        if self.quantity == "radiance":
            return
        if packed.coefficients is None:
            raise UsageError(f"the samples carry no coefficients for {self.quantity}")
        for c, (name, rule) in enumerate(zip(packed.bands, packed.rules, strict=True)):
            law = rule.law(self.quantity)
            if law is None:
                raise UsageError(f"{name} has no {self.quantity}; choose bands that have, or quantity 'mixed'")
            places = {n: packed.coefficient_names.index(n) for n in LAWS[law].coefficients}
            numbers = {n: packed.coefficients[:, :, c, place, None, None] for n, place in places.items()}
            band = radiance[:, :, c]
            band.copy_(apply_law(law, band, numbers, TORCH))

    @staticmethod
    def _by_band(packed: PackedBatch, numbers: Mapping[str, float]) -> Tensor:
        missing = [b for b in packed.bands if b not in numbers]
        if missing:
            raise UsageError(f"the statistics have {', '.join(numbers)}, but not {', '.join(missing)}")
        values = torch.tensor([numbers[b] for b in packed.bands], device=packed.values.device, dtype=torch.float32)
        return values[:, None, None]


def _valid(mask: Tensor, rules: Sequence[BandRule]) -> Tensor:
    """Take each band's bit out of the masks; (B, T, C, Y, X)."""
    # Torch shifts signed integers only. The highest bit of the widest comes out as the sign, which the 1 cuts off.
    wide = mask.to(torch.int32 if mask.element_size() < 4 else torch.int64)
    bits = torch.tensor([r.bit for r in rules], device=mask.device, dtype=wide.dtype)[:, None, None]
    if mask.ndim == 4:
        return (wide[:, :, None] >> bits) & 1 != 0
    which = torch.tensor([r.mask for r in rules], device=mask.device)
    return (wide[:, which].transpose(1, 2) >> bits) & 1 != 0


def _turn(image: Tensor, orientation: Sequence[int]) -> Tensor:
    """Turn each sample of (B, ..., Y, X) as drawn."""
    if not any(orientation):
        return image
    turned = []
    for sample, code in zip(image, orientation, strict=True):
        quarter = torch.rot90(sample, code % 4, (-2, -1))
        turned.append(quarter.flip(-1) if code >= 4 else quarter)
    return torch.stack(turned)
