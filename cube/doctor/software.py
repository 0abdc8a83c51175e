"""Versions of what is installed, and whether the libraries that read and write do so."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import partial

from packaging.requirements import InvalidRequirement, Requirement

from cube.registry import ENGINES, INSTRUMENTS, MASKS, REDUCERS, SOURCES, STRATA, Registry
from stratacube import __version__
from stratacube.checks import Check, tried

__all__ = ["software"]

_SHOWN = ("numpy", "xarray", "zarr", "dask", "kerchunk", "rasterio", "odc-stac", "torch", "lightning")
_DRIVERS = ("GTiff", "COG", "JP2OpenJPEG", "VRT")
_OURS = frozenset({"test", "docs"})
"""Extras of those who work on the code itself."""


def software() -> Iterator[Check]:
    """Try the libraries."""
    told = f"{__version__} in {sys.prefix}, Python {platform.python_version()}, {platform.platform(terse=True)}"
    yield Check("stratacube", "works", told)
    yield from _packages()
    yield tried(
        "GDAL", _gdal, "install rasterio's own wheel, which brings GDAL: pip install --force-reinstall rasterio"
    )
    told = "unset PROJ_DATA and PROJ_LIB, which lead libraries to the data of another PROJ"
    yield tried("PROJ", _proj, told)
    yield tried("HDF5", _hdf5, "pip install --force-reinstall h5py")
    yield tried("Zarr", _zarr, "pip install --force-reinstall zarr numcodecs")
    yield from _plugs()
    yield _gpu()


def _packages() -> Iterator[Check]:
    """Installed versions against those that are required; of extras, those of which something is here."""
    required: dict[str, list[Requirement]] = defaultdict(list)
    for text in importlib.metadata.requires("stratacube") or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        extra = next((e for e in _extras() if requirement.marker and f'"{e}"' in str(requirement.marker)), "")
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            required[extra].append(requirement)
    versions = [f"{name} {version}" for name in _SHOWN if (version := _version(name))]
    yield Check("packages", "works", ", ".join(versions))
    for extra, requirements in required.items():
        if extra in _OURS:
            continue
        lacking = [r.name for r in requirements if r.name != "stratacube" and _version(r.name) is None]
        old = [f"{r.name} {_version(r.name)} where {r.name}{r.specifier} is needed" for r in requirements if _old(r)]
        name = f"extra {extra}" if extra else "requirements"
        remedy = f"pip install -U 'stratacube{f'[{extra}]' if extra else ''}'"
        if old:
            yield Check(name, "broken", ", ".join(old), remedy)
        elif lacking:
            yield Check(name, "lacks" if extra else "broken", f"not here: {', '.join(lacking)}", remedy)
        elif extra:
            yield Check(name, "works", ", ".join(r.name for r in requirements))


def _extras() -> list[str]:
    return importlib.metadata.metadata("stratacube").get_all("Provides-Extra") or []


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _old(requirement: Requirement) -> bool:
    version = _version(requirement.name)
    return version is not None and not requirement.specifier.contains(version, prereleases=True)


def _gdal() -> str:
    """Write and read an image with each driver that is written with, in memory."""
    import numpy as np  # noqa: PLC0415  (what only asks for help waits for none of it)
    import rasterio  # noqa: PLC0415
    from rasterio.io import MemoryFile  # noqa: PLC0415

    with rasterio.Env() as environment:
        lacking = [name for name in _DRIVERS if name not in environment.drivers()]
    if lacking:
        raise RuntimeError(f"GDAL {rasterio.__gdal_version__} has no driver {', '.join(lacking)}")
    pixels = np.arange(4096, dtype="u2").reshape(1, 64, 64)
    for driver, options in (("COG", {}), ("JP2OpenJPEG", {"QUALITY": "100", "REVERSIBLE": "YES"})):
        with MemoryFile() as memory:
            where = {"crs": "EPSG:32606", "transform": rasterio.Affine(20, 0, 4e5, 0, -20, 7e6)}
            with memory.open(driver=driver, count=1, width=64, height=64, dtype="uint16", **where, **options) as image:
                image.write(pixels)
            with memory.open() as image:
                if not (image.read() == pixels).all():
                    raise RuntimeError(f"the driver {driver} of GDAL {rasterio.__gdal_version__} gives other pixels")
    return f"{rasterio.__gdal_version__} with {', '.join(_DRIVERS)}"


def _proj() -> str:
    """Transform a place by both libraries that may each bring a PROJ."""
    import pyproj  # noqa: PLC0415
    from rasterio.warp import transform  # noqa: PLC0415

    (x,), (y,) = transform("EPSG:4326", "EPSG:3413", [-149.6], [68.6])
    there = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:3413", always_xy=True).transform(-149.6, 68.6)
    if max(abs(x - there[0]), abs(y - there[1])) > 1e-3:
        raise RuntimeError(f"GDAL places 68.6 N 149.6 W at {x:.0f} {y:.0f}, pyproj at {there[0]:.0f} {there[1]:.0f}")
    return str(pyproj.proj_version_str)


def _hdf5() -> str:
    """Write and read a deflated dataset, in memory."""
    import h5py  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    with h5py.File("doctor.nc", "w", driver="core", backing_store=False) as file:
        file.create_dataset("a", data=np.arange(4096, dtype="i2"), chunks=(1024,), shuffle=True, compression="gzip")
        if int(file["a"][:].sum()) != 4095 * 2048:
            raise RuntimeError("what was written to HDF5 is not what is read")
    return f"{h5py.version.hdf5_version}, h5py {h5py.__version__}"


def _zarr() -> str:
    """Write and read a sharded array with each codec of stores, in memory."""
    import numpy as np  # noqa: PLC0415
    import zarr  # noqa: PLC0415

    from cube.job.codec import CODECS, codecs_of  # noqa: PLC0415

    pixels = np.arange(4096, dtype="u2").reshape(64, 64)
    for name in CODECS:
        array = zarr.create_array(
            zarr.storage.MemoryStore(), shape=(64, 64), chunks=(16, 16), shards=(32, 32), dtype="u2",
            compressors=codecs_of(name),
        )  # fmt: skip
        array[...] = pixels
        if not np.array_equal(array[...], pixels):
            raise RuntimeError(f"the codec {name} gives other values")
    return f"{zarr.__version__} with the codecs {', '.join(CODECS)}"


def _plugs() -> Iterator[Check]:
    """Load what other packages bring."""
    for registry in (SOURCES, INSTRUMENTS, STRATA, MASKS, ENGINES, REDUCERS):
        for name in list(registry.outside):
            remedy = "mend or uninstall the package that brings it"
            yield tried(f"{registry.kind} {name}", partial(_loaded, registry, name), remedy)


def _loaded(registry: Registry, name: str) -> str:
    registry.load(name)
    return registry.maker(name)


def _gpu() -> Check:
    """GPUs by the driver's own program: asking torch takes seconds."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return Check("GPU", "lacks", "none seen (no nvidia-smi here); builds need none, training of large models does")
    command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("GPU", "lacks", f"nvidia-smi does not answer ({type(error).__name__})", "check the driver")
    if done.returncode:
        return Check("GPU", "lacks", " ".join(done.stdout.split())[:120] or "nvidia-smi fails", "check the driver")
    return Check("GPU", "works", "; ".join(done.stdout.strip().splitlines()))
