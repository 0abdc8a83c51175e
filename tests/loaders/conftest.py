from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import xarray as xr

from loaders.compatibility import make_importable

make_importable()  # before any test module imports Lightning

_HERE = Path(__file__).parent


def _load(name: str) -> None:
    """Make a helper beside the tests importable, here and in forkserver's workers."""
    spec = importlib.util.spec_from_file_location(name, _HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


_load("tiny_store")


@pytest.fixture(autouse=True)
def _workers_start_at_once(_server_with_torch: None) -> None:
    """They import PyTorch once, and not each for itself."""


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Path]:
    """Write a tiny store by its options."""
    from tiny_store import write_store

    made = iter(range(100))

    def make(**options: object) -> Path:
        folder = tmp_path / f"build{next(made)}"
        folder.mkdir()
        return write_store(folder, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny store to read from; do not change it."""
    from tiny_store import write_store

    return write_store(tmp_path_factory.mktemp("build"))


@pytest.fixture
def write_cube(tmp_path: Path) -> Callable[..., Path]:
    """Write a dataset as a Zarr store, every image packed by a scale and in chunks as given."""

    def write(
        cube: xr.Dataset, *, chunks: tuple[int, ...] | None = None, scale: float | None = None, name: str = "cube.zarr"
    ) -> Path:
        images = [n for n in cube.data_vars if cube[n].ndim > 1]
        encoding = {n: {"chunks": chunks} if chunks else {} for n in images}
        packed = cube
        if scale is not None:
            packed = cube.assign({n: cube[n].assign_attrs(scale_factor=scale) for n in images if cube[n].dtype == "f4"})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
            packed.to_zarr(tmp_path / name, zarr_format=3, encoding=encoding)
        return tmp_path / name

    return write
