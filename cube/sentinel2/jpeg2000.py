"""Parts of JPEG2000 tiles, decoded by the OpenJPEG library that GDAL brings.

GDAL decodes a JPEG2000 tile whole, wherever in it the pixels asked for lie. OpenJPEG itself decodes only the
code-blocks under an area, which is most of the time saved for cells not much larger than a tile of the file. Where its
library is not found, or the file is of a kind for which the two might differ, GDAL reads the tiles as ever: the pixels
are the same.
"""

from __future__ import annotations

import ctypes as c
import ctypes.util
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio

from cube.sentinel2.lattice import Window
from stratacube.errors import SourceError

__all__ = ["can_decode_areas", "decode_area", "version"]

_OLDEST = (2, 5)
"""Areas have the bits of the whole there; older versions were not tried."""

_JP2, _READ, _BUFFER = 2, 1, 1 << 12
_PARAMETERS_SIZE = 1 << 14
"""Room for ``opj_dparameters_t``, which takes 8.3 kB."""

_Handler = c.CFUNCTYPE(None, c.c_char_p, c.c_void_p)


class _Component(c.Structure):
    _fields_ = (
        *((name, c.c_uint32) for name in ("dx", "dy", "w", "h", "x0", "y0", "prec", "bpp", "sgnd", "resno", "factor")),
        ("data", c.POINTER(c.c_int32)),
        ("alpha", c.c_uint16),
    )


class _Image(c.Structure):
    _fields_ = (
        *((name, c.c_uint32) for name in ("x0", "y0", "x1", "y1", "count")),
        ("color_space", c.c_int),
        ("components", c.POINTER(_Component)),
        ("profile", c.c_void_p),
        ("profile_size", c.c_uint32),
    )


_ImagePointer = c.POINTER(_Image)


class _Coding(c.Structure):
    """Head of ``opj_tccp_info_t``."""

    _fields_ = tuple(
        (name, c.c_uint32) for name in ("component", "style", "levels", "width", "height", "block_style", "reversible")
    )


class _Tile(c.Structure):
    _fields_ = (
        *((name, c.c_uint32) for name in ("number", "style", "progression", "layers", "transform")),
        ("coding", c.POINTER(_Coding)),
    )


class _Codestream(c.Structure):
    """Head of ``opj_codestream_info_v2_t``."""

    _fields_ = (
        *((name, c.c_uint32) for name in ("tx0", "ty0", "tdx", "tdy", "tw", "th", "count")),
        ("tile", _Tile),
    )


@cache
def _library() -> c.CDLL | None:
    """OpenJPEG as rasterio's wheels bring it, else the system's; None where there is none that is known to do."""
    package = Path(rasterio.__file__).parent
    beside = [*package.parent.glob("rasterio.libs/libopenjp2*"), *package.glob(".dylibs/libopenjp2*")]
    name = str(beside[0]) if beside else c.util.find_library("openjp2")
    if name is None:
        return None
    try:
        library = c.CDLL(name)
        library.opj_version.restype = c.c_char_p
        version = tuple(int(part) for part in library.opj_version().decode().split(".")[:2])
        if not _OLDEST <= version < (3,):
            return None
        _declare(library)
    except (OSError, AttributeError, ValueError):
        return None
    return library


def version() -> str | None:
    """Version of the OpenJPEG that decodes parts of images; None where whole blocks are decoded by GDAL."""
    library = _library()
    return None if library is None else str(library.opj_version().decode())


def _declare(library: c.CDLL) -> None:
    handle, image = c.c_void_p, c.POINTER(_ImagePointer)
    for name, result, arguments in (
        ("stream_create_file_stream", handle, (c.c_char_p, c.c_size_t, c.c_int)),
        ("stream_destroy", None, (handle,)),
        ("create_decompress", handle, (c.c_int,)),
        ("destroy_codec", None, (handle,)),
        ("set_default_decoder_parameters", None, (c.c_void_p,)),
        ("set_error_handler", c.c_int, (handle, _Handler, c.c_void_p)),
        ("setup_decoder", c.c_int, (handle, c.c_void_p)),
        ("read_header", c.c_int, (handle, handle, image)),
        ("get_cstr_info", c.POINTER(_Codestream), (handle,)),
        ("destroy_cstr_info", None, (c.POINTER(c.POINTER(_Codestream)),)),
        ("set_decode_area", c.c_int, (handle, _ImagePointer, *4 * (c.c_int32,))),
        ("decode", c.c_int, (handle, handle, _ImagePointer)),
        ("end_decompress", c.c_int, (handle, handle)),
        ("image_destroy", None, (_ImagePointer,)),
    ):
        function = getattr(library, f"opj_{name}")
        function.restype, function.argtypes = result, arguments


