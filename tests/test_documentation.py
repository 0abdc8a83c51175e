"""The documentation site is built without a warning, and the notebooks run on a demo's data and keep what they show."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from cube.build import _parser, _settings, commands, main
from cube.plug import imported
from cube.testing import write_sentinel2_archive
from training.config import validate
from training.runs import with_changes

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
TRAINING = [path for path in NOTEBOOKS if "train" in path.stem]
MOST_BYTES = 400_000


def settings_of(name: str) -> set[str]:
    return set(imported(commands()[name].config).model_fields)


def pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    found = nav.values() if isinstance(nav, dict) else nav
    return [page for part in found for page in pages(part)]


def test_all_pages_are_in_the_site() -> None:
    text = re.sub(r"!!python/\S+ \{.*\}", "x", (ROOT / "mkdocs.yml").read_text())
    named = set(pages(yaml.safe_load(text)["nav"]))
    there = {
        p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*") if p.suffix in (".md", ".ipynb")
    }
    made = {"changes.md", "containers.md", "contributing.md"} | {p for p in named if p.startswith("reference/")}
    assert named - made == there


@pytest.mark.parametrize("page", ["quick-start.md", "doctor.md"])
def test_commands_of_pages_are_valid(page: str) -> None:
    lines = re.findall(r"^\$ stratacube (.+)$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        words = shlex.split(line)
        options = _parser(words).parse(words)
        if hasattr(options, "job") and options.config is None:
            imported(options.job.config).check(_settings(options))


@pytest.mark.parametrize("page", ["training.md", "loaders.md"])
def test_commands_of_loaders_and_training_are_valid(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in blocks, and those in sentences that leave nothing out."""
    text = (ROOT / "docs" / page).read_text()
    found = re.findall(r"(?:^\$ |`)python -m ((?:training|loaders)\.\w+)([^`\n]*)", text, re.MULTILINE)
    told = [(name, words) for name, words in found if words and "..." not in words]
    assert len(told) > (15 if page == "training.md" else 0)
    for name, words in told:
        module = import_module(name)
        parsed: list[Any] = []
        monkeypatch.setattr(module, "run", lambda parser, given, to=parsed: to.append(parser.parse(given)) or 0)
        assert module.main(shlex.split(words.partition(" > ")[0], comments=True)) == 0
        assert parsed


def test_configurations_of_the_page_on_training_are_valid() -> None:
    blocks = re.findall(r"^```yaml\n(.+?)^```", (ROOT / "docs" / "training.md").read_text(), re.MULTILINE | re.DOTALL)
    base = yaml.safe_load((ROOT / "training" / "configs" / "abi_temporal_group.yaml").read_text())
    for block in map(yaml.safe_load, blocks):
        whole = block["data"].get("source") == "mixture"
        validate({**base, **(block if whole else with_changes(base, block))}, "training.md")
    assert len(blocks) == 2


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site"
    settings = (site / "reference" / "settings.html").read_text()
    for name in ("abi", "sentinel2"):
        assert not [s for s in settings_of(name) if f"<code>{s}</code>" not in settings]
    python = (site / "reference" / "python.html").read_text()
    for name in ("cube.build.build", "cube.geostationary.open.open_abi", "loaders.tiles.tile_loader"):
        assert f'id="{name}"' in python
    assert "Latitude" in python or "latitude" in python
    told = (site / "reference" / "commands.html").read_text()
    assert all(f">stratacube {name}<" in told for name in (*commands(), "doctor", "explain"))
    measured = (ROOT / "docs" / "benchmarks.md").read_text()
    assert (site / "benchmarks.html").read_text().count('<svg class="bars"') >= measured.count("## ") // 2
    home = (site / "index.html").read_text().partition("<article")[2]
    assert 'src="images/overview.jpg"' in home
    assert 'href="quick-start.html">' in home
    assert 'href="../' not in (site / "contributing.html").read_text().partition("<article")[2]


@pytest.fixture(scope="module")
def demo(small_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a demo's data, of fewer bands and scans than that of make demo, under the same names."""
    folder = tmp_path_factory.mktemp("notebooks")
    (folder / "demo").mkdir()
    (folder / "demo" / "archive").symlink_to(small_archive)
    flags = ["--local-data-dir", str(folder / "demo" / "archive"), "--domain", "M1", "--tile-size", "128"]
    flags += ["--channels", "1", "2", "3", "7", "13", "--steps", "7", "--step-minutes", "10", "--num-tiles", "12"]
    assert main(["abi", "--output-dir", str(folder / "demo" / "random"), *flags, "--workers", "1"]) == 0
    archive = write_sentinel2_archive(folder / "demo" / "archive-sentinel2", side=250)
    grid = ["--safe-dir", str(archive.root), "--grid-csv", str(archive.grid), "--bbox", *map(str, archive.bbox)]
    period = ["--start", f"{archive.start:%Y-%m-%d}", "--end", f"{archive.end + timedelta(days=1):%Y-%m-%d}"]
    composites = ["--work-dir", str(folder / "demo" / "composites"), "--bands", "B02", "B03", "B04", "B8A"]
    code = main(["sentinel2", *composites, *grid, *period, "--products", "cog", "zarr", "--workers", "1"])
    assert code == 1  # one product is cut short on purpose
    return folder


def run_notebooks(demo: Path, *paths: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": ""}
    command = [sys.executable, str(ROOT / "tests" / "notebooks.py"), *map(str, paths), "--folder", str(demo)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count(" runs\n") == len(paths)


@pytest.mark.slow
def test_notebooks_run(demo: Path) -> None:  # one test, for each worker of a test run would make a demo of its own
    run_notebooks(demo, *(p for p in NOTEBOOKS if p not in TRAINING))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("path", TRAINING, ids=lambda p: p.stem)
def test_notebooks_that_train_run(path: Path, demo: Path) -> None:
    run_notebooks(demo, path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_keep_what_they_show_and_are_small(path: Path) -> None:
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    shown = [output for cell in code for output in cell["outputs"]]
    assert len(notebook["cells"]) > 6
    assert notebook["cells"][0]["source"][0].startswith(f"# {path.name[0]} ")
    assert len(shown) >= len(code) // 2
    assert {output["output_type"] for output in shown} <= {"stream", "display_data", "execute_result"}
    assert not [output for output in shown if output.get("name") == "stderr"]
    assert path.stat().st_size < MOST_BYTES
