"""Help that teaches: groups, units, examples that hold; bands in any sensible spelling; colours on a terminal."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from catalog.geostationary.abi import ABI_NAMES
from catalog.geostationary.ami import AMI_NAMES
from cube.build import _EXAMPLES, commands, main
from cube.config import AbiConfig
from cube.plug import imported
from cube.sentinel2.vocabulary import BAND_RESOLUTIONS, band_name, refuse_unknown_band
from stratacube.errors import UsageError
from stratacube.flags import Parser, add_flags

ROOT = Path(__file__).resolve().parents[2]
MODELS = {name: imported(command.config) for name, command in commands().items()}


@pytest.mark.parametrize("name", MODELS)
def test_each_setting_is_told_once_and_groups_name_settings(name: str) -> None:
    named = [field for fields in MODELS[name].GROUPS.values() for field in fields]
    assert len(named) == len(set(named))
    assert set(named) <= MODELS[name].model_fields.keys()
    parser = Parser("x")
    add_flags(parser, MODELS[name])
    dests = [action.dest for action in parser._actions if action.dest != "help"]
    assert sorted(dests) == sorted(MODELS[name].model_fields)
    if MODELS[name].GROUPS:
        assert set(named) == MODELS[name].model_fields.keys(), "put it into a group, where help tells it"


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.EXAMPLES])
def test_examples_of_help_are_configurations(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "masks").mkdir()
    parser = Parser("x")
    parser.add_argument("--config")
    add_flags(parser, MODELS[name])
    for flags, purpose in MODELS[name].EXAMPLES:
        assert len(purpose) < 90
        given = {k: v for k, v in vars(parser.parse(shlex.split(flags))).items() if k != "parser"}
        if given.pop("config") is None:
            MODELS[name].check(given)


def test_help_has_examples_units_and_groups(capsys: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: str) -> str:
        with pytest.raises(SystemExit, match="0"):
            main([*arguments, "--help"])
        return capsys.readouterr().out

    whole = told()
    for arguments, purpose in _EXAMPLES:
        assert f"cube.build {arguments}\n      {purpose}" in whole
        assert arguments.split()[0] in {*commands(), "demo", "doctor", "explain", "status"}
    for command in (("abi",), ("explain", "abi")):
        text = told(*command)
        titles = re.findall(r"^([a-z][^\n]*):$", text, re.MULTILINE)
        assert titles[0] == "examples"
        assert titles.index("what is cut, and where it goes") < titles.index("options of convection")
        for unit in (
            "--step-minutes MINUTES",
            "--min-spacing-km KM",
            "--max-view-zenith DEGREES",
            "--tile-size PIXELS",
        ):
            assert unit in text
    assert "--tr NUMBER [NUMBER ...]" in told("sentinel2")


@pytest.mark.parametrize(
    "spelling", ["13", "c13", "C13", "C013", "band 13", "Band-13", "ch13", "lwir", "10.3um", "10.35 µm"]
)
def test_channels_in_any_sensible_spelling(spelling: str) -> None:
    flags = {"local_data_dir": "x", "channels": [spelling.replace(" ", "")]}  # a command line takes it for two words
    assert AbiConfig.check(flags).channels == [13]
    assert ABI_NAMES.number(spelling) == 13


def test_channels_by_range_and_common_names() -> None:
    def channels(*words: str, satellite: str = "goes16") -> list[int]:
        return AbiConfig.check({"local_data_dir": "x", "satellite": satellite, "channels": list(words)}).channels

    assert channels("8-10", "red") == [8, 9, 10, 2]
    assert channels("C01..c03") == [1, 2, 3]
    assert channels("all") == [*range(1, 17)]
    assert channels("nir") == [3]
    assert channels("ir105", "WV063", satellite="gk2a") == [AMI_NAMES.number("ir105"), AMI_NAMES.number("wv063")]
    for wrong, said in (
        ("10-8", r"channels '10-8' end at 8 before they begin at 10"),
        ("17", r"channel 17 is unknown; ABI has channels 1 to 16 \(C01 to C16\)"),
        ("1-17", r"channel '17' is unknown"),
        ("lwri", r"channel 'lwri' is unknown; .*\(did you mean lwir\?\)"),
        ("5um", r"channel '5um' is unknown"),
    ):
        with pytest.raises(UsageError, match=said):
            channels(wrong)


def test_bands_in_any_sensible_spelling() -> None:
    for wanted, spellings in {
        "B08": ("8", "08", "b8", "B08", "nir", "NIR", "band 8"),
        "B8A": ("8a", "b8a", "B8A", "B08A", "nir08"),
        "B12": ("12", "B12", "swir22"),
        "B05": ("b5", "rededge1", "rededge071"),
    }.items():
        assert {band_name(spelling) for spelling in spellings} == {wanted}
    refuse_unknown_band([band_name(band) for band in ("red", "green", "blue", *BAND_RESOLUTIONS)])
    for wrong, near in (("rde", "red"), ("B13", "B1"), ("rededge4", "rededge")):
        with pytest.raises(UsageError, match=rf"band '{wrong}' is unknown; .*\(did you mean {near}"):
            refuse_unknown_band([band_name(wrong)])


def on_terminal(*arguments: str, **environment: str) -> str:
    """What a command prints where both of its streams are a terminal."""
    controller, terminal = pty.openpty()
    values = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT), **environment}
    values.pop("NO_COLOR", None) if "NO_COLOR" not in environment else None
    command = [sys.executable, "-m", "cube.build", *arguments]
    with subprocess.Popen(command, env=values, stdout=terminal, stderr=terminal, cwd=ROOT) as process:
        os.close(terminal)
        printed = b""
        while True:
            try:
                part = os.read(controller, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            printed += part
        process.wait()
    os.close(controller)
    return printed.decode()


def test_colours_on_a_terminal_and_none_where_they_are_not_wanted() -> None:
    assert on_terminal("status", "nowhere").startswith("\033[31merror:\033[0m ")
    assert on_terminal("status", "nowhere", NO_COLOR="1").startswith("error: ")
    coloured = on_terminal("status", "--help")
    assert "\033[1moptions:\033[0m" in coloured
    assert "\033[36m--json\033[0m" in coloured
    piped: Any = subprocess.run(
        [sys.executable, "-m", "cube.build", "status", "nowhere"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert "\033" not in piped.stderr
