"""Done means there: whatever is lost from a build's folder, the same command brings it back, or says why it cannot."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cube.build import main
from cube.job.engine import Workers
from cube.job.folder import BuildFolder
from cube.job.ledger import Ledger
from cube.job.run import Run
from cube.sentinel2.making import Making
from tests.job.builds import (
    STAGES,
    Build,
    after,
    contents,
    differences,
    make_abi,
    make_sentinel2,
    paths,
    remove,
)

# rasterio multiplies affine transforms by an operator that affine wants to retire
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

SOURCES = ("abi", "sentinel2")
SHARD = {"abi": "tiles.zarr/C13/c/1/0/0/0", "sentinel2": "composites.zarr/B03/c/0/1"}


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Build]:
    """Builds by source, each made when it is first asked for."""
    made: dict[str, Build] = {}

    def of(source: str) -> Build:
        if source not in made:
            root = tmp_path_factory.mktemp(source)
            made[source] = (make_abi if source == "abi" else make_sentinel2)(root)
        return made[source]

    return of


def assert_mended(build: Build, what: object = "") -> None:
    """The same command brings everything back, and status and verify say so too."""
    assert build.run() == 0, what
    assert differences(contents(build.output), build.whole) == [], what
    assert build.look() == (0, 0), what


REMOVED = {
    "abi": [
        ("planned", "plan.parquet"),
        ("half built", "tiles.zarr/latitude/c"),
        ("built", "tiles.zarr/valid"),
        ("built", "references/goes16-M1/C13*/.zmetadata"),
        ("published", "references/goes16-M1/files/*.parquet"),
        ("published", "config.yaml"),
        ("published", "tiles.zarr/C13/zarr.json"),
        ("published", "previews"),
        ("published", "tiles/collection.json"),
    ],
    "sentinel2": [
        ("planned", "indices/items.json"),
        ("half built", "tmp"),
        ("half built", "indices/cells"),
        ("built", "composites/*R000_C0001/*_B03_*"),
        ("published", "indices/left_out.csv"),
        ("published", "indices/query_manifest.csv"),
        ("published", "indices/scene_index.csv"),
        ("published", "composites.zarr"),
    ],
}


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_removed_is_made_again(builds: Callable[[str], Build], source: str) -> None:
    """All that is named of a stage at once; the slow tests remove one path at a time."""
    build = builds(source)
    for stage in STAGES:
        build.begin(stage)
        for name in [name for when, name in REMOVED[source] if when == stage]:
            (path,) = build.output.glob(name)
            remove(path)
        assert_mended(build, stage)


SMALL = {"C07", "C13", "valid", "latitude", "packing_scale", "view_zenith", "goes_imager_projection", "zarr.json"}


def is_like_another(path: Path) -> bool:
    """Whether a path has many brothers, of which a few are tried: small arrays, channels' references, cells."""
    store = path.parts[0] == "tiles.zarr" and len(path.parts) > 1 and path.parts[1] not in SMALL
    return store or any(part in str(path) for part in ("C07-", "R001_C0000", "R001_C0001", "B04"))


def one_of_each(listed: Sequence[Path]) -> list[Path]:
    """The first of paths that differ in numbers alone."""
    return list({re.sub(r"\d+", "0", str(path)): path for path in reversed(listed)}.values())[::-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "third"),
    [
        pytest.param(stage, third, marks=[pytest.mark.long] if (stage, third) != (STAGES[-1], 0) else [])
        for stage in STAGES
        for third in (0, 1, 2)
    ],
)
@pytest.mark.parametrize("source", SOURCES)
def test_every_path_removed_is_made_again(builds: Callable[[str], Build], source: str, stage: str, third: int) -> None:
    build = builds(source)
    listed = one_of_each([p for p in paths(build.copies / stage) if not is_like_another(p)])
    assert len(listed) > 6
    for path in listed[third :: 3 if stage in ("planned", "published") else 6]:
        build.begin(stage)
        remove(build.output / path)
        assert_mended(build, (stage, path))


