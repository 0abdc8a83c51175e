"""Commands: exit codes, what is printed, mistakes, signals, and how soon help comes."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import stratacube
from cube import build as build_module
from cube.build import main
from cube.config import AbiConfig
from cube.geostationary.folder import AbiFolder
from cube.job.ledger import Entry, Ledger, Problem
from cube.sentinel2.config import Sentinel2Config
from stratacube.command import Answer, Parser, add_common, program, run
from stratacube.errors import SourceError, UsageError
from stratacube.flags import Words, add_flags, dashed

ROOT = Path(__file__).resolve().parents[2]


def parser_of(function: Callable[[argparse.Namespace], Any], **defaults: Any) -> Parser:
    parser = Parser("python -m example")
    parser.add_argument("--num-tiles", type=int)
    parser.add_argument("--grid", choices=("1km", "2km"))
    parser.add_argument("--bands", nargs="+", action=Words)
    parser.add_argument("--box", nargs="+")
    add_common(parser, answers=True)
    parser.set_defaults(run=function, **defaults)
    return parser


def raising(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def function(_: argparse.Namespace) -> int:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (UsageError("give `num_tiles`, not `other`"), 2, "error: give --num-tiles, not other\n"),
        (UsageError("take `grid=2km` or `access=s3`"), 2, "error: take --grid 2km or access=s3\n"),
        (UsageError("run `python -m x --y`"), 2, "error: run `python -m x --y`\n"),
        (SourceError("gone"), 1, "error: gone\n"),
        (
            FileNotFoundError(2, "No such file or directory", "/a"),
            1,
            "error: /a: No such file or directory; mend that and run the same command again\n",
        ),
        (OSError("odd"), 1, "error: odd; mend that and run the same command again\n"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C\n"),
    ],
)
def test_errors_are_sentences(
    error: BaseException, code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(parser_of(raising(error)), []) == code
    assert capsys.readouterr() == ("", sentence)


def test_what_can_be_gone_on_with_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(parser_of(raising(KeyboardInterrupt()), resumes=True), []) == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C; run the same command again to go on from here\n"


def test_faults_of_the_program_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run(parser_of(raising(ZeroDivisionError())), [])


def test_an_answer_is_text_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    parser = parser_of(lambda _: Answer(1, ("two", "lines"), {"é": [1, None]}))
    assert run(parser, []) == 1
    assert capsys.readouterr().out == "two\nlines\n"
    assert run(parser, ["--json"]) == 1
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"é": [1, None]}
    assert "é" in printed
    assert run(parser_of(lambda _: Answer()), []) == 0
    assert capsys.readouterr().out == ""
    assert run(parser_of(lambda _: 75), []) == 75


def mistaken(parser: Parser, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        run(parser, arguments)
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    return told.err


def test_mistyped_flags_choices_and_words(capsys: pytest.CaptureFixture[str]) -> None:
    parser = parser_of(lambda _: 0)
    for arguments, said in (
        (
            ["--num-tile", "3"],
            "error: unknown flag --num-tile (did you mean --num-tiles?); see python -m example --help",
        ),
        (["--zzz=3"], "error: unknown flag --zzz; see"),
        (["--grid", "1kn"], "error: --grid is '1kn' (did you mean 1km?); see"),
        (["--grid", "zzz"], "error: --grid is 'zzz'; give 1km, 2km; see"),
        (["extra"], "error: what is 'extra' for? nothing takes it; see"),
        (["--num-tiles", "many"], "error: argument --num-tiles: invalid int value: 'many'; see"),
    ):
        assert mistaken(parser, arguments, capsys).startswith(said)


def test_mistakes_name_the_command_they_are_of(capsys: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: str) -> str:
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        return capsys.readouterr().err

    assert told("abbi") == "error: unknown command 'abbi' (did you mean abi?); see python -m cube.build --help\n"
    unknown = "error: unknown flag --chanels (did you mean --channels?); see python -m cube.build abi --help\n"
    assert told("abi", "--chanels", "2") == unknown
    assert "--work-dir" in told("sentinel2", "--wrok_dir", "x")
    assert told().startswith("error: the following arguments are required: COMMAND")


@pytest.mark.parametrize(
    ("arguments", "box"),
    [
        (["--box", "-149.7", "68", "-149", "69"], ["-149.7", "68", "-149", "69"]),
        (["--box", "-149.7,68,-149,69"], ["-149.7,68,-149,69"]),
        (["--box=-149.7,68,-149,69"], ["-149.7,68,-149,69"]),
        (["--box", "-1e3", "-.5", "-1E-3"], ["-1e3", "-.5", "-1E-3"]),
    ],
)
def test_values_may_begin_with_a_minus(arguments: list[str], box: list[str]) -> None:
    given = parser_of(lambda _: 0).parse(["--num_tiles", "3", *arguments, "--grid=1km"])
    assert (given.num_tiles, given.box, given.grid) == (3, box, "1km")


def test_words_may_be_joined_by_commas() -> None:
    assert parser_of(lambda _: 0).parse(["--bands", "C01,C02", "C13"]).bands == ["C01", "C02", "C13"]


def test_fields_are_flags(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser("x")
    add_flags(parser, Sentinel2Config)
    assert vars(parser.parse([])).keys() == {"parser"}  # a flag overrides only when given
    given = parser.parse(["--bbox", "-1,2", "3", "4", "--no-tap", "--products", "cog", "zarr", "--work_dir", "w"])
    assert (given.bbox, given.tap, given.products, given.work_dir) == (["-1,2", "3", "4"], False, ["cog", "zarr"], "w")
    with pytest.raises(SystemExit):
        parser.parse(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "instead of or besides --bbox" in told
    assert "--products {cog,zarr}" in told
    assert "--work-dir PATH" in told
    assert "(default: B02 B03 B04 B05 B06 B07 B8A B11 B12)" in told
    assert "`" not in told


def test_names_that_are_no_flags_stay_names() -> None:
    assert dashed("`a_b` and `c` and `a_b=1 2`", ["--a-b"]) == "--a-b and c and --a-b 1 2"
    assert dashed("`theirs` and `theirs=1`", ["--a-b"], {"theirs": "a_b"}) == "--a-b and --a-b 1"


def test_messages_are_shown_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    def speak(_: argparse.Namespace) -> int:
        log = logging.getLogger("cube.example")
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            log.log(level, "%s of `num_tiles`", logging.getLevelName(level))
        logging.getLogger("other").info("nothing of ours")
        return 0

    said = {}
    for flags in ((), ("-q",), ("-v",)):
        assert run(parser_of(speak), flags) == 0
        said[flags] = capsys.readouterr().err.splitlines()
    assert said[()] == ["INFO of --num-tiles", "warning: WARNING of --num-tiles"]
    assert said["-q",] == ["warning: WARNING of --num-tiles"]
    assert [line.split(" ", 2)[2] for line in said["-v",]] == [
        "cube.example: DEBUG of --num-tiles",
        "cube.example: INFO of --num-tiles",
        "cube.example: warning: WARNING of --num-tiles",
    ]
    assert run(parser_of(speak, timed=True), []) == 0
    assert capsys.readouterr().err.splitlines()[0][:4].isdigit()
    assert not logging.getLogger("cube").handlers  # a library again
    assert logging.getLogger("cube").level == logging.NOTSET


SLEEPER = """
import os, sys, time
from stratacube.command import Parser, add_common, run

