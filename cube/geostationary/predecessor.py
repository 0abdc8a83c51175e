"""Before a build begins: SatVision-Pix4D's defaults, its tables without any scan, settings that change nothing."""

from __future__ import annotations

import logging
from typing import Any

from cube.config import AbiConfig, default_workers
from cube.geostationary.folder import AbiFolder
from cube.geostationary.layout import TileLayout
from cube.job.engine import Workers
from cube.plug import imported_of_plug
from cube.registry import STRATA
from stratacube.choices import many
from stratacube.claim import claimed
from stratacube.command import Answer
from stratacube.errors import UsageError

__all__ = ["tables_alone", "tell_idle", "with_predecessors_defaults"]

_log = logging.getLogger(__name__)

_RANDOM = {"start_dt": "2019-01-01T00:00:00", "end_dt": "2019-01-10T23:59:59", "num_tiles": 5, "seed": 0}
"""What its random tiles are where nothing is said."""


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
    if config.stratification == "convection" and config.local_data_dir is None and not _begun(config):
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
        If the folder holds a build, or no input can be used.
    """
    root = config.output_dir
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
        paths, problems = imported_of_plug(str(part.stratum.alone))(part.options, root, pool.executor)
    for problem in problems:
        _log.warning("%s", problem.message)
    if not paths:
        raise UsageError(f"no table was written: none of {many(len(problems), 'file')} can be used")
    lines = [f"{many(len(paths), 'table')} in {root}"]
    return Answer(int(bool(problems)), lines, {"folder": str(root), "tables": [str(path) for path in paths]})
