"""The testing kit as others see it: names, imports, its page, and processes that are not left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import cube.testing
from tests.test_project import PACKAGES, ROOT, imported, modules
from tests.test_readme import blocks

KIT, PAGE = ROOT / "cube" / "testing", ROOT / "docs" / "testing.md"
LIBRARIES = {"affine", "h5py", "numcodecs", "numpy", "pyhdf", "pyproj", "rasterio", "yaml", "zarr"}
OURS = ("cube.testing", "stratacube.errors", "stratacube.files", "stratacube.times")
"""What the kit is made of: nothing that knows what a file of an archive means."""


def test_the_kit_imports_nothing_of_what_reads_the_files() -> None:
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in KIT.rglob("*.py")
        for name in imported(path)
        if name.partition(".")[0] not in LIBRARIES | sys.stdlib_module_names
        and not any(name == ours or name.startswith(f"{ours}.") for ours in OURS)
    }
    assert not wrong


def test_the_kit_loads_nothing_of_what_reads_the_files() -> None:
    names = sorted(".".join(p.relative_to(ROOT).with_suffix("").parts) for p in KIT.rglob("*.py"))
    code = f"import sys, {', '.join(names)}; print('\\n'.join(sys.modules))".replace(".__init__", "")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    ours = [name for name in done.stdout.split() if name.partition(".")[0] in PACKAGES]
    assert "cube.testing.abi.archive" in ours
    assert [n for n in ours if not re.match(r"(stratacube|cube\.testing)\b|cube$", n)] == []


def test_only_the_demo_is_made_with_the_kit() -> None:
    users = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in modules(package)
        if KIT not in path.parents and any(name.startswith("cube.testing") for name in imported(path))
    }
    assert users == {"cube/demo.py"}


def test_its_names_are_found_and_described() -> None:
    code = "import sys, cube.testing; print(*dir(cube.testing), 'h5py' in sys.modules, 'rasterio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [*cube.testing.__all__, "False", "False"]
    for name in cube.testing.__all__:
        found = getattr(cube.testing, name)
        assert found.__name__ == name
        assert found.__doc__
    with pytest.raises(AttributeError, match="has no attribute 'write_goes'"):
        _ = cube.testing.write_goes


def test_the_page_names_every_function() -> None:
    table = re.search(r"^\| function .*?\n\n", PAGE.read_text(), re.M | re.S)
    assert table
    assert set(re.findall(r"`(write_\w+)`", table[0])) == {n for n in cube.testing.__all__ if n.startswith("write_")}


@pytest.mark.slow
def test_the_tests_of_the_page_pass(tmp_path: Path) -> None:
    found = blocks(PAGE)
    assert {block.language for block in found} == {"python"}
    for block in found:
        name = block.text.split("\n", 1)[0].removeprefix("# ")
        assert re.fullmatch(r"test_\w+\.py", name), str(block)
        (tmp_path / name).write_text(block.text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    assert f"{PAGE.read_text().count('def test_') + 1} passed" in done.stdout  # one has two baselines


SLEEPERS = """
import os, sys, time
from pathlib import Path
from cube.testing.workers import spread

def sleep(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(float(sys.argv[2]))

if __name__ == "__main__":
    spread(sleep, [sys.argv[1]] * 2, 2)
"""


@contextmanager
def sleepers(folder: Path, seconds: int) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that waits for two workers, and these."""
    script, pids = folder / "sleepers.py", folder / "pids"
    script.write_text(SLEEPERS)
    pids.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), str(pids), str(seconds)]
    asker = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert within(60, lambda: len(list(pids.iterdir())) == 2)
        workers = [int(path.name) for path in pids.iterdir()]
        assert asker.pid not in workers
        yield asker, workers
    finally:
        with suppress(ProcessLookupError):
            os.killpg(asker.pid, signal.SIGKILL)  # workers too: they hold the pipe that is read to its end
        asker.communicate()


def test_workers_end_with_the_process_that_asked(tmp_path: Path) -> None:
    with sleepers(tmp_path, 600) as (asker, workers):
        asker.kill()
        assert within(20, lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_ctrl_c_is_told_once(tmp_path: Path) -> None:
    with sleepers(tmp_path, 2) as (asker, _):
        os.killpg(asker.pid, signal.SIGINT)
        _, told = asker.communicate(timeout=60)
    assert told.count("KeyboardInterrupt") == 1, told


def within(seconds: float, condition: object) -> bool:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
