"""How the arrays of a store are compressed: a few choices by name, as Zarr v3 writes them down.

Every one ends in a checksum, so that a flipped bit is an error and never a wrong pixel. The default was chosen by the
rule that ``tests/benchmarks/bench_codecs.py`` states and measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from stratacube.choices import OneOf

__all__ = ["BEFORE", "CODECS", "CodecName", "codecs_of"]

Codecs = Sequence[Mapping[str, Any]]


def _blosc(compressor: str, level: int, shuffle: str) -> Codecs:
    """Blosc, and a checksum, which its own format lacks."""
    settings = {"cname": compressor, "clevel": level, "shuffle": shuffle, "blocksize": 0}
    return {"name": "blosc", "configuration": settings}, {"name": "crc32c"}


CODECS: Mapping[str, Codecs] = {
    "lz4hc": _blosc("lz4hc", 5, "bitshuffle"),
    "lz4": _blosc("lz4", 5, "bitshuffle"),
    "zstd-shuffle": _blosc("zstd", 5, "shuffle"),
    "zstd": ({"name": "zstd", "configuration": {"level": 3, "checksum": True}},),
}
"""By name: fast to read and small, fast to write, the smallest, and what versions before the choice wrote."""

BEFORE = "zstd"
"""What stores were compressed with before there was a choice."""


def codecs_of(name: str, *, mask: bool = False) -> list[dict[str, Any]]:
    """Codecs of an array, as zarr takes them.

    Parameters
    ----------
    name
        One of :data:`CODECS`.
    mask
        Whether the array is a mask: most of its bytes are those before, which shuffling bits only makes slower.
    """
    chain = [dict(codec) for codec in CODECS[name]]
    if mask and chain[0]["name"] == "blosc":
        chain[0]["configuration"] = {**chain[0]["configuration"], "shuffle": "shuffle"}
    return chain


CodecName = Annotated[str, OneOf(lambda: list(CODECS))]
"""Name of a codec, in a configuration."""
