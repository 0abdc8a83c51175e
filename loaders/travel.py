"""How tensors that belong together move: to a device, to pinned memory, from process to process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Tensors"]

_SMALL = 2**16
"""Bytes of a tensor that is handed over by value: shared memory costs a file and a message for each tensor."""


class Tensors:
    """What batches and their parts share: every field that is, or holds, tensors moves together."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes: small tensors by value, large ones in as few shared files as hold them."""
        rooms: list[Tensor] = []
        return _unpacked, (_packed(self, rooms), rooms)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        def apply(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value)
            if isinstance(value, Tensors):
                return value._map(change)
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
class _Whole:
    """A batch, or a part of one, on its way."""

    kind: type[Tensors]
    values: dict[str, Any]

    def unpack(self, rooms: list[Tensor]) -> Tensors:
        return self.kind(**{name: _unpacked(value, rooms) for name, value in self.values.items()})


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
    if isinstance(value, Tensors):
        parts = {f.name: _packed(getattr(value, f.name), rooms) for f in fields(value)}  # type: ignore[arg-type]
        return _Whole(type(value), parts)
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
    return value.unpack(rooms) if isinstance(value, _Whole | _ByValue | _Part) else value
