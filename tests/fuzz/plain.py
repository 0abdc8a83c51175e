"""Damage to bytes and to text, whatever they mean."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

__all__ = ["TOKENS", "damaged_bytes", "damaged_head", "damaged_lines", "damaged_text"]

_WORDS = [
    n.to_bytes(size, order, signed=True) for size in (2, 4, 8) for n in (-1, 0, 1) for order in ("little", "big")
] + [
    b"\xff" * 8,
    b"\x7f" + b"\xff" * 7,
    b"\xff" * 7 + b"\x7f",
    b"\x00" * 64,
    b"\x80\x00\x00\x00",
    b"\xff\xff\xff\x7f",
    b"\xef\xbb\xbf",
    b"\r\n",
]
TOKENS = (
    *("0", "-1", "1", "-0.0", "1e999", "-1e308", "1e-320", "NaN", "inf", "-Infinity", "null", "None", "true", "~", ""),
    *("9" * 30, "9" * 5000, str(2**31), str(2**63), str(-(2**63) - 1), "4294967296", "1_000", "0x10", "0o7", "1.5"),
    *("9999-12-31T23:59:59Z", "0000-00-00", "2020-02-30T25:61:61", "2020-06-01T00:00:00+99:99", "20200631T000000"),
    *(
        "..",
        "../../x",
        "/",
        "a" * 300,
        "\x00",
        "\u202e",
        "\u0663",
        "\ud7ff",
        "\U0001f600",
        "\u00e9",
        "%s",
        "{}",
        "'",
        '"',
        "\\",
    ),
    *(
        "[]",
        "{}",
        "<a/>",
        "&x;",
        "!!python/object:os.system",
        "*a",
        "&a [*a]",
        "s3://b/k",
        "file:///nowhere",
        "https://[::1/x",
    ),
)
_TOKEN = re.compile(r"[+-]?\d[\d.eE+-]*|[A-Za-z_][\w.-]*")
_MARKS = "[]{}<>()\"',:;=/\\&#!|-_ \n\t"


def damaged_bytes(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Flip bits, cut off, cut out, repeat, overwrite, splice: one to four times."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        found = _once(rng, found, others)
    return bytes(found)


def damaged_head(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """The same in the first few hundred bytes, where headers are, or in the last, where tables are."""
    size = min(len(data), rng.choice((64, 512, 2048)))
    if rng.random() < 0.7:
        return damaged_bytes(rng, data[:size], others) + data[size:]
    return data[: len(data) - size] + damaged_bytes(rng, data[len(data) - size :], others)


def _once(rng: random.Random, data: bytearray, others: Sequence[bytes]) -> bytearray:
    if not data:
        return bytearray(rng.randbytes(rng.randrange(40)))
    at = rng.randrange(len(data))
    long = min(len(data) - at, rng.choice((1, 4, 16, 200, 5000)))
    kind = rng.randrange(9)
    if kind <= 2:
        for _ in range(rng.choice((1, 1, 3, 8))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 3:
        del data[at:]
    elif kind == 4:
        del data[at : at + long]
    elif kind == 5:
        data[at:at] = data[at : at + long] * rng.choice((1, 2, 50))
    elif kind == 6:
        word = rng.choice(_WORDS)
        data[at : at + len(word)] = word
    elif kind == 7:
        data[at : at + long] = rng.randbytes(long)
    else:
        other = rng.choice(others) if others else bytes(data)
        begin = rng.randrange(len(other) + 1)
        data[at : at + long] = other[begin : begin + long]
    return data


def damaged_text(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Exchange numbers and words for odd ones, or for one another; drop and repeat marks."""
    text = data.decode(errors="replace")
    for _ in range(rng.choice((1, 1, 2, 5))):
        found = list(_TOKEN.finditer(text))
        kind = rng.randrange(7)
        if not found or kind == 0:
            at = rng.randrange(len(text) + 1)
            text = text[:at] + rng.choice(_MARKS) * rng.choice((1, 1, 3, 2000)) + text[at:]
        elif kind == 1:
            at = rng.randrange(len(text))
            text = text[:at] + text[at + 1 :]
        elif kind == 2:
            text = text[: rng.choice(found).start()]
        elif kind == 3:
            one, two = sorted(rng.choices(found, k=2), key=lambda m: m.start())
            if one is not two:
                text = text[: one.start()] + two[0] + text[one.end() : two.start()] + one[0] + text[two.end() :]
        else:
            one = rng.choice(found)
            text = text[: one.start()] + rng.choice(TOKENS) + text[one.end() :]
    return text.encode(errors="replace")


def damaged_lines(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Drop, repeat, exchange and empty lines, and take some of another file."""
    lines = data.splitlines(keepends=True) or [b""]
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(6)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(to, lines[at] * rng.choice((1, 3, 1000)))
    elif kind == 2:
        lines[at], lines[to] = lines[to], lines[at]
    elif kind == 3:
        lines[at] = b"\n"
    elif kind == 4:
        lines[at] = damaged_text(rng, lines[at])
    else:
        foreign = (rng.choice(others) if others else data).splitlines(keepends=True) or [b"x\n"]
        lines.insert(at, rng.choice(foreign))
    return b"".join(lines)