async def asked():
    pass

def work(options):
    begun = asked()  # and never awaited, as by a library that is interrupted before it is
    child = os.fork() if options.fork else 0
    if options.fork and not child:
        print(os.getpid(), flush=True)  # by the worker itself: a signal while it is being forked would be lost
        time.sleep(60)
    try:
        if not options.fork:
            print(flush=True)
        time.sleep(60)
    finally:
        print("tidied", flush=True)

parser = Parser("x")
parser.add_argument("--fork", action="store_true")
add_common(parser)
parser.set_defaults(run=work, resumes=True)
sys.exit(run(parser))
"""


@pytest.mark.parametrize(
    ("number", "code", "sentence"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")]
)
def test_signals_end_a_command_tidily(number: int, code: int, sentence: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", SLEEPER], cwd=ROOT, stdout=-1, stderr=-1, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (code, "tidied\n")
    assert err == f"stopped by {sentence}; run the same command again to go on from here\n"


LOSER = """
import sys, time
from stratacube.command import *

def wait():
    for _ in range(600):  # in short sleeps: a signal that comes just before one does not end it
        time.sleep(0.1)

class Late:
    def __del__(self):
        print("in it", flush=True)
        wait()

def work(_):
    late = Late()
    del late
    print("ignored", flush=True)
    try:
        wait()
    finally:
        print("tidied", flush=True)