def test_a_lost_report_comes_back_with_the_same_bits(builds: Callable[[str], Build]) -> None:
    """Its times too: what steps took is in the ledger."""
    for source in SOURCES:
        build = builds(source)
        build.begin("published")
        before = {name: (build.output / name).read_bytes() for name in ("report.md", "ledger.jsonl")}
        (build.output / "report.md").unlink()
        assert build.run() == 0
        assert {name: (build.output / name).read_bytes() for name in before} == before


def test_what_has_changed_since_is_not_put_in_place_of_what_was_lost(
    builds: Callable[[str], Build], capsys: pytest.CaptureFixture[str]
) -> None:
    """Composites were made of the products that were found then: a list of others would belie them."""
    build = builds("sentinel2")
    build.begin("published")
    safe = Path(build.flags[build.flags.index("--safe-dir") + 1])
    scene = sorted(safe.iterdir())[3]
    (build.output / "indices" / "items.json").unlink()
    shutil.move(scene, build.output.parent / "aside")
    try:
        for _ in range(2):
            capsys.readouterr()
            assert build.run() == 1
            said = capsys.readouterr().err.splitlines()
            assert said[-1].startswith("error: the find of ")
            assert "is lost or damaged (indices/items.json), and made anew it is another" in said[-1]
            assert main(["verify", str(build.output)]) == 1
    finally:
        shutil.move(build.output.parent / "aside", scene)
    assert_mended(build)


def noise(path: Path) -> None:
    """Random bytes."""
    path.write_bytes(random.Random(7).randbytes(200))


def nothing(path: Path) -> None:
    """Valid JSON and YAML, and no table, of nothing."""
    path.write_text("null\n")


def flip(path: Path) -> None:
    """One bit."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """The end is missing."""
    path.write_bytes(path.read_bytes()[:-9])


DAMAGED = {
    "abi": [
        ("planned", "sources.json", noise),
        ("planned", "plan.parquet", flip),
        ("half built", "tiles.zarr/zarr.json", flip),
        ("half built", "tiles.zarr/C13/zarr.json", noise),
        ("half built", "tiles.zarr/C07/zarr.json", nothing),
        ("half built", "config.yaml", flip),
        ("half built", SHARD["abi"], truncate),  # written, and not in the ledger yet
        ("published", "tiles.zarr/packing_scale/zarr.json", flip),
        ("published", "tiles.zarr/latitude/c/0", flip),
        ("published", "tiles.zarr/packing_scale/c/0/0/0", flip),
        ("published", "catalog.json", noise),
        ("published", SHARD["abi"], truncate),
    ],
    "sentinel2": [
        ("planned", "indices/items.json", flip),
        ("half built", "composites.zarr/B02/zarr.json", noise),
        ("half built", "plan.parquet", noise),
        ("half built", "config.yaml", flip),
        ("published", "composites.zarr/zarr.json", nothing),
        ("published", "collection.json", flip),
        ("published", "indices/scene_index.csv", flip),
        ("published", SHARD["sentinel2"], truncate),
    ],
}


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_damaged_is_made_again(builds: Callable[[str], Build], source: str) -> None:
    """All that is named of a stage at once, before and after verify looked at it."""
    build = builds(source)
    for stage in STAGES:
        build.begin(stage)
        cases = [(name, damage) for when, name, damage in DAMAGED[source] if when == stage]
        for name, damage in cases:
            damage(build.output / name)
        if cases:
            assert main(["verify", str(build.output)]) != 0
            assert_mended(build, (stage, cases))


@pytest.mark.slow
@pytest.mark.parametrize("half", [0, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("source", SOURCES)
def test_every_damaged_description_is_made_again(builds: Callable[[str], Build], source: str, half: int) -> None:
    build = builds(source)
    kinds = (".json", ".parquet", ".yaml", ".csv", ".md")
    for stage in STAGES[1::2]:
        names = one_of_each([p for p in paths(build.copies / stage) if p.suffix in kinds])
        chosen = [p for p in names if not (p.parts[0].endswith(".zarr") and len(p.parts) > 2)]
        rest = sorted(set(names) - set(chosen))
        chosen += random.Random(3).sample(rest, min(4, len(rest)))
        for number, path in enumerate(chosen[half::2]):
            build.begin(stage)
            (noise, flip)[number % 2](build.output / path)
            assert_mended(build, (stage, path, number))


@pytest.mark.parametrize("source", SOURCES)
def test_other_bytes_of_the_same_size_are_named_by_verify(
    builds: Callable[[str], Build], source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run compares names and sizes; verify reads every shard, and what it names can be removed and made again."""
    build = builds(source)
    for damage in (flip, borrow):
        build.begin("published")
        path = build.output / SHARD[source]
        damage(path)
        assert build.run() == 0
        capsys.readouterr()
        assert main(["status", str(build.output)]) == 0  # by the ledger, and says so
        assert "verify looks at the files" in capsys.readouterr().out
        assert main(["verify", str(build.output)]) == 1
        assert f"{SHARD[source]} holds other bytes than were written" in capsys.readouterr().out
        path.unlink()
        assert_mended(build, damage.__name__)


