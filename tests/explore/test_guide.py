"""What the guide shows runs as it stands, one block after the other, beside an archive and two builds."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from catalog.browse.pages import item_page
from catalog.browse.records import Shelf
from tests.explore.conftest import Published

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "explore.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*shapely.ops.transform.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
def test_the_guide_runs(
    on_disk: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("archive", "safe", "tiles", "composites"):
        (tmp_path / name).symlink_to(Path(on_disk.root, name))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        exec(compile(block, "explore.md", "exec"), names)
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("heat.svg", "map.svg"))
    assert names["picture"].sizes["rgb"] == 3
    assert names["scenes"]["B04"].notnull().mean() > 0.1
    assert "32606" in capsys.readouterr().out
    assert names["index"].notnull().any()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_pages_of_items_show_code_that_runs(on_disk: Published) -> None:
    shelf = Shelf.of([Path(on_disk.tiles), Path(on_disk.composites)])
    opened = []
    for title in shelf.roots:
        record = next(r for r in shelf.records if r.catalog == title)
        for block in re.findall(r"<pre.*?</pre>", item_page(shelf, record), re.S):
            names: dict[str, Any] = {}
            exec(compile(unescape(re.sub("<[^>]+>", "", block)), "item", "exec"), names)
            opened += [name for name in ("tile", "data", "image") if name in names and "tile" not in names[name].dims]
    assert opened == ["tile", "data", "data", "image"]