class _Decoder:
    """One file, its header read; good for one area."""

    def __init__(self, library: c.CDLL, path: Path) -> None:
        self.opj, self.path, self.messages = library, path, list[str]()
        self._note = _Handler(lambda text, _: self.messages.append(text.decode("utf-8", "replace").strip()))
        self.image = _ImagePointer()
        self.codec = library.opj_create_decompress(_JP2)
        self.stream = library.opj_stream_create_file_stream(os.fsencode(path), _BUFFER, _READ)

    def __enter__(self) -> _Decoder:
        parameters = c.create_string_buffer(_PARAMETERS_SIZE)
        self.opj.opj_set_default_decoder_parameters(parameters)
        self.opj.opj_set_error_handler(self.codec, self._note, None)
        done = self.stream and self.opj.opj_setup_decoder(self.codec, parameters)
        if not (done and self.opj.opj_read_header(self.stream, self.codec, c.byref(self.image))):
            self.__exit__()
            raise SourceError(f"{self.path} cannot be opened ({self._reason()})")
        return self

    def __exit__(self, *_: object) -> None:
        if self.image:
            self.opj.opj_image_destroy(self.image)
        if self.stream:
            self.opj.opj_stream_destroy(self.stream)
        self.opj.opj_destroy_codec(self.codec)

    def _reason(self) -> str:
        return self.messages[0][:200] if self.messages else "OpenJPEG does not say why"

    def is_exact(self) -> bool:
        """Whether an area has the same bits decoded alone: one component, reversible. Headers of tiles are not seen."""
        info = self.opj.opj_get_cstr_info(self.codec)
        if not info:
            return False
        coding = info.contents.tile.coding
        reversible = bool(coding and coding.contents.reversible)
        self.opj.opj_destroy_cstr_info(c.byref(info))
        image = self.image.contents
        one = image.components[0]
        return bool(
            reversible
            and image.count == 1
            and (image.x0, image.y0, one.dx, one.dy) == (0, 0, 1, 1)
            and not one.sgnd
            and one.prec <= 16
        )

    def decode(self, window: Window, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return the pixels of a window."""
        edges = window.col, window.row, window.end_col, window.end_row
        if not (
            self.opj.opj_set_decode_area(self.codec, self.image, *edges)
            and self.opj.opj_decode(self.codec, self.stream, self.image)
        ):
            raise SourceError(self._reason())
        one = self.image.contents.components[0]
        if self.image.contents.count != 1 or not one.data or (one.h, one.w) != (window.height, window.width):
            raise SourceError(f"{one.h} x {one.w} pixels came of {window.height} x {window.width}")
        # not by np.ctypeslib, for which ctypes keeps a type of every shape for ever
        counts = (c.c_int32 * (one.h * one.w)).from_address(c.addressof(one.data.contents))
        return np.frombuffer(counts, "i4").reshape(one.h, one.w).astype(dtype)  # a copy


def can_decode_areas(path: Path) -> bool:
    """Tell whether areas of a file can be decoded alone, with the bits that GDAL gives.

    Parameters
    ----------
    path
        A file that GDAL takes for JPEG2000.
    """
    library = _library()
    if library is None:
        return False
    try:
        with _Decoder(library, path) as decoder:
            return decoder.is_exact()
    except SourceError:
        return False  # bare codestreams and other wrappings, which GDAL reads


def decode_area(path: Path, window: Window, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Decode a part of a file for which :func:`can_decode_areas` holds.

    Parameters
    ----------
    path
        The file.
    window
        Pixels within the image.
    dtype
        Type of the image's counts.

    Returns
    -------
    numpy.ndarray
        Shape (height, width).

    Raises
    ------
    SourceError
        If the file is damaged there; the text is OpenJPEG's own.
    """
    library = _library()
    assert library is not None
    with _Decoder(library, path) as decoder:
        return decoder.decode(window, dtype)
