"""Synthetic GOES ABI L1b archives in the exact format of the real ones.

For ``make demo``, tests and benchmarks where no real archive can be had. Every file says that it is synthetic in its
title, summary and the global attribute ``synthetic``. The sky is a function of the seed: cloud-system masks of the
same seed (`cube.testing.write_cloud_systems`) show the same systems.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cube.testing.abi.file import Stripe, write_file
from cube.testing.abi.geometry import Grid
from cube.testing.abi.pixels import radiance_of, render
from cube.testing.abi.sky import Image, Sky, sky
from cube.testing.abi.spec import GOES16, FileSpec, pixel_of, sector_grid
from cube.testing.workers import spread
from stratacube.errors import UsageError
from stratacube.times import naive_utc

__all__ = ["write_abi_archive", "write_abi_file", "write_abi_full_disk"]

ARCHIVE_NOISE = 0.03
"""Below that of the instrument, to keep a demonstration small."""
_DISK_COARSE = 4
"""A full disk's sky is computed on 8 km pixels."""


def write_abi_file(
    path: str | Path,
    *,
    platform: str = "goes16",
    sector: str = "M1",
    channel: int,
    start: datetime,
    mode: int = 6,
    centre: tuple[float, float] | None = None,
    corner: tuple[float, float] | None = None,
    shape: tuple[int, int] | None = None,
    lon_0: float | None = None,
    counts: npt.NDArray[np.uint16] | None = None,
    dqf: npt.NDArray[np.int8] | None = None,
    packing: tuple[float, float] | None = None,
    fill: int | None = None,
    calibration: Mapping[str, float] | None = None,
    chunks: tuple[int, int] | None = None,
    shuffle: bool = False,
    flag_count: int = 5,
    reissue: int = 0,
    seed: int = 0,
    noise: float = ARCHIVE_NOISE,
) -> Path:
    """Write one channel file of one scan.

    Parameters
    ----------
    path : str or Path
        The file when it ends in ``.nc``, else the root of an archive (``ROOT/noaa-goes16/ABI-L1b-RadM/...``).
    platform, sector : str
        ``goes16`` .. ``goes19``; ``F``, ``C``, ``M1`` or ``M2``.
    channel : int
        1 to 16.
    start : datetime
        Start of the scan; naive is UTC.
    mode : int
        Scan mode, 3, 4 or 6.
    centre, corner : (float, float), optional
        Where the sector lies: see `sector_grid`.
    shape : (int, int), optional
        Rows and columns in the channel's own pixels; the sector's by default.
    lon_0 : float, optional
        Longitude of the projection origin, degrees.
    counts : ndarray of uint16, optional
        The pixels, instead of those of the synthetic sky.
    dqf : ndarray of int8, optional
        With ``counts``: their quality flags, 0 by default.
    packing : (float, float), optional
        Scale factor and add offset, instead of the channel's.
    fill : int, optional
        Unsigned fill value, instead of 2^bits - 1.
    calibration : mapping, optional
        Values to replace: ``esun``, ``planck_fk1``, ``planck_fk2``, ``planck_bc1``, ``planck_bc2``, ``bits``.
    chunks : (int, int), optional
        Chunk shape, instead of 226 x 226 (full disk) or 250 x 250.
    shuffle : bool
        Whether the shuffle filter precedes deflate, as it does in files of 2023.
    flag_count : int
        Number of DQF meanings: 4 as in early files, or 5.
    reissue : int
        Number of the re-issue: a later creation time in the name.
    seed : int
        Of the synthetic world.
    noise : float
        Instrument noise of the synthetic sky, 1 for that of real files.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    UsageError
        For an unknown platform, sector or channel, or pixels of another shape than the file's.
    """
    start = naive_utc(start)
    wanted = shape if counts is None else (int(counts.shape[0]), int(counts.shape[1]))
    coarse_shape = None
    if wanted is not None and channel in GOES16:
        factor = 56 // pixel_of(channel)
        coarse_shape = (-(-wanted[0] // factor), -(-wanted[1] // factor))
    coarse = sector_grid(platform, sector, centre=centre, corner=corner, shape_2km=coarse_shape, lon_0=lon_0)
    spec = FileSpec.nominal(platform, sector, channel, start, coarse, mode=mode, shape=wanted)
    spec = spec.encoded(packing=packing, fill=fill, chunks=chunks, calibration=calibration)
    spec = replace(spec, shuffle=shuffle, flag_count=flag_count, reissue=reissue)
    target = Path(path) if str(path).endswith(".nc") else Path(path) / spec.key
    if counts is None:
        write_file(
            target, spec, _sky_stripes(sky(seed, coarse, start), coarse, spec, seed=seed, time=start, noise=noise)
        )
    else:
        write_file(target, spec, _given_stripes(spec, counts, dqf))
    return target


def _given_stripes(
    spec: FileSpec, counts: npt.NDArray[np.uint16], dqf: npt.NDArray[np.int8] | None
) -> Iterator[Stripe]:
    """Yield the caller's pixels as one stripe."""
    flags = np.zeros(counts.shape, "i1") if dqf is None else np.asarray(dqf, "i1")
    if flags.shape != counts.shape or counts.shape != spec.grid.shape:
        raise UsageError(f"counts are {counts.shape} and dqf {flags.shape}; give both in the shape {spec.grid.shape}")
    yield np.asarray(counts, "u2"), flags


def _sky_stripes(
    state: Sky, coarse: Grid, spec: FileSpec, *, seed: int, time: datetime, noise: float
) -> Iterator[Stripe]:
    """Yield the pixels of the synthetic sky in stripes of bounded size."""
    rows = spec.chunks[0] * max(1, 2**22 // (spec.chunks[0] * spec.grid.width))
    return render(radiance_of(state, spec), coarse, spec, seed=seed, time=time, noise=noise, rows=rows)


def write_abi_archive(
    root: str | Path,
    *,
    platform: str = "goes16",
    sector: str = "M1",
    start: datetime = datetime(2020, 7, 1, 16),
    hours: float = 3.0,
    cadence_minutes: float = 10.0,
    channels: Iterable[int] = range(1, 17),
    missing: Iterable[tuple[int, int]] = (),
    truncated: Iterable[tuple[int, int]] = (),
    centre: tuple[float, float] | None = None,
    corner: tuple[float, float] | None = None,
    shape_2km: tuple[int, int] | None = None,
    mode: int = 6,
    shuffle: bool = False,
    packing: Mapping[int, tuple[float, float]] | None = None,
    flag_count: int = 5,
    seed: int = 0,
    noise: float = ARCHIVE_NOISE,
    workers: int | None = None,
) -> list[Path]:
    """Write a small archive of a coherent moving scene, first and last scan included.

    Starts lie some tenths of a second after the nominal times and differ by a tenth between channels, as in real
    archives. With the defaults, 19 scans of 16 channels of an M1 sector over northern South America, by day: 145 MB,
    in ten seconds on two cores.

    Parameters
    ----------
    root : str or Path
        Files are written to ``ROOT/noaa-goes16/ABI-L1b-RadM/YYYY/DDD/HH/``.
    platform, sector : str
        ``goes16`` .. ``goes19``; ``C``, ``M1`` or ``M2``.
    start : datetime
        Of the first scan; naive is UTC.
    hours : float
        From the first scan to the last.
    cadence_minutes : float
        Between scans.
    channels : iterable of int
        To be written.
    missing : iterable of (scan, channel)
        Files left out; scans count from 0.
    truncated : iterable of (scan, channel)
        Files cut short: they do not open.
    centre, corner : (float, float), optional
        Where the sector lies: see `sector_grid`.
    shape_2km : (int, int), optional
        Rows and columns in 2 km pixels, instead of the sector's.
    mode : int
        Scan mode.
    shuffle, flag_count
        As in `write_abi_file`.
    packing : mapping, optional
        (Scale factor, add offset) by channel, where not the channel's own.
    seed : int
        Of the synthetic world.
    noise : float
        Instrument noise, 1 for that of real files.
    workers : int, optional
        Processes; all cores by default.

    Returns
    -------
    list of Path
        Files written, the truncated ones included, by scan and channel.

    Raises
    ------
    UsageError
        For an unknown platform, sector or channel, or a scan to spoil that is not written.
    """
    start, wanted = naive_utc(start), tuple(channels)
    coarse = sector_grid(platform, sector, centre=centre, corner=corner, shape_2km=shape_2km)
    scans = int(hours * 60 / cadence_minutes + 1e-9) + 1
    spoilt = {*missing, *truncated}
    if unknown := sorted(pair for pair in spoilt if pair[0] not in range(scans) or pair[1] not in wanted):
        raise UsageError(f"no file (scan, channel) {unknown[0]} to spoil: {scans} scans of channels {list(wanted)}")
    rng = np.random.default_rng([seed, 1])
    tasks = []
    for scan, tenths in enumerate(rng.integers(2, 9, scans).tolist()):
        begin = start + timedelta(minutes=scan * cadence_minutes, seconds=tenths / 10)
        late = set(np.flatnonzero(rng.random(17) < 0.2).tolist())
        specs = []
        for channel in wanted:
            tenth = timedelta(seconds=0.1 if channel in late else 0.0)
            spec = FileSpec.nominal(platform, sector, channel, begin + tenth, coarse, mode=mode)
            spec = spec.encoded(packing=(packing or {}).get(channel))
            if (scan, channel) not in set(missing):
                specs.append(replace(spec, shuffle=shuffle, flag_count=flag_count))
        cut = frozenset(channel for index, channel in truncated if index == scan)
        tasks.append(_ScanTask(Path(root), coarse, begin, tuple(specs), cut, seed, noise))
    return [path for paths in spread(_write_scan, tasks, workers) for path in paths]


@dataclass(frozen=True)
class _ScanTask:
    root: Path
    coarse: Grid
    time: datetime
    specs: tuple[FileSpec, ...]
    truncated: frozenset[int]
    seed: int
    noise: float


def _write_scan(task: _ScanTask) -> list[Path]:
    state, paths = sky(task.seed, task.coarse, task.time), []
    for spec in task.specs:
        path = task.root / spec.key
        write_file(path, spec, _sky_stripes(state, task.coarse, spec, seed=task.seed, time=task.time, noise=task.noise))
        if spec.channel in task.truncated:
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size * 3 // 5)
        paths.append(path)
    return paths


def write_abi_full_disk(
    root: str | Path,
    *,
    start: datetime,
    channels: Sequence[int] = tuple(range(1, 17)),
    platform: str = "goes16",
    mode: int = 6,
    shuffle: bool = False,
    seed: int = 0,
    noise: float = 1.0,
    workers: int | None = None,
) -> list[Path]:
    """Write the full-size files of one full-disk scan, in stripes: a worker needs about 0.5 GB.

    The sky is computed on 8 km pixels; texture and instrument noise make the chunks on the Earth deflate to about
    half of their raw size, as those of real files do. Space is fill, in chunks that deflate to nothing.

    Parameters
    ----------
    root : str or Path
        Root of the archive.
    start : datetime
        Start of the scan; naive is UTC.
    channels : sequence of int
        To be written.
    platform : str
        ``goes16`` .. ``goes19``.
    mode : int
        Scan mode, 3 or 6.
    shuffle : bool
        As in `write_abi_file`.
    seed : int
        Of the synthetic world.
    noise : float
        Instrument noise, 1 for that of real files.
    workers : int, optional
        Processes; all cores by default.

    Returns
    -------
    list of Path
        By channel, in the order given.
    """
    start, disk = naive_utc(start), sector_grid(platform, "F")
    coarse = disk.rescaled(_DISK_COARSE)
    state = sky(seed, coarse, start)
    specs = [FileSpec.nominal(platform, "F", channel, start, disk, mode=mode) for channel in channels]
    # The largest file first: it takes as long as all the others together.
    specs.sort(key=lambda spec: -spec.grid.height)
    tasks = [
        _DiskTask(Path(root), coarse, replace(spec, shuffle=shuffle), radiance_of(state, spec), seed, noise)
        for spec in specs
    ]
    paths = dict(zip((spec.channel for spec in specs), spread(_write_disk, tasks, workers), strict=True))
    return [paths[channel] for channel in channels]


@dataclass(frozen=True)
class _DiskTask:
    root: Path
    coarse: Grid
    spec: FileSpec
    radiance: tuple[Image, Image]
    seed: int
    noise: float


def _write_disk(task: _DiskTask) -> Path:
    path, spec = task.root / task.spec.key, task.spec
    stripes = render(
        task.radiance,
        task.coarse,
        spec,
        seed=task.seed,
        time=spec.start,
        noise=task.noise,
        rows=spec.chunks[0],
    )
    write_file(path, spec, stripes)
    return path
