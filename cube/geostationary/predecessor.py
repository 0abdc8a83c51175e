"""Before a build begins: SatVision-Pix4D's defaults, its tables without any scan, settings that change nothing."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from catalog.geostationary.scans import Scan
from cube.config import AbiConfig, default_workers
from cube.geostationary.folder import AbiFolder
from cube.geostationary.grid import FixedGrid
from cube.geostationary.layout import TileLayout
from cube.job.engine import Workers
from cube.plug import imported_of_plug
from cube.registry import STRATA
from cube.strata.base import SampleRequest
from stratacube.choices import many
from stratacube.claim import claimed
from stratacube.command import Answer
from stratacube.errors import UsageError

__all__ = ["tables_alone", "tell_idle", "with_predecessors_defaults"]

_log = logging.getLogger(__name__)

_RANDOM = {"start_dt": "2019-01-01T00:00:00", "end_dt": "2019-01-10T23:59:59", "num_tiles": 5, "seed": 0}
"""What its random tiles are where nothing is said."""


_BY_SCANS = (
    "max_view_zenith",
    "max_solar_zenith",
    "min_solar_zenith",
    "light",
    "surface",
    "margin",
    "min_spacing_km",
    "min_spacing_minutes",
    "min_valid",
    "quotas",
    "plan",
)
"""Limits of a tile's pixels, or of its centre when it was seen: what files of systems do not tell."""
_LIMITS_BY_DEFAULT = {"max_view_zenith"}
"""Those that are limits even at the value that is taken where none is given."""


def with_predecessors_defaults(config: AbiConfig) -> AbiConfig:
    """Fill in what SatVision-Pix4D takes where nothing is given, and say so in one line.

    That is its folder; for random tiles from S3, which cannot be listed without a period, its period, number and seed;
    and for convection from S3 both satellites, each event by the one that sees it best, but in a folder where a build
    with one was begun.
    """
    taken: dict[str, Any] = {} if "output_dir" in config.model_fields_set else {"output_dir": str(config.output_dir)}
    online = config.local_data_dir is None or config.download
    if config.stratification == "random" and online and config.start_dt is None and config.end_dt is None:
        taken |= {name: value for name, value in _RANDOM.items() if name not in config.model_fields_set}
    if (
        config.archive
        and config.stratification == "convection"
        and config.local_data_dir is None
        and not _begun(config)
    ):
        taken |= {"satellite": "east west"} if "satellite" not in config.model_fields_set else {}
    if not taken:
        return config
    told = ", ".join(f"`{name}={value}`" for name, value in taken.items())
    _log.info("SatVision-Pix4D's defaults are taken for what was not given: %s", told)
    return type(config).check({**config.model_dump(exclude_unset=True), **taken})


def tell_idle(config: AbiConfig, layout: TileLayout) -> None:
    """Warn of settings that change nothing beside the others."""
    if config.half_km != "mean" and not layout.has_finer:
        _log.warning("`half_km=%s` changes nothing: none of `channels` has pixels of 0.5 km", config.half_km)
    if config.grid != "1km" and "store" in config.model_fields_set:
        _log.warning("`store` changes nothing: with `grid=%s` there is one way to store the bands", config.grid)


def _refuse_limits_of_scans(config: AbiConfig) -> None:
    fields = type(config).model_fields
    given = [
        name
        for name in _BY_SCANS
        if name in config.model_fields_set
        and (getattr(config, name) != fields[name].get_default(call_default_factory=True) or name in _LIMITS_BY_DEFAULT)
    ]
    if given:
        *most, last = (f"`{name}`" for name in given)
        told = f"{', '.join(most)} and {last} are" if most else f"{last} is"
        raise UsageError(
            f"{told} judged by scans, and `no_archive` looks for none; leave that out, or {'these' if most else 'this'}"
        )


def _no_grid(scan: Scan) -> FixedGrid:
    raise AssertionError(f"there are no scans, and {scan.id} is one")


def _begun(config: AbiConfig) -> bool:
    """Whether the build is in its folder as it stands."""
    return AbiFolder(config.output_dir).holds(config.digest())


def tables_alone(config: AbiConfig) -> Answer:
    """Write the tables of a stratum's inputs, without any scan.

    Returns
    -------
    Answer
        Code 1 if some of the inputs could not be used.

    Raises
    ------
    UsageError
        If the folder holds a build, no input can be used, or a limit is given that scans alone can judge.
    """
    _refuse_limits_of_scans(config)
    root = config.output_dir
    latitudes = (config.latitudes[0], config.latitudes[1]) if config.latitudes else None
    if AbiFolder(root).config.exists():
        raise UsageError(
            f"{root} holds a build, among whose parts these tables have no place; choose another `output_dir`"
        )
    root.mkdir(parents=True, exist_ok=True)
    workers = config.workers or default_workers()
    with (
        claimed(root) as fence,
        STRATA.blamed(config.stratification),
        Workers(workers, fence=fence, limit=60 * config.task_minutes) as pool,
    ):
        (part,) = config.parts
        given = {n: getattr(config, n) for n in type(part.options).model_fields if n in config.model_fields_set}
        options = part.options.check({name: value for name, value in given.items() if value is not None})
        request = SampleRequest(
            scans=(),
            grid_of=_no_grid,
            tile_size=config.tile_size,
            start=config.start_dt,
            end=config.end_dt and config.end_dt - timedelta(microseconds=1),
            num_tiles=config.num_tiles,
            seed=config.seed,
            executor=pool.executor,
        )
        paths, problems = imported_of_plug(str(part.stratum.alone))(options, request, latitudes, root)
    for problem in problems:
        _log.warning("%s", problem.message)
    if not paths:
        raise UsageError(f"no table was written: none of {many(len(problems), 'file')} can be used")
    lines = [f"{many(len(paths), 'table')} in {root}"]
    return Answer(int(bool(problems)), lines, {"folder": str(root), "tables": [str(path) for path in paths]})
