"""Whether a file of a product is whole, where no digest of it is known: images decoded to their end, XML parsed."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

from catalog.sentinel2.items import Asset
from catalog.sentinel2.metadata import read_granule, read_product
from cube.sentinel2.blocks import BlockReader, Decoded
from cube.sentinel2.lattice import Window
from stratacube.errors import SourceError
from stratacube.guard import guarded

__all__ = ["refuse_damaged"]

_SIGNATURE, _END = b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\xd9"
"""First bytes of a JP2 file (ISO/IEC 15444-1, I.5.1), last ones of its codestream (A.4.4)."""
_LEAST = 14
"""Bytes that a tile takes at least: its markers SOT and SOD (A.4.2, A.4.3)."""


def refuse_damaged(path: Path) -> str:
    """Refuse a file that is cut or cannot be read.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    str
        How that was found out.

    Raises
    ------
    SourceError
        If it is cut, cannot be decoded or is not what its name says.
    """
    name = path.name.lower()
    if name.endswith(".jp2"):
        _refuse_cut(path)
        _decode(path)
        return "decoded"
    if name == "mtd_msil2a.xml":
        read_product(path)
    elif name == "mtd_tl.xml":
        read_granule(path)
    elif path.stat().st_size == 0:
        raise SourceError(f"{path} is empty")
    else:
        return "not checked"
    return "parsed"


def _refuse_cut(path: Path) -> None:
    """Refuse a file whose boxes reach beyond its end: a decoder may not need its last bytes, and not miss them."""
    size = path.stat().st_size
    with guarded(f"{path} is not a JPEG2000 file"), path.open("rb") as file:
        if file.read(len(_SIGNATURE)) != _SIGNATURE:
            raise SourceError(f"{path} does not begin as a JP2 file does")
        place = 0
        while place < size:
            length, kind = _box(file, place)
            end = max(place + length, place + 8) if length else size
            if end > size:
                raise SourceError(f"{path} is cut: it has {size} bytes, and goes on to {end} by its boxes")
            if kind == b"jp2c":
                file.seek(end - 2)
                if file.read(2) != _END:
                    raise SourceError(f"{path} is cut: it has {size} bytes, and the end of its image is not among them")
                tiles = _tiles(file, place)
                if tiles * _LEAST > size:  # looking for what is not there takes hours
                    raise SourceError(
                        f"{path} is damaged: it tells of {tiles:,} tiles, for which its {size:,} bytes have no room"
                    )
            place = end


def _box(file: BinaryIO, place: int) -> tuple[int, bytes]:
    """Length and kind of a box; 0 for one that goes on to the end of the file."""
    file.seek(place)
    head = file.read(16)
    length = int.from_bytes(head[:4], "big")
    return int.from_bytes(head[8:16], "big") if length == 1 else length, head[4:8]


def _tiles(file: BinaryIO, place: int) -> int:
    """Tiles that the header of a codestream tells of, which begins in a box (A.5.1)."""
    file.seek(place)
    head = file.read(16 + 40)
    image = head[16 if head[:4] == b"\x00\x00\x00\x01" else 8 :][8:40]
    numbers: tuple[int, ...] = struct.unpack(">8I", image)
    right, bottom, _, _, width, height, left, top = numbers
    return -(-(right - left) // width) * -(-(bottom - top) // height)


def _decode(path: Path) -> None:
    with BlockReader(Asset(href=os.fspath(path)), Decoded()) as reader:
        for block in reader.blocks(Window(0, 0, reader.grid.height, reader.grid.width)):
            reader.read(reader.place(block))
            reader.forget([block])
