"""A package that is installed as pip leaves it: its modules and a folder of metadata, on a path of its own."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cube import config, registry
from cube.geostationary.dialect import imager_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "write-your-own.md"


def install_page(site: Path) -> Path:
    """Install the package of the page: each block is the file that its first line names."""
    fences = re.findall(r"^```(\w+)\n# (\S+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    files = {name: text for _, name, text in fences}
    described = tomllib.loads(files.pop("pyproject.toml"))["project"]
    return install(site, described["name"], files, described["entry-points"])


def install(site: Path, name: str, files: dict[str, str], points: dict[str, dict[str, str]]) -> Path:
    """Install a package: its files, and what it names in its entry points, by group."""
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    metadata = site / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = ("\n".join((f"[{group}]", *(f"{k} = {v}" for k, v in of.items()))) for group, of in points.items())
    (metadata / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
    return site


@contextmanager
def plugged(site: Path) -> Iterator[None]:
    """Have the plugs in this process, for what starts no workers."""

    def forget() -> None:
        registry._installed.cache_clear()
        config._with_options.cache_clear()
        imager_of.cache_clear()
        for one in vars(registry).values():
            if isinstance(one, registry.Registry):
                one._outside = None
                one._loaded.clear()
                one.failed.clear()

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(site))
            forget()
            yield
    finally:
        forget()