parser = Parser("x")
add_common(parser)
parser.set_defaults(run=work)
sys.exit(run(parser))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_are_not_lost_where_python_ignores_what_is_raised(number: int, code: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", LOSER], cwd=ROOT, stdout=-1, stderr=-1, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (code, "ignored\ntidied\n")
    assert err.count("\n") == 1
    assert err.startswith("stopped by ")


def test_a_forked_worker_just_ends() -> None:
    process = subprocess.Popen([sys.executable, "-c", SLEEPER, "--fork"], cwd=ROOT, stdout=-1, stderr=-1, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    os.kill(worker, signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert out == "tidied\n"
    assert err == "stopped by SIGTERM; run the same command again to go on from here\n"  # the driver's word alone


def test_a_handler_of_someone_else_is_left_alone() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert run(parser_of(lambda _: int(signal.getsignal(signal.SIGTERM) is signal.SIG_IGN)), []) == 1
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert run(parser_of(lambda _: int(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)), []) == 0
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("lines", "reader"), [(100000, "head -1"), (1, "true")])
def test_a_reader_that_has_seen_enough_is_no_error(lines: int, reader: str) -> None:
    code = "import sys, time; from stratacube.command import *; p = Parser('x'); add_common(p); "
    code += f"p.set_defaults(run=lambda o: time.sleep(0.5) or Answer(0, ('line',) * {lines})); sys.exit(run(p, []))"
    script = f'{sys.executable} -c "$0" | {reader}; echo ${{PIPESTATUS[0]}}'
    command = ["bash", "-c", script, code]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}  # what is kept back is the trouble
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert (done.stdout.removeprefix("line\n"), done.stderr) == ("0\n", "")


@pytest.mark.parametrize("command", [("-m", "stratacube"), ("-m", "cube.build"), ("-m", "loaders.stats")])
def test_the_version(command: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, *command, "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"stratacube {stratacube.__version__}\n"


@pytest.mark.parametrize(("module", "name"), [("stratacube", "stratacube"), ("cube.build", "cube.build")])
def test_the_command_is_called_as_it_was_called(module: str, name: str) -> None:
    command = [sys.executable, "-m", module, "abi", "--nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.split("see ")[1]) == (2, f"python -m {name} abi --help\n")


def test_the_console_script_has_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/stratacube", "abi"])
    assert program("cube.build") == "stratacube"
    monkeypatch.setattr(sys, "argv", ["elsewhere.py"])
    assert program("cube.build") == "python -m cube.build"


HELP = [
    *(
        ("cube.build", name)
        for name in ("abi", "cloudsat", "sentinel2", "make-grid", "status", "verify", "errors", "demo")
    ),
    *((f"loaders.{name}",) for name in ("stats", "bench")),
    ("catalog.browse",),
    *((f"training.{name}",) for name in ("pretrain", "evaluate", "probe", "finetune", "publish", "demo")),
]
WITH_SETTINGS = {"abi", "cloudsat", "sentinel2", "make-grid", "training.pretrain", "training.demo"}
LISTS_INSTRUMENTS = {"numpy", "pyproj"}
"""What instruments take with them, of which only the help of ``abi`` tells."""
SLOW = {"numpy", "pandas", "pyproj", "rasterio", "requests", "scipy", "shapely", "torch", "xarray", "zarr"}


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help_comes_at_once(command: tuple[str, ...]) -> None:
    slow = SLOW if command[-1] in WITH_SETTINGS else SLOW | {"pydantic"}
    slow = slow - LISTS_INSTRUMENTS if command[-1] == "abi" else slow
    code = (
        "import runpy, sys; sys.argv = [sys.argv[1], *sys.argv[2:], '--help']\n"
        "try: runpy.run_module(sys.argv[0], run_name='__main__')\n"
        f"finally: print(*({slow} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "\n")  # `make bench` tells the seconds that are left


@pytest.fixture
def failed(tmp_path: Path) -> Path:
    """A build with a ledger of three problems."""
    folder = AbiFolder(tmp_path / "b")
    config = AbiConfig.check({"output_dir": folder.root})
    with folder.opened(config.described(), config.digest(), overwrite=False):
        pass
    problems = tuple(Problem("source", r, href=h) for r, h in (("bad", "1"), (f"{folder.root}/x is", ""), ("bad", "2")))
    Ledger(folder.ledger).record(Entry("shard-000000", "partial", problems))
    return folder.root


def test_errors_of_a_build_are_counted(failed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = f"     2 x source: bad\n     1 x source: x is\n{failed}: 3 errors\n"
    assert main(["errors", str(failed)]) == 0
    assert capsys.readouterr().out == wanted
    assert main(["errors", str(failed), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["problems"][0] == {"kind": "source", "reason": "bad", "count": 2}
    assert [row["href"] for row in told["rows"]] == ["1", "", "2"]
    AbiFolder(failed).errors.write_text("kind,reason,cell,product,href\nsource,gone,c,p,h\n")
    assert main(["errors", str(failed)]) == 0
    assert capsys.readouterr().out == f"     1 x source: gone\n{failed}: 1 error\n"
    assert main(["errors", str(failed / "nothing")]) == 2


def test_looks_may_answer_or_return_a_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import cube.job.inspect

    monkeypatch.setattr(cube.job.inspect, "status", lambda root: Answer(1, (f"{root}",), {"root": str(root)}))
    assert main(["status", "x", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"root": "x"}
    monkeypatch.setattr(cube.job.inspect, "status", lambda root: 1)
    assert main(["status", "x"]) == 1


def test_building_from_python_is_the_command(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text("cell-size: 10\nbounds: [0, 60, 10, 70]\n")
    assert main(["make-grid", "--config", str(file), "--output", str(tmp_path / "a.csv"), "--cell-size", "5"]) == 0
    answer = stratacube.build("make-grid", file, output=tmp_path / "b.csv", cell_size=5)
    assert answer == Answer(0, [f"4 cells: {tmp_path / 'b.csv'}"], {"cells": 4, "output": str(tmp_path / "b.csv")})
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    with pytest.raises(UsageError, match=r"unknown key `cell_sze`; did you mean `cell_size`\?"):
        stratacube.build("make-grid", output=tmp_path / "c.csv", cell_sze=5)
    with pytest.raises(
        UsageError, match=r"`source` is 'abbi': give abi, cloudsat, .* or export-chips \(did you mean abi\?\)"
    ):
        stratacube.build("abbi")


def test_what_a_job_answers_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cube.sentinel2.run.run_make_grid", lambda config: Answer(1, ("x",), {"cells": 3}))
    assert build_module.build("make-grid", output=tmp_path / "a.csv") == Answer(1, ("x",), {"cells": 3})


@pytest.mark.parametrize("module", ["stratacube", "cube", "training.models"])
def test_names_can_be_completed(module: str) -> None:
    code = f"import {module} as m; assert dir(m) == sorted(m.__all__), dir(m); [getattr(m, n) for n in dir(m)]"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_names_to_import_are_typed_and_known() -> None:
    assert set(stratacube.__all__) <= set(dir(stratacube))
    assert stratacube.build is build_module.build
    with pytest.raises(AttributeError, match="nothing"):
        stratacube.nothing  # noqa: B018


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_shells_complete_flags(tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    command = [sys.executable, "-m", "cube.build", "--print-completion", "bash"]
    script = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (tmp_path / "script").write_text(script)

    def completed(*words: str) -> set[str]:
        text = f"source {tmp_path}/script; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
        text += '_shtab_stratacube; printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-c", text], cwd=tmp_path, capture_output=True, text=True, check=True)
        return {word.strip() for word in done.stdout.splitlines()}

    assert {"abi", "sentinel2", "status", "errors"} <= completed("stratacube", "''")
    assert completed("stratacube", "abi", "--num") == {"--num-tiles"}
    assert completed("stratacube", "abi", "--grid", "''") == {"1km", "2km", "native"}
    assert "script" in completed("stratacube", "abi", "--output-dir", "scr")


def test_completion_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit, match="2"):
        main(["--print-completion", "bash"])
    assert "pip install 'stratacube[completion]'" in capsys.readouterr().err
