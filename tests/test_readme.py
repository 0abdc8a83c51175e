"""What the documents say is so: their commands and code run, their flags and links exist.

``bash`` and ``python`` blocks are run, in order, in one folder; a ``yaml`` block is the file its first line names.
``console`` blocks set something up (an environment, an image, a job) or need the network: of these it is checked that
what they name exists and that a build's flags are valid.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from catalog.browse.records import Shelf
from cube.build import LOOKS, _parser, commands
from cube.config import AbiConfig
from cube.geostationary.predecessor import with_predecessors_defaults
from cube.plug import imported
from stratacube.flags import add_flags
from training.config import presets

ROOT = Path(__file__).resolve().parents[1]
README, GUIDE, PREDECESSOR = ROOT / "README.md", ROOT / "docs" / "guide.md", ROOT / "docs" / "predecessor.md"
CONTRIBUTING, CONTAINERS = ROOT / "CONTRIBUTING.md", ROOT / "containers" / "README.md"
TESTING = ROOT / "docs" / "testing.md"  # run by tests/cube/test_testing.py
DOCUMENTS = (README, GUIDE, PREDECESSOR, CONTRIBUTING, CONTAINERS, TESTING, ROOT / "CHANGELOG.md")
LANGUAGES = {"bash", "python", "yaml", "console"}
COMMANDS = {"abi", "status", "verify", "errors", "demo"}
OTHER_FLAGS = {
    "--config",
    "--help",
    "--json",
    "--print-completion",
    "--archive",
    "--archive-only",
    "--folders",
    "--like",
    "--split-lists",
    "--array",
    "--build-arg",
    "--no-archive",
    "--start",
}
PREDECESSORS_FLAGS = (
    *("--stratification", "--convection-regex", "--output-dir", "--tile-size", "--channels", "--local-data-dir"),
    *("--satellite", "--product", "--domain", "--download", "--overwrite", "--num-tiles", "--start-dt", "--end-dt"),
    "--seed",
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> list[Block]:
    text = document.read_text()
    fences = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [Block(document, text.count("\n", 0, m.start()) + 1, m[1], m[2]) for m in fences]


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_blocks_are_of_known_languages(document: Path) -> None:
    assert {block.language for block in blocks(document)} <= LANGUAGES
    assert document.read_text().count("```") == 2 * len(blocks(document))


@pytest.mark.slow
def test_commands_and_code_run(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    runnable = [b for document in (README, GUIDE) for b in blocks(document) if b.language != "console"]
    assert {b.language for b in runnable} == {"bash", "python", "yaml"}
    for language, members in itertools.groupby(runnable, key=lambda b: b.language):
        group = list(members)
        text = "\n".join(b.text for b in group)
        if language == "yaml":
            for block in group:
                (tmp_path / block.text.split("\n", 1)[0].removeprefix("# ")).write_text(block.text)
            continue
        command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
        where = ", ".join(map(str, group))
        assert done.returncode == 0, f"{where}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        if language == "python":
            printed = done.stdout.splitlines()
            assert len(printed) == text.count("print("), where
            assert "nan" not in printed, where
            assert not done.stderr, done.stderr
    assert (tmp_path / "tiles" / "previews" / "contact_sheet.png").exists()
    browsed = [words[3:] for _, words in console_commands() if words[1:3] == ["-m", "catalog.browse"]]
    assert browsed
    assert all(Shelf.of([tmp_path / name for name in names]).records for names in browsed)


def console_commands() -> list[tuple[str, list[str]]]:
    """Where and what: the commands of console blocks, environment assignments left out."""
    found = []
    for document in DOCUMENTS:
        for block in blocks(document):
            if block.language != "console":
                continue
            for line in block.text.splitlines():
                assert line.startswith("$ "), f"{block}: {line}"
                words = shlex.split(line[2:])
                words = words[words.index("python") :] if words[0] == "mpirun" else words
                found.append((str(block), list(itertools.dropwhile(lambda w: re.match(r"[A-Z_]+=", w), words))))
    return found


@pytest.mark.parametrize(
    ("where", "words"), console_commands(), ids=lambda v: " ".join(v) if isinstance(v, list) else v
)
def test_set_up_commands_name_what_exists(where: str, words: list[str]) -> None:
    tool, arguments = words[0], words[1:]
    if tool == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
        assert arguments
        assert [a for a in arguments if "=" not in a and a not in targets] == []
    elif tool == "pip" or (tool.startswith("python3") and arguments[:2] == ["-m", "pip"]):
        check_pip(arguments[arguments.index("install") :])
    elif tool.startswith("python") and arguments[:2] == ["-m", "venv"]:
        assert arguments[2:] in ([".venv"], ["venv"])
    elif tool == "python":
        check_python(arguments)
    elif tool == "stratacube":
        assert _parser(arguments).parse(arguments).run  # or a mistake ends it
    elif tool == "venv/bin/pip":
        assert set(re.findall(r"\w+", arguments[1])) <= extras().keys()
        assert (ROOT / arguments[arguments.index("-c") + 1]).exists()
    elif tool in ("module", "printf"):  # of a site, and of the shell
        pass
    elif tool == ".":
        assert arguments == [".venv/bin/activate"]
    elif tool == ".venv/bin/pre-commit":
        assert "pre-commit" in " ".join(extras()["test"])
    elif tool == "sbatch":
        check_job(arguments)
    elif tool in ("podman", "apptainer", "singularity"):
        check_container(arguments)
    else:
        pytest.fail(f"{where} uses {tool}, which this test does not know")


def check_python(arguments: Sequence[str]) -> None:
    if arguments[:2] == ["-m", "catalog.browse"]:
        assert not any(a.startswith("-") for a in arguments[2:])  # what is browsed was built: see the test above
        return
    assert arguments[:2] == ["-m", "cube.build"]
    check_command(arguments[2], arguments[3:])


def check_job(arguments: Sequence[str]) -> None:
    script = next(i for i, a in enumerate(arguments) if a.endswith(".sbatch"))
    assert (ROOT / arguments[script]).exists()
    if "pretrain" in arguments[script]:
        assert arguments[script + 1] == "--config"
        assert arguments[script + 2] in presets()
    else:
        check_command(arguments[script + 1], arguments[script + 2 :])


def check_container(arguments: Sequence[str]) -> None:
    assert all((ROOT / a).exists() for a in arguments if a.startswith("containers/"))
    if arguments[0] in ("run", "exec"):
        called = next(i for i, a in enumerate(arguments) if a in ("stratacube", "python"))
        what = [a for a in arguments[called:] if a not in ("stratacube", "python")]
        assert what[0] in COMMANDS or what[:2] in (["-m", "cube.build"], ["-m", "training.pretrain"])


def extras() -> dict[str, list[str]]:
    described = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[str, list[str]] = described["optional-dependencies"]
    return found


def check_pip(arguments: Sequence[str]) -> None:
    assert (ROOT / arguments[arguments.index("-c") + 1]).exists()
    target = arguments[arguments.index("-e") + 1]
    match = re.fullmatch(r"\.(?:\[([\w,]+)\])?", target)
    assert match, target
    assert set((match[1] or "test").split(",")) <= extras().keys()


def check_command(name: str, arguments: Sequence[str]) -> None:
    """Read the flags of any command."""
    if name in {*LOOKS, "publish"}:
        return
    if name == "abi":
        check_build(arguments)
        return
    model = imported(commands()[name].config)
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser, model)
    model.check(vars(parser.parse_args(arguments)))


def check_build(arguments: Sequence[str]) -> None:
    """Read a build's flags as the command line does; a config file of the guide stands in for itself."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config")
    add_flags(parser, AbiConfig)
    flags = vars(parser.parse_args(arguments))
    named = flags.pop("config")
    if named:
        assert f"# {named}\n" in GUIDE.read_text()
    config = with_predecessors_defaults(AbiConfig.load(None, flags))
    if config.local_data_dir is None and not named and not any(part.stratum.period for part in config.parts):
        assert config.start_dt, "listing S3 needs a period"
        assert config.end_dt, "listing S3 needs a period"


def build_flags() -> set[str]:
    return {"--" + name.replace("_", "-") for name in AbiConfig.model_fields}


@pytest.mark.parametrize("document", [README, GUIDE, PREDECESSOR], ids=name_of)
def test_flags_exist(document: Path) -> None:
    text = re.sub(r"^```console.*?^```$", "", document.read_text(), flags=re.M | re.S)
    named = {flag.replace("_", "-") for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]+", text)}
    assert named
    assert named - build_flags() - OTHER_FLAGS == set()


def test_every_flag_is_told_to_those_who_come_from_the_predecessor() -> None:
    text = PREDECESSOR.read_text()
    told = {flag for flag in build_flags() if f"`{flag}`" in text or f"`--no-{flag[2:]}`" in text}
    assert set(PREDECESSORS_FLAGS) <= told
    assert build_flags() - told <= {"--engine"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = document.parent / path if path else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert not dead


def test_the_picture_of_readme_is_light_and_described() -> None:
    (described, path) = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", README.read_text())[0]
    assert len(described.split()) > 20
    assert (ROOT / path).stat().st_size < 400_000


def anchors(document: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", document.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
