"""Reads one HDF4 file in a process of its own, which its library may end: run by file, imports nothing of ours."""

from __future__ import annotations

import io
import json
import resource
import sys

import numpy as np

_MOST_MEMORY = 4 << 30
"""Bytes: a damaged file may ask for any number of them."""


def main() -> None:
    """Write an npz of what was asked for to standard output: arguments are a path and JSON of the names."""
    from pyhdf import HDF, SD, VS  # noqa: F401, PLC0415  (an extra; a file's vstart() looks for VS)

    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = _MOST_MEMORY if most == resource.RLIM_INFINITY else min(most, _MOST_MEMORY)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    path, asked = sys.argv[1], json.loads(sys.argv[2])
    arrays: dict[str, object] = {}
    sets = SD.SD(path, SD.SDC.READ)
    told = {"attributes": _plain(sets.attributes()), "sets": {}}
    for name in sorted(set(asked["sets"]) & set(sets.datasets())):
        data = sets.select(name)
        arrays[f"set:{name}"], told["sets"][name] = np.asarray(data[:]), _plain(data.attributes())
    sets.end()
    file = HDF.HDF(path)
    tables = file.vstart()
    for name in sorted(set(asked["columns"]) & {info[0] for info in tables.vdatainfo()}):
        table = tables.attach(name)
        arrays[f"column:{name}"] = np.asarray(table[:]).reshape(-1)
        table.detach()
    tables.end()
    file.close()
    held = io.BytesIO()
    np.savez(held, told=np.array(json.dumps(told)), **arrays)  # type: ignore[arg-type]
    sys.stdout.buffer.write(held.getbuffer())


def _plain(attributes: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in attributes.items() if isinstance(value, str | int | float)}


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # noqa: BLE001  (whatever the library makes of a damaged file)
        sys.stderr.write("\n" + " ".join(f"{type(error).__name__}: {error}".split())[:200])
        sys.exit(1)
