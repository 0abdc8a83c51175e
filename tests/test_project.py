"""The project around the code: metadata, licence, imports, what is tracked, make, CI, containers."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("stratacube", "catalog", "cube", "loaders", "training")
FORBIDDEN = {
    "stratacube": {"catalog", "cube", "loaders", "training", "torch", "lightning"},
    "catalog": {"cube", "loaders", "training", "torch", "lightning"},
    "cube": {"loaders", "training", "torch", "lightning", "timm"},
    "loaders": {"training"},
    "training": set(),
}
FRONT_DOOR = [ROOT / "stratacube" / name for name in ("__init__.py", "__main__.py", "preview.py")]
"""They name what lies behind them, and load it late."""

MOST_LINES = 400
TARGETS = (
    "help",
    "demo",
    "test",
    "slow",
    "long",
    "races",
    "soak",
    "fuzz",
    "lint",
    "types",
    "format",
    "bench",
    "learn",
    "year-of-references",
    "docs",
    "notebooks",
    "installs",
    "constraints",
    "container-test",
    "release",
    "clean",
)

# Written in pieces, so that this file passes its own check.
HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("deb", "debian", "org"),
        ("registry", "npmjs", "org"),
        ("anaconda", "org"),
        ("docker", "io"),
        ("quay", "io"),
        ("ghcr", "io"),
    )
)
MACHINE_PATH = re.compile(r"(?<![\w.:$}~*-])/(?:home|root|Users|work|explore|css|nfs4m|scratch|lscratch)/\w")

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    """What pyproject.toml says of the project."""
    described: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return described


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Whole names of the modules a file imports, also inside functions and by name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rsplit(".", 1)[-1] in (
            "import_module",
            "__import__",
        ):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str))


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARGS")}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_metadata_is_what_the_project_says(project: dict[str, object]) -> None:
    installed = importlib.metadata.metadata("stratacube")
    assert installed["Name"] == project["name"] == "stratacube"
    assert installed["Version"] == project["version"]
    assert installed["License-Expression"] == project["license"] == "Apache-2.0"
    assert project["requires-python"] == ">=3.11"


def test_license_is_the_whole_apache_license() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n" in text
    assert "Version 2.0, January 2004" in text
    assert all(f"\n   {number}. " in text for number in range(1, 10))
    assert "END OF TERMS AND CONDITIONS" in text


def test_changelog_has_an_entry_for_this_version(project: dict[str, object]) -> None:
    entry = re.search(rf"^## {re.escape(str(project['version']))}\b.*\n+((?:- .*\n(?:  .*\n)*)+)", changelog(), re.M)
    assert entry is not None


def changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_are_short(package: str) -> None:
    long = {
        str(p.relative_to(ROOT)): n for p in modules(package) if (n := len(p.read_text().splitlines())) > MOST_LINES
    }
    assert not long


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    found = modules(package)
    assert found
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in found
        for name in imported(path)
        if name.partition(".")[0] in FORBIDDEN[package] and path not in FRONT_DOOR
    }
    assert not wrong


BY_HAND = re.compile(
    r"os\.re(?:place|name)\(|\.rename\((?!columns)|\.replace\((?:path|place|target)\)|mkstemp|\"\.part\""
)
RENAMED_BY_HAND = {
    "catalog/sentinel2/download.py",  # a part that the next run goes on from
    "catalog/publish/tiles.py",  # two folders are exchanged at once
}


@pytest.mark.parametrize("package", ["catalog", "loaders", "training", "cube/strata"])
def test_whole_or_absent_writes_are_of_one_module(package: str) -> None:
    found = {str(p.relative_to(ROOT)) for p in modules(package) if BY_HAND.search(p.read_text())}
    assert found <= RENAMED_BY_HAND


def test_building_loads_no_torch() -> None:
    code = "import sys, cube.build, cube.geostationary.run, cube.geostationary.open; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_tracked_files_name_no_machine_and_no_registry() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    wrong = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path == Path(__file__) or not path.is_file():
            continue
        text = path.read_bytes().decode(errors="ignore")
        wrong += [f"{name} names {host}" for host in HOSTS if host in text]
        wrong += [f"{name} names {match[0]}" for match in MACHINE_PATH.finditer(text)]
    assert not wrong


def test_machine_paths_are_recognised() -> None:
    for text in ("/home/" + "ann/data", 'open("/work/' + 'x")', "-B /explore/" + "nobackup"):
        assert MACHINE_PATH.search(text), text
    for text in ("s3://bucket/work/x", "network/work/y", "../work/z", "$HOME/work/z", "~/work/z"):
        assert not MACHINE_PATH.search(text), text


def test_constraints_pin_all_that_tests_need(project: dict[str, object]) -> None:
    pins: dict[str, list[Requirement]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            pin = Requirement(line)
            assert [s.operator for s in pin.specifier] == ["=="], line
            pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    wrong = []
    for wanted in requirements(project, "test"):
        for version in ("3.11", "3.12", "3.13"):
            environment = {"python_version": version, "python_full_version": f"{version}.0"}
            if wanted.marker and not wanted.marker.evaluate(environment):
                continue
            valid = [
                p
                for p in pins.get(canonicalize_name(wanted.name), [])
                if not p.marker or p.marker.evaluate(environment)
            ]
            if len(valid) != 1 or not wanted.specifier.contains(pinned(valid[0]), prereleases=True):
                wrong.append(f"{wanted} for Python {version}: {[str(p) for p in valid]}; run make constraints")
    assert not wrong


def requirements(project: dict[str, object], extra: str) -> Iterator[Requirement]:
    """Requirements of the project and of an extra, extras of extras included."""
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    dependencies = project["dependencies"]
    assert isinstance(dependencies, list)
    yield from map(Requirement, dependencies)
    waiting, seen = [extra], set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        for requirement in map(Requirement, extras[name]):
            if requirement.name == project["name"]:
                waiting += [e for e in requirement.extras if e not in seen]
            else:
                yield requirement


def pinned(pin: Requirement) -> Version:
    return Version(next(iter(pin.specifier)).version)


def test_the_stackstac_extra_says_what_stackstac_caps(project: dict[str, object]) -> None:
    """Else pip chooses something newer first, and may try version after version before it comes back to that."""
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    ours = {canonicalize_name(r.name): r.specifier for r in map(Requirement, extras["stackstac"])}
    theirs = [Requirement(text) for text in importlib.metadata.requires("stackstac") or ()]
    caps = {
        canonicalize_name(r.name): {s.version for s in r.specifier if s.operator == "<"}
        for r in theirs
        if r.marker is None and any(s.operator == "<" for s in r.specifier)
    }
    assert "pandas" in caps
    for name, versions in caps.items():
        assert name in ours, f"stackstac caps {name}"
        assert not any(ours[name].contains(version) for version in versions), f"stackstac caps {name} at {versions}"


def test_a_resolver_that_does_not_end_is_ended_and_told() -> None:
    command = [sys.executable, "tests/installs.py", "--limit", "0.01", "stackstac"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    for line in done.stdout.splitlines():
        assert re.search(r"^Python 3\.\d+\.\d+  (pip \S+|uv) +\[stackstac\] +no end within 0\.01 s \(", line), line
    assert done.stdout


@needs_make
@pytest.mark.parametrize("target", TARGETS)
def test_make_has_the_target(target: str) -> None:
    done = make("--dry-run", "--always-make", target)
    assert done.returncode == 0, done.stderr


@needs_make
def test_make_lists_its_targets() -> None:
    done = make()
    assert [line.split()[1] for line in done.stdout.splitlines()] == list(TARGETS)


@needs_make
def test_make_hands_on_the_archive() -> None:
    assert '--archive "some folder"' in make("--dry-run", "demo", "ARCHIVE=some folder").stdout
    assert "--archive" not in make("--dry-run", "demo").stdout


OLD_PYTHON = """#!/bin/sh
case "$*" in *version_info*) exit 1 ;; *) echo "Python 3.9.18" ;; esac
"""
WITHOUT_VENV = """#!/bin/sh
case "$*" in *ensurepip*) exit 1 ;; esac
"""


@needs_make
@pytest.mark.parametrize("target", ["demo", "test"])
@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (None, "is not found; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3"),
        (OLD_PYTHON, "is Python 3.9.18, but stratacube needs Python 3.11 or newer; name one: make PYTHON=python3.11"),
        (
            WITHOUT_VENV,
            "lacks its venv module; install it (Debian and Ubuntu: the package python3-venv), or name another",
        ),
    ],
)
def test_make_says_which_python_it_needs(target: str, script: str | None, sentence: str, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python"
    if script:
        python.write_text(script)
        python.chmod(0o755)
    done = make(target, f"PYTHON={python}", folder=tmp_path)
    assert done.returncode == 2
    assert f"make: {python} {sentence}" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_hooks_fetch_nothing() -> None:
    described = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {repo["repo"] for repo in described["repos"]} == {"local"}
    hooks = [hook for repo in described["repos"] for hook in repo["hooks"]]
    assert [hook["id"] for hook in hooks] == ["ruff", "ruff-format", "mypy", "numpydoc"]
    assert {hook["language"] for hook in hooks} == {"system"}


def test_ci_runs_what_a_developer_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    steps = re.findall(r"^step make (\w+)$", script.read_text(), re.M)
    assert set(steps) == {"lint", "types", "slow", "test"}


@pytest.fixture
def checkout_with_a_failure(tmp_path: Path) -> Path:
    """A folder with the CI script and a Makefile of which one target fails."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "Makefile").write_text("lint slow test:\n\t@echo ran $@\ntypes:\n\t@false\n")
    return tmp_path


