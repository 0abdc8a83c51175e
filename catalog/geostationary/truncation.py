"""Whether an HDF5 file (which NetCDF-4 is) ends before its own end, told from its first bytes alone."""

from __future__ import annotations

__all__ = ["breaks_off"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def breaks_off(path: str) -> bool:
    """Whether a local file is shorter than its superblock says, or is no HDF5 file at all.

    Source: HDF5 File Format Specification, section II.A (end of file address).

    Parameters
    ----------
    path
        A local path; one that cannot be opened breaks off.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(96)
            size = file.seek(0, 2)
    except OSError:
        return True
    if len(head) < 48 or not head.startswith(_SIGNATURE):
        return True
    # Versions 0 and 1 keep the size of an address at byte 13 and the end after base and free-space address;
    # versions 2 and 3 at byte 9, and after base and extension address.
    version = head[8]
    width, base = (head[13], 24 + 4 * version) if version < 2 else (head[9], 12)
    end = int.from_bytes(head[base + 2 * width : base + 3 * width], "little")
    return size < end
