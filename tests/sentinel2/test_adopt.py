"""A work dir of S2SR: recognised, its imagery linked and checked, and gone on from with what lacks fetched."""

from __future__ import annotations

import os
import re
import shlex
import struct
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from catalog.sentinel2 import fetch
from catalog.sentinel2.convert import item_from_product
from catalog.sentinel2.safe import read_safe
from catalog.sentinel2.saved import save_items
from catalog.sentinel2.transfers import Transfers
from cube.build import build, main
from cube.sentinel2 import adopt
from cube.sentinel2.grid import make_grid, write_grid
from stratacube.errors import SourceError, UsageError
from tests.catalog.cdse_server import CdseServer, serve
from tests.catalog.test_sentinel2_fetch import download
from tests.sentinel2.s2sr import write_work_dir
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, Scene, make_scene
from tests.sentinel2.test_digests import _manifest as write_manifest
from tests.sentinel2.test_supply import _expected, _mosaic, _publish

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


@pytest.fixture
def cdse() -> Iterator[CdseServer]:
    with serve() as server:
        yield server


@pytest.fixture
def old(tmp_path: Path) -> tuple[Path, list[Scene]]:
    scenes = [make_scene(n, FIRST + timedelta(days=n), bands=("B02",)) for n in range(3)]
    write_grid(make_grid(2000, (ULX, ULY - 4000, ULX + 4000, ULY), f"EPSG:{EPSG}"), tmp_path / "grid.csv")
    return write_work_dir(tmp_path / "old", scenes, tmp_path / "grid.csv"), scenes


def _tree(root: Path) -> dict[str, tuple[int, int, int]]:
    """Every file with size, times of change of content and of status: links to it would show in the last."""
    found = {p: p.stat() for p in sorted(root.rglob("*"))}
    return {str(p): (s.st_size if p.is_file() else 0, s.st_mtime_ns, s.st_ctime_ns) for p, s in found.items()}


def _band(root: Path, scene: Scene, key: str = "B02_20m") -> Path:
    return next(root.glob(f"{scene.spec.id}.SAFE/**/*_{key}.jp2"))


def test_help_shows_both_folders(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["sentinel2", "adopt", "--help"])
    told = capsys.readouterr().out
    assert re.search(r"sentinel2-adopt OLD \[--config FILE\]", told)
    assert "--old" not in told
    with pytest.raises(SystemExit, match="2"):
        main(["sentinel2", "adopt", "--work-dir", "w"])
    assert "OLD" in capsys.readouterr().err


def test_a_work_dir_of_s2sr_is_recognised(
    tmp_path: Path, old: tuple[Path, list[Scene]], capsys: pytest.CaptureFixture[str]
) -> None:
    before = _tree(old[0])
    flags = ["--grid-csv", str(tmp_path / "grid.csv"), "--start", "2021-06-01", "--end", "2021-06-30", "--bands", "B02"]
    for more in ([], ["--dry-run"], ["--overwrite"]):
        assert main(["sentinel2", "--work-dir", str(old[0]), *flags, *more]) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert len(told) == 1
        assert f"stratacube sentinel2 adopt {old[0]} --work-dir NEW" in told[0]
    assert _tree(old[0]) == before