def borrow(path: Path) -> None:
    """Pixels of another shard of the same size, which decode: bytes between a shard's chunks and its index are idle."""
    beside = [p for p in path.parents[len(path.parts) - path.parts.index("c") - 2].rglob("*") if p.is_file()]
    size, index = path.stat().st_size, 16 + 4
    other = min(beside, key=lambda p: p.stat().st_size).read_bytes()
    if len(other) == size:  # it is the smallest itself
        return flip(path)
    path.write_bytes(other[:-index] + bytes(size - len(other)) + other[-index:])
    return None


def test_a_ledger_that_is_damaged_costs_time_and_nothing_else(builds: Callable[[str], Build]) -> None:
    foreign = (
        b'{"hello": 1}\n[1, 2]\n"x"\n3\nnull\n{"key": "find", "status": "done", "problems": [], "files": [["a"]]}\n'
    )
    for source in SOURCES:
        build = builds(source)
        for stage, damage in (
            ("half built", lambda lines: []),
            ("built", lambda lines: lines[:-1]),  # for ABI, stopped between the last shard and the references
            ("published", lambda lines: [*lines, foreign]),
            ("published", lambda lines: [*lines[:3], os.urandom(60).replace(b"\n", b"") + b"\n", *lines[4:]]),
            ("published", lambda lines: [*lines[:-1], lines[-1][:-30]]),
        ):
            build.begin(stage)
            ledger = build.output / "ledger.jsonl"
            ledger.write_bytes(b"".join(damage(ledger.read_bytes().splitlines(keepends=True))))
            assert_mended(build, (source, stage))


def test_what_was_begun_is_not_made_twice(builds: Callable[[str], Build]) -> None:
    """A cell that lacks nothing but its place in the store only gets that."""
    build = builds("sentinel2")
    output = build.begin("half built")
    (begun,) = (k for k, e in Ledger(output / "ledger.jsonl").entries.items() if e.status == "begun")
    made = {p: p.stat().st_mtime_ns for p in (output / "composites" / begun.removeprefix("cell ")).glob("*.tif")}
    assert len(made) == 4
    assert build.run() == 0
    assert {p: p.stat().st_mtime_ns for p in made} == made


def test_a_linked_folder_is_the_folder(builds: Callable[[str], Build], tmp_path: Path) -> None:
    for source in SOURCES:
        build = builds(source)
        build.begin("half built")
        elsewhere = tmp_path / source
        shutil.move(build.output, elsewhere)
        build.output.symlink_to(elsewhere)
        try:
            assert_mended(build, source)
            (build.output / SHARD[source]).unlink()
            assert_mended(build, source)
            assert Ledger(build.output / "ledger.jsonl").entries.keys() == build.whole["ledger.jsonl"].keys()
        finally:
            build.output.unlink()


