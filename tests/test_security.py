"""The page on security: each threat has a test, which is there, and the page is found."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.catalog.test_destination import ODD
from tests.ground.test_expression import FOREIGN

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text()
HEAD = "| threat | what is done | test | result |"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.splitlines() if line.startswith("|") and line != HEAD and set(line) - set("|- ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_threat_has_a_measure_a_test_and_a_result() -> None:
    assert len(rows()) > 30
    assert [row for row in rows() if len(row) != 4 or not all(row) or not NAMED.fullmatch(row[2])] == []


def test_every_test_that_is_named_is_there() -> None:
    known: dict[str, set[str]] = {}
    lost = []
    for file, name in NAMED.findall(PAGE):
        if file not in known:
            tree = ast.parse((ROOT / file).read_text()) if (ROOT / file).exists() else ast.Module([], [])
            known[file] = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        lost += [f"{file}::{name}"] * (name not in known[file])
    assert lost == []


def test_every_module_that_is_named_is_there_and_the_page_is_found() -> None:
    modules = re.findall(r"`((?:stratacube|catalog)/[\w/]+\.py)`", PAGE)
    assert modules
    assert [m for m in modules if not (ROOT / m).is_file()] == []
    assert "[Security](docs/security.md)" in (ROOT / "README.md").read_text()


def test_the_numbers_of_the_page_are_those_of_the_tests() -> None:
    assert f"{len(ODD)} addresses" in PAGE
    assert f"{len(FOREIGN)} tries" in PAGE