def test_what_is_whole_is_linked_and_only_the_rest_fetched(
    tmp_path: Path,
    old: tuple[Path, list[Scene]],
    cdse: CdseServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, scenes = old
    listed = _publish(cdse, root / "imagery_raw")
    cut, flipped, lost = (_band(root / "imagery_raw", s) for s in scenes)
    cut.write_bytes(cut.read_bytes()[:-1])
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    lost.unlink()
    lost.with_name(f"{lost.name}.part").write_bytes(b"half of it")
    before = _tree(root)
    save_items(tmp_path / "search.json", [item_from_product(p) for p in listed])
    work, then = tmp_path / "w", ["--items", str(tmp_path / "search.json")]
    assert main(["sentinel2", "adopt", str(root), "--work-dir", str(work), *then]) == 1
    out = capsys.readouterr().out
    assert "9 files" in out.splitlines()[0]
    assert "(9 MD5)" in out
    assert f"{cut} is cut or another's" in out
    assert f"{flipped} has other bytes than its MD5" in out
    assert f"{lost}.part is a download that was cut off" in out
    links = [p for p in (work / "imagery_raw").rglob("*") if p.is_symlink()]
    assert len(links) == 9
    assert all(Path(os.readlink(p)).is_relative_to(root) for p in links)
    known = Transfers(work / "imagery_raw")  # so that a build makes no digest once more
    digests = {a.checksum for p in listed for a in p.assets.values()}
    assert all(any(known.is_good(link, digest) for digest in digests) for link in links)
    (command,) = (line for line in out.splitlines() if line.startswith("go on with"))
    words = shlex.split(command.partition(": ")[2])
    assert words[:2] == ["stratacube", "sentinel2"]
    assert words[words.index("--start") :] == ["--start", "2021-06-01", "--end", "2021-06-03", "--bands", "B02"]
    monkeypatch.setattr(fetch, "downloader", lambda root, connections: download(cdse))
    assert main([*words[1:], *then, "--workers", "1"]) == 0
    assert len([p for p, _, _ in cdse.requests if p.startswith("/odata")]) == 3
    np.testing.assert_array_equal(_mosaic(work), _expected(scenes))
    assert _tree(root) == before
    table = pd.read_csv(work / "imagery_raw" / "adopted.csv")
    assert (len(table), table["linked"].sum()) == (12, 9)


def test_without_a_list_files_are_decoded_and_once(
    tmp_path: Path,
    old: tuple[Path, list[Scene]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, scenes = old
    cut = _band(root / "imagery_raw", scenes[0])
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    xml = _band(root / "imagery_raw", scenes[1]).parents[2] / "MTD_TL.xml"
    document = xml.read_bytes()
    xml.write_bytes(document[:-200])
    command = ["sentinel2", "adopt", str(root), "--work-dir", str(tmp_path / "w"), "--imagery-dir", str(tmp_path / "s")]
    assert main(command) == 1
    out = capsys.readouterr().out
    assert "(5 decoded, 5 parsed)" in out
    assert f"{cut} is cut: it has {len(whole) // 2} bytes" in out
    assert str(xml) in out
    # mended, only these are looked at once more; and what is spoilt later is linked no more
    cut.write_bytes(whole)
    xml.write_bytes(document)
    looked: list[Path] = []
    check = adopt.refuse_damaged
    monkeypatch.setattr(adopt, "refuse_damaged", lambda path: (looked.append(path), check(path))[1])
    assert main(command) == 0
    assert sorted(looked) == sorted([cut, xml])
    linked = _band(tmp_path / "s", scenes[0])
    assert linked.read_bytes() == whole
    cut.write_bytes(whole[:-2])
    assert main(command) == 1
    assert not os.path.lexists(linked)
    cut.write_bytes(whole)
    assert main(command) == 0
    capsys.readouterr()
    flags = ["--safe-dir", str(tmp_path / "s"), "--grid-csv", str(root / "indices" / "selected_gridcells.csv")]
    period = ["--start", "2021-06-01", "--end", "2021-06-30", "--bands", "B02", "--workers", "1"]
    assert main(["sentinel2", "--work-dir", str(tmp_path / "w"), *flags, *period]) == 0
    np.testing.assert_array_equal(_mosaic(tmp_path / "w"), _expected(scenes))


def test_more_tiles_than_a_file_has_room_for_are_not_looked_for(old: tuple[Path, list[Scene]]) -> None:
    """Each would be looked for in the whole file: hours, for the 24,585 that a few flipped bits make."""
    image = _band(old[0] / "imagery_raw", old[1][0])
    content = image.read_bytes()
    at = content.index(b"\xff\x4f\xff\x51") + 8
    image.write_bytes(content[:at] + struct.pack(">8I", 96, 262_240, 0, 0, 32, 32, 0, 0) + content[at + 32 :])
    with pytest.raises(SourceError, match=r"it tells of 24,585 tiles, for which its [0-9,]+ bytes have no room"):
        adopt.refuse_damaged(image)


def test_digests_that_come_later_and_a_folder_that_moves(
    tmp_path: Path, old: tuple[Path, list[Scene]], capsys: pytest.CaptureFixture[str]
) -> None:
    """What was decoded is held against a manifest that is there since; links into a folder that is gone are renewed."""
    root, scenes = old
    command = ["sentinel2", "adopt", str(root), "--work-dir", str(tmp_path / "w")]
    assert main(command) == 0
    image = _band(root / "imagery_raw", scenes[0])
    content, times = image.read_bytes(), image.stat()
    image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    write_manifest(root / "imagery_raw" / f"{scenes[0].spec.id}.SAFE")
    image.write_bytes(content)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    capsys.readouterr()
    assert main(command) == 1
    assert f"{image} has other bytes than its MD5" in capsys.readouterr().out
    write_manifest(root / "imagery_raw" / f"{scenes[0].spec.id}.SAFE")
    moved = root.rename(tmp_path / "moved")
    assert main(["sentinel2", "adopt", str(moved), "--work-dir", str(tmp_path / "w")]) == 0
    links = [p for p in (tmp_path / "w" / "imagery_raw").rglob("*") if p.is_symlink()]
    assert len(links) == 13  # the manifest too
    assert all(p.resolve(strict=True).is_relative_to(moved.resolve()) for p in links)


def test_sizes_that_come_later_are_held_against_what_was_whole(
    tmp_path: Path, old: tuple[Path, list[Scene]], cdse: CdseServer, capsys: pytest.CaptureFixture[str]
) -> None:
    root, scenes = old
    command = ["sentinel2", "adopt", str(root), "--work-dir", str(tmp_path / "w")]
    assert main(command) == 0
    image = _band(root / "imagery_raw", scenes[0])
    size = image.stat().st_size
    products = []
    for product in _publish(cdse, root / "imagery_raw"):
        sizes = {
            key: (None if product.id != scenes[0].spec.id or key != "B02_20m" else size + 95) for key in product.assets
        }
        assets = {key: replace(a, size=sizes[key], checksum=None) for key, a in product.assets.items()}
        products.append(replace(product, assets=assets))
    save_items(tmp_path / "search.json", [item_from_product(p) for p in products])
    capsys.readouterr()
    assert main([*command, "--items", str(tmp_path / "search.json")]) == 1
    assert f"it has {size} bytes where {size + 95} are listed" in capsys.readouterr().out
    assert not os.path.lexists(
        _band(tmp_path / "w" / "imagery_raw", scenes[1]).parents[4] / image.relative_to(root / "imagery_raw")
    )


def test_what_is_not_there_is_named(tmp_path: Path, old: tuple[Path, list[Scene]]) -> None:
    root, scenes = old
    other = replace(scenes[0], when=FIRST + timedelta(days=20))
    manifest = root / "indices" / "query_manifest.csv"
    name = other.write(tmp_path / "elsewhere").name
    manifest.write_text(f"{manifest.read_text()}0000-9,{name},x,2023-01-01T00:00:00Z\n")
    answer = build("sentinel2-adopt", old=root, work_dir=tmp_path / "w")
    assert answer.code == 0
    assert answer.data["products_without_files"] == [name.removesuffix(".SAFE")]
    assert "--end 2021-06-21" in answer.data["next"]
    assert read_safe(tmp_path / "w" / "imagery_raw" / f"{scenes[0].spec.id}.SAFE").id == scenes[0].spec.id


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"old": "none"}, "has no folder imagery_raw"),
        ({"old": "empty"}, "holds no .SAFE folder"),
        ({"work_dir": "old/new"}, "lie in one another"),
        ({"work_dir": "."}, "lie in one another"),
        ({"imagery_dir": "old/imagery_raw"}, "lie in one another"),
        ({"work_dir": "full"}, "is not empty and holds no build"),
        ({"items": "none.json"}, "there is no file"),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, old: tuple[Path, list[Scene]], values: dict[str, Any], told: str
) -> None:
    (tmp_path / "empty" / "imagery_raw").mkdir(parents=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    before = _tree(old[0])
    fields = {"old": "old", "work_dir": "w", **values}
    with pytest.raises(UsageError, match=told):
        build("sentinel2-adopt", **{name: tmp_path / value for name, value in fields.items()})
    assert _tree(old[0]) == before