# Scratch that vanishes, as where a site removes old files.


@pytest.mark.parametrize(
    "lost",
    [
        "two scenes",
        "a piece",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("all scenes", "kept cells", "a kept file")),
        "all of tmp",
    ],
)
def test_scratch_that_vanishes_once_is_made_again(builds: Callable[[str], Build], lost: str) -> None:
    build = builds("sentinel2")
    build.begin("planned")
    tmp, times = build.output / "tmp", []

    def purge(*_: Any) -> None:
        if not times:
            times.append(1)
            victims = {
                "two scenes": lambda: sorted((tmp / "scenes").iterdir())[2:4],
                "all scenes": lambda: [tmp / "scenes"],
                "a piece": lambda: sorted((tmp / "scenes").glob("*/*/*.npy"))[5:6],
                "kept cells": lambda: [tmp / "cells"],
                "a kept file": lambda: sorted((tmp / "cells").glob("*/B03.npy"))[1:2],
                "all of tmp": lambda: [tmp],
            }[lost]()
            assert victims
            for path in victims:
                remove(path)

    late = lost in ("kept cells", "a kept file", "all of tmp")
    with after(Making, "_shards" if late else "_scenes", purge, before=late):
        assert_mended(build, lost)
    assert times


@pytest.mark.parametrize("method", [pytest.param("_scenes", marks=pytest.mark.slow), "_shards"])
def test_scratch_that_vanishes_each_time_fails_its_cells_and_says_so(
    builds: Callable[[str], Build], method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build = builds("sentinel2")
    build.begin("planned")

    def purge(*_: Any) -> None:
        shutil.rmtree(build.output / "tmp", ignore_errors=True)

    with after(Making, method, purge, before=method == "_shards"):
        assert build.run() == 1
    assert capsys.readouterr().err.count("\n") < 15
    errors = pd.read_csv(build.output / "errors.csv")
    assert errors["reason"].str.contains("and was so 3 times; does something remove files in tmp?", regex=False).all()
    assert set(errors["kind"]) == {"product"}
    assert errors["cell"].nunique() == 4
    assert build.look() == (1, 1)
    assert_mended(build)
    assert not (build.output / "errors.csv").exists()


def test_a_step_is_made_once_and_is_a_change(tmp_path: Path) -> None:
    folder, made = BuildFolder(tmp_path), list[int]()

    def make() -> None:
        made.append(1)
        (tmp_path / "a.json").write_text("{}")

    for changed in (True, False):
        run = Run(folder, Workers(1), 0, lambda _: ())
        assert run.keep("step", make, lambda: [tmp_path / "a.json"]) == run.changed == changed
    (tmp_path / "a.json").unlink()
    run = Run(folder, Workers(1), 0, lambda _: ())
    assert run.keep("step", make, lambda: [tmp_path / "a.json"])
    assert run.changed
    assert len(made) == 2


def test_losses_are_told_a_few_at_a_time(builds: Callable[[str], Build], caplog: pytest.LogCaptureFixture) -> None:
    build = builds("sentinel2")
    build.begin("published")
    ledger = build.output / "ledger.jsonl"
    (line,) = (x for x in ledger.read_text().splitlines() if '"shard 0 0"' in x)
    with ledger.open("a") as file:  # a build of many shards, in short
        for number in range(9):
            entry = json.loads(line)
            entry["files"] = [[f"composites/more{number}/a.tif", 1, ""]]
            file.write(json.dumps({**entry, "key": f"cell more{number}"}) + "\n")
    run = Run(BuildFolder(build.output), Workers(1), 0, lambda _: ())
    keys = [f"cell more{number}" for number in range(9)]
    caplog.clear()
    assert run.done(keys) == run.done(keys) == set()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 6
    assert told[-1] == "4 more are not as they were written, and are made again"