@needs_make
def test_ci_fails_when_a_step_fails(checkout_with_a_failure: Path) -> None:
    script = ["bash", str(checkout_with_a_failure / ".ci" / "run")]
    environment = {**os.environ, "CI": ""}  # nothing is installed by a test
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "failed: make types" in done.stdout
    assert "ran test" in done.stdout
    makefile = checkout_with_a_failure / "Makefile"
    makefile.write_text(makefile.read_text().replace("false", "true"))
    assert subprocess.run(script, env=environment, capture_output=True, check=False, timeout=60).returncode == 0


def test_the_job_script_uses_the_cores_of_the_job() -> None:
    script = ROOT / "containers" / "slurm" / "build.sbatch"
    environment = {**os.environ, "STRATACUBE": "echo container run", "SLURM_CPUS_PER_TASK": "3"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(script), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    assert run("abi", "--output-dir", "a b").stdout == "container run abi --output-dir a b --workers 3\n"
    assert run().returncode == 2
    assert "#SBATCH --requeue\n" in script.read_text()


def test_scripts_are_bash_and_say_what_to_change() -> None:
    jobs = sorted((ROOT / "containers" / "slurm").iterdir())
    assert len(jobs) >= 6
    for script in (*jobs, *(ROOT / "containers").glob("*.sh")):
        assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0, script
    for script in jobs:
        text = script.read_text()
        assert "To change:" in text
        assert all(word in text for word in ("STRATACUBE_ENV", "{arch}", "#SBATCH --time=", "#SBATCH --requeue")), (
            script
        )


def test_a_tag_releases_its_version() -> None:
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]["release"]["steps"]
    told = "\n".join(step.get("run", "") for step in steps)
    for words in ("make release", "buildah push", "gh release", "pyproject.toml"):
        assert words in told


def test_containers_copy_what_is_there() -> None:
    text = (ROOT / "containers" / "Containerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.*)$", text, re.M) for name in line.split()[:-1]]
    definition = (ROOT / "containers" / "stratacube.def").read_text()
    files = re.findall(r"^    (\S+) /opt/stratacube/$", definition, re.M)
    assert copied == files
    assert set(PACKAGES) < set(copied)
    assert all((ROOT / name).exists() for name in copied)
