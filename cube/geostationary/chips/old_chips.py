"""Chips of one frame, as SatVision-Pix4D wrote them first: an npz whose ``data`` is a pickled dict.

A pickle is a program. This one may make arrays, numbers, text and a dict of them, and nothing else: whatever else it
names is refused before it is looked up.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import numpy.typing as npt

__all__ = ["plain_dict"]

_MOST = 10_000
"""Names of such a dict; those written have 13."""


def plain_dict(stream: IO[bytes]) -> dict[str, npt.NDArray[Any]]:
    """Read a pickled dict of arrays, numbers and text.

    Parameters
    ----------
    stream
        At the start of the pickle of an array of no dimensions that holds the dict, as numpy writes it.

    Returns
    -------
    dict
        By name, its values as arrays.

    Raises
    ------
    ValueError
        If it holds anything else; others where it is no pickle.
    """
    raw = stream.read()
    _refuse_large(raw)
    held = _Plain(io.BytesIO(raw)).load()
    if isinstance(held, np.ndarray) and held.size == 1:
        held = held.item()
    if not isinstance(held, dict) or len(held) > _MOST or not all(isinstance(name, str) for name in held):
        raise ValueError(f"the pickled data is {type(held).__name__}, not a dict by name")
    found = {}
    for name, value in held.items():
        # What numpy may make of anything else, as of a list of lists of different lengths, is no array of numbers.
        if not isinstance(value, np.ndarray | np.generic | str | int | float | bool):
            raise ValueError(f"{name} is a {type(value).__name__}, not an array, a number or text")
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise ValueError(f"{name} is an array of objects, not of numbers or text")
        found[name] = array
    return found


def _refuse_large(raw: bytes) -> None:
    """Refuse a pickle that asks for more room than it is long: a few bytes of it could take all memory there is."""
    for code, argument, _ in pickletools.genops(raw):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(raw):
            raise ValueError(f"the pickled data numbers something {argument} and has {len(raw)} bytes")


class _Plain(pickle.Unpickler):
    """Makes arrays, numbers, text and containers of them."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what an array is made with; everything else is refused."""
        known = _ALLOWED.get((module.replace("numpy.core", "numpy._core"), name))
        if known is None:
            raise ValueError(f"the pickled data names {module}.{name}, which is not an array, number or text")
        return known

    def persistent_load(self, pid: Any) -> Any:
        """Refuse what lies elsewhere."""
        raise ValueError(f"the pickled data names something outside it ({pid})")


class _Array:
    """What stands for numpy's class, which could be called to make an array of any size."""


def _empty(kind: type, shape: tuple[int, ...], typecode: Any) -> npt.NDArray[Any]:
    """An array to be filled by what follows; of numpy's own pickles it is always of no elements."""
    if kind is not _Array or tuple(shape) != (0,):
        raise ValueError(f"the pickled data begins with an array of {shape}, not of (0,) as numpy writes it")
    return np.empty((0,), "i1")


def _number(dtype: np.dtype[Any], raw: bytes) -> Any:
    """A number of numpy's, of its bytes."""
    if dtype.hasobject or len(raw) != dtype.itemsize:
        raise ValueError(f"the pickled data has {len(raw)} bytes for a number of {dtype}")
    return np.frombuffer(raw, dtype)[0]


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """Bytes, as the pickles of Python 2's protocol have them."""
    return text.encode(encoding)


def _buffer(raw: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> npt.NDArray[Any]:
    """An array of its bytes, as pickles of the newest protocol have it."""
    if dtype.hasobject:
        raise ValueError("the pickled data has an array of objects in its bytes")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if order == "F" else "C")


_ALLOWED: dict[tuple[str, str], Callable[..., Any] | type] = {
    ("numpy._core.multiarray", "_reconstruct"): _empty,
    ("numpy._core.multiarray", "scalar"): _number,
    ("numpy._core.numeric", "_frombuffer"): _buffer,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encoded,
}
"""What numpy names in the pickle of an array or a number, by module and name, and what stands for it here."""
