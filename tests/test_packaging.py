"""What is installed with the project: all that it imports is declared, and a wheel holds what the code needs."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_project import PACKAGES, ROOT, imported, modules

EXTRAS = {"stratacube": (), "catalog": (), "cube": (), "loaders": ("train",), "training": ("train",)}
"""Extras that a package needs to be imported at all."""
LATE_EXTRAS = ("train", "mlflow", "stackstac", "icechunk", "completion", "hdf4", "dask", "mpi")
"""Those that a function may ask for, with a sentence where it is not there."""
NOT_INSTALLED = {
    "mlflow": ["mlflow-skinny"],
    "tensorboard": ["tensorboard"],
    "shtab": ["shtab"],
    "icechunk": ["icechunk"],
}
"""Distributions of modules that a development environment may lack."""


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_imported_is_declared(package: str) -> None:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    distributions = NOT_INSTALLED | dict(importlib.metadata.packages_distributions())

    def declared(names: tuple[str, ...]) -> set[str]:
        listed = [*project["dependencies"], *(r for name in names for r in project["optional-dependencies"][name])]
        return {canonicalize_name(Requirement(r).name) for r in listed}

    always, late = declared(EXTRAS[package]), declared(LATE_EXTRAS)
    wrong = set()
    for path in modules(package):
        at_once = imported_at_once(path)
        for name in imported(path):
            top = name.partition(".")[0]
            if top in sys.stdlib_module_names or top in PACKAGES:
                continue
            known = always if name in at_once else late
            if not known & {canonicalize_name(d) for d in distributions.get(top, [top])}:
                wrong.add(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def imported_at_once(path: Path) -> set[str]:
    """Names of the modules that importing a file imports: not those within functions, or for types alone."""

    def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
        for node in body:
            yield node
            if isinstance(node, ast.Try | ast.With | ast.ClassDef) or (
                isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test)
            ):
                yield from statements(node.body)

    names: set[str] = set()
    for node in statements(ast.parse(path.read_text()).body):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.slow
def test_a_wheel_holds_the_markers_of_types_and_the_presets(tmp_path: Path) -> None:
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("a wheel is built by setuptools, which is not installed")
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "docs", "tests"))
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*build, "-w", tmp_path, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    assert {f"{package}/py.typed" for package in PACKAGES} <= held
    presets = {str(p.relative_to(ROOT)) for package in PACKAGES for p in (ROOT / package).rglob("*.yaml")}
    presets |= {f"stratacube/page/{p.name}" for p in (ROOT / "stratacube" / "page").iterdir() if p.is_file()}
    code = {str(p.relative_to(ROOT)) for package in PACKAGES for p in modules(package)}
    assert presets | code <= held
    assert not [name for name in held if name.startswith(("tests/", "docs/"))]


def test_how_it_is_cited_is_what_it_is() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {k: cited[k] for k in ("title", "version", "license", "abstract")} == {
        "title": told["name"],
        "version": told["version"],
        "license": told["license"],
        "abstract": told["description"],
    }
    assert [a["name"] for a in cited["authors"]] == [a["name"] for a in told["authors"]]
