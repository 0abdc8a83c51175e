"""Digests of files, as catalogues write them and as files are checked against them.

A catalogue's multihash prefix is no help: CDSE writes that of MD5 (``d501``) before SHA3-256 digests too. The length
decides: 16 bytes are MD5, 32 bytes SHA3-256.

Source: https://github.com/multiformats/multihash
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["file_digest", "hasher", "multihash", "read_checksum"]

_SHA2_256 = 0x12
_CODES = {32: "d50110", 64: "1620"}
"""Prefix by digest length in characters: MD5 and SHA3-256."""


def read_checksum(text: str | None) -> str | None:
    """Digest in a multihash or a bare digest, lower-case hexadecimal.

    Returns
    -------
    str or None
        32 characters (MD5) or 64 (SHA3-256); None where it is of another kind and nothing can be checked.
    """
    if text is None:
        return None
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        return None
    if len(raw) in (16, 32):
        return raw.hex()
    code, rest = _varint(raw)
    length, digest = _varint(rest)
    if length != len(digest) or length not in (16, 32) or code == _SHA2_256:
        return None
    return digest.hex()


def _varint(raw: bytes) -> tuple[int, bytes]:
    """First number of a multihash, seven bits a byte, and what follows it."""
    value = 0
    for place, byte in enumerate(raw):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, raw[place + 1 :]
    return value, b""


def multihash(digest: str) -> str:
    """Multihash of a digest as :func:`read_checksum` returns it."""
    return _CODES[len(digest)] + digest


def hasher(digest: str) -> Callable[[], Any]:
    """What makes the hash that a digest is of."""
    return _md5 if len(digest) == 32 else hashlib.sha3_256


def file_digest(path: Path, like: str) -> str:
    """Digest of a file, of the kind of another digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, hasher(like)).hexdigest()


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)
