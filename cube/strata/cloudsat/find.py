"""Granules of a folder, by their names."""

from __future__ import annotations

import glob
from datetime import datetime
from pathlib import Path

from cube.strata.cloudsat.granule import AUX, PRODUCTS, GranuleName, parse_name
from stratacube.errors import UsageError

__all__ = ["aux_of", "find_granules"]


def find_granules(
    root: str, start: datetime | None = None, end: datetime | None = None, orbit: int | None = None
) -> dict[Path, GranuleName]:
    """Granules with clouds, in order of time.

    Parameters
    ----------
    root : str
        Folder, searched to any depth, or a glob.
    start, end : datetime, optional
        Granules that lie wholly outside are left out; naive UTC.
    orbit : int, optional
        Only this one.

    Raises
    ------
    UsageError
        If there is none; or both products of one orbit, of which each would give the same tiles.
    """
    found = _named(root, PRODUCTS)
    if not found:
        raise UsageError(
            f"`cloudsat_root` is {root}: it has no granule YYYYDDDHHMMSS_ORBIT_CS_PRODUCT_GRANULE_*.hdf of "
            f"{' or '.join(PRODUCTS)}; give their folder or a glob"
        )
    wanted = {
        path: name
        for path, name in found.items()
        if (orbit is None or name.orbit == orbit)
        and (start is None or name.end >= start)
        and (end is None or name.start <= end)
    }
    if not wanted:
        starts = [name.start for name in found.values()]
        which = "" if orbit is None else f" of `orbit` {orbit}"
        raise UsageError(
            f"`cloudsat_root` is {root}: none of its {len(found)} granules, from {min(starts)} to {max(starts)}, is in "
            f"the period {start} to {end}{which}; give others"
        )
    orbits: dict[int, Path] = {}
    for path, name in wanted.items():
        if name.orbit in orbits:
            raise UsageError(
                f"`cloudsat_root` is {root}: orbit {name.orbit} is there twice ({orbits[name.orbit]}, {path}); "
                "give a folder or a glob of one product"
            )
        orbits[name.orbit] = path
    return wanted


def aux_of(root: str) -> dict[int, Path]:
    """Granules of ECMWF-AUX by orbit.

    Raises
    ------
    UsageError
        If there is none.
    """
    found = _named(root, (AUX,))
    if not found:
        raise UsageError(f"`cloudsat_aux_root` is {root}: it has no granule of {AUX}; give their folder or a glob")
    return {name.orbit: path for path, name in found.items()}


def _named(root: str, products: tuple[str, ...]) -> dict[Path, GranuleName]:
    paths = Path(root).rglob("*.hdf") if Path(root).is_dir() else map(Path, glob.glob(root, recursive=True))
    named = {path: parse_name(path.name) for path in sorted(paths)}
    known = {path: name for path, name in named.items() if name is not None and name.product in products}
    return dict(sorted(known.items(), key=lambda item: (item[1].start, item[0].name)))
