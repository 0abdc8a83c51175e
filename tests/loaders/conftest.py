from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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
