"""What serves every source names none: no satellite, no channel count, no unit and no law of one instrument."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEUTRAL = (
    "loaders", "training", "cube/preview.py", "cube/job", "catalog/publish", "stratacube", "cube/instrument.py",
    "cube/registry.py", "cube/config.py", "cube/strata", "cube/masks.py", "cube/build.py", "cube/plug.py",
    "cube/sun.py",
)  # fmt: skip

NAMES = re.compile(
    r"abi(?![a-z])|\bABI\b|(?<![a-z])goes[-_:]?(?:\d|r\b|x\b|east|west|image|mode|orbital|system)|\bGOES\b|"
    r"kappa0|planck|m?W m-2|\bK \(C|\bC(?:0[1-9]|1[0-6])\b|C\{[^}]*:02d\}|\bsixteen\b|range\(\d+, 17\)|"
    r"1 << \(?(?:c|channel|band|number) - 1|[\"']K[\"']|[\"']brightness_temperature[\"']|gk2a|\bami\b|\bAMI\b",
)
SIXTEEN = re.compile(r"(?:CHANNELS|BANDS|channels|bands)\w*(?:: \w+)?\s*(?:==|<=|=)\s*16\b")

ALLOWED = {
    ("cube/config.py", "abi"): "the folder that SatVision-Pix4D writes to where none is given",
    ("loaders/bench.py", "C01"): "the help of a flag shows what the name of a band looks like",
    ("loaders/stats.py", "C01"): "the help of a flag shows what the name of a band looks like",
    ("loaders/bench.py", "C13"): "the same",
    ("stratacube/settings.py", "C01"): "a docstring shows how a list is written on the command line",
    ("stratacube/settings.py", "C02"): "the same",
    ("loaders/stats.py", "C13"): "the same",
    ("loaders/statistics.py", "C{i:02d}"): "a preset has the numbers, and so the bands, of one earlier project",
    ("loaders/cubes.py", "abi"): "docstrings send readers to open_abi, which is the public name of a function",
    ("stratacube/__init__.py", "abi"): "open_abi is the public name of a function",
    ("cube/job/folder.py", "abi"): "builds of 0.1.0 to format 2 name their source so",
    ("cube/instrument.py", "abi"): "stores up to format 2 do not say their instrument",
    ("cube/registry.py", "abi"): "the list of instruments",
    ("cube/registry.py", "ABI"): "the same",
    ("cube/registry.py", "ami"): "the same",
    ("cube/registry.py", "AMI"): "the same",
    ("cube/config.py", "goes1"): "the satellite of a build that asks for none, as it has been from the first",
    ("cube/build.py", "ABI"): "the demo is one of ABI",
    ("cube/build.py", "abi"): "examples of its help are of a command that users type",
    ("cube/strata/random.py", "GOES"): "a formula and where it stands",
    ("cube/strata/cloudsat/labels.py", "abi"): "variables are called as in the predecessor's chips",
    ("cube/strata/cloudsat/labels.py", '"K"'): "units of the weather that goes with a profile",
    ("cube/strata/clouds/labels.py", '"K"'): "the unit of a label",
    ("training/embed.py", "abi"): "open_abi is the public name of a function",
    ("training/embed_asked.py", "abi"): "the same",
    ("training/embed_sources.py", "abi"): "the same",
    ("training/predecessor.py", "abi"): "the predecessor's configuration has such keys",
    ("cube/strata/systems.py", "GOES"): "convection's tables name two places in orbit, as the predecessor's did",
}
"""By file and word, why it may stand there."""


def modules() -> list[Path]:
    found = [p for name in NEUTRAL for p in ([ROOT / name] if name.endswith(".py") else (ROOT / name).rglob("*.py"))]
    return sorted(found)


def named(text: str) -> set[str]:
    return {m[0] for pattern in (NAMES, SIXTEEN) for m in pattern.finditer(text)}


def test_what_serves_all_names_no_instrument() -> None:
    found = {(str(p.relative_to(ROOT)), word) for p in modules() for word in named(p.read_text())}
    assert len(modules()) > 80
    assert not found - ALLOWED.keys()
    stale = {key for key in ALLOWED if key not in found and (ROOT / key[0]).exists()}
    assert not stale, "these need no exception any more"


def test_what_serves_all_imports_no_instrument() -> None:
    wrong = set()
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and re.search(r"geostationary\.(abi|bands|observatory)$", module):
                wrong.add((path.name, module))
    assert not wrong


@pytest.mark.parametrize(
    "line",
    ['units = "mW m-2 sr-1 (cm-1)-1"', "if platform == 'goes16':", 'title = f"C{c:02d}"', "mask & (1 << channel - 1)",
     "names = ('kappa0',)", "CHANNELS = 16", "bands: int = 16", 'units in ("1", "K")',
     "quantity == 'brightness_temperature'", "satellite = gk2a", "for c in range(1, 17):", '"instruments": ["ABI"]'],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    assert named(line)
