"""The files of a scan, packed: those of a year of full disks fill half a gigabyte as objects, and a tenth of it so."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping

from catalog.geostationary.naming import Naming
from catalog.geostationary.scans import SourceFile

__all__ = ["PackedFiles"]


class PackedFiles(Mapping[int, SourceFile]):
    """Files by channel. Which channels there are is told at once; a file is unpacked each time it is asked for.

    Parameters
    ----------
    files
        By channel.
    naming
        Names of the imager: but for its address, size and tag, a file is what its name tells.
    """

    __slots__ = ("_channels", "_naming", "_packed")

    def __init__(self, files: Mapping[int, SourceFile], naming: Naming) -> None:
        self._channels, self._naming = tuple(files), naming
        rows = [(file.href, file.size, file.tag) for file in files.values()]
        self._packed = zlib.compress(json.dumps(rows).encode(), level=1)  # of 16 addresses, nearly the same

    def __getitem__(self, channel: int) -> SourceFile:
        if channel not in self._channels:
            raise KeyError(channel)
        href, size, tag = json.loads(zlib.decompress(self._packed))[self._channels.index(channel)]
        name = self._naming.parse_path(href)
        if name is None:
            raise ValueError(f"{href} was a file of {self._naming.title} when it was packed, and is none now")
        return SourceFile(href, size, tag, *name)

    def __contains__(self, channel: object) -> bool:
        return channel in self._channels

    def __iter__(self) -> Iterator[int]:
        return iter(self._channels)

    def __len__(self) -> int:
        return len(self._channels)
