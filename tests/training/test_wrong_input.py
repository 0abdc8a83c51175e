"""What a user gets wrong on a command line: one sentence that tells it, no traceback, and no file lost."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from stratacube.errors import UsageError
from tests.training.test_data import tiles_run
from tests.training.test_splits import cube_run
from training.config import print_config
from training.models import MaskedAutoencoder
from training.publication import publish
from training.runs import Opened, judged_on, open_run
from training.trainer import Trainer


@pytest.fixture(scope="module")
def place(placed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a published model, which names its store only, and with much that is none."""
    folder = tmp_path_factory.mktemp("place")
    config = tiles_run(folder / "run", placed)
    Trainer(config).fit(1)
    publish(open_run(folder / "run"), folder / "model")
    (folder / "run.yaml").write_text(print_config(config))
    (folder / "empty").mkdir()
    save_file({"a": torch.zeros(3)}, folder / "foreign.safetensors")
    (folder / "build").mkdir()
    (folder / "build" / "config.yaml").write_text(yaml.safe_dump({"source": "geostationary"}))
    return folder


HERE = "small-run learned from {name}, which is not here (a published model names its stores only); give --data: "


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("training.probe {model} --label stratum", 2, HERE),
        ("training.evaluate {model}", 2, HERE),
        ("training.finetune {model} --label stratum --output-dir {empty}", 2, HERE),
        ("training.evaluate {model} --data {placed} --batches 0", 2, "--batches is 0; give 1 or more"),
        ("training.evaluate {model} --data {placed} --pictures -1", 2, "--pictures is -1; give 0 or more"),
        ("training.probe {model} --data {placed} --label stratum --batches -1", 2, "--batches is -1; give 1 or more"),
        (
            "training.embed {model} {placed} --output-dir {new} --device abacus",
            2,
            "--device is abacus, which cannot",
        ),
        ("training.embed {model} {placed} --output-dir {new} --device meta", 2, "--device is meta, which cannot be"),
        ("training.embed {model} {placed} --output-dir {model}", 2, "{model} exists, and is not of training.embed; "),
        ("training.embed {model} {placed} --output-dir {run}.yaml", 2, "run.yaml exists, and is not of training.embed"),
        ("training.pretrain -c {run}.yaml --output-dir {model}", 2, "{model} is the folder of a checkpoint or a pub"),
        ("training.pretrain -c {run}.yaml --output-dir {build}", 2, "{build} is the folder of something else, such as"),
        (
            "training.pretrain -c {run}.yaml --output-dir {new} --set run.devices=0",
            2,
            "0 devices of kind cpu cannot",
        ),
        ("training.pretrain -c {run}.yaml --output-dir {new} --set run.devices=-1", 2, "-1 devices of kind cpu cannot"),
        (
            "training.pretrain -c {run}.yaml --output-dir {new} --set init_from={model}",
            2,
            "{model} is a folder; give",
        ),
        ("training.convert --to timm {new} --output {new}", 2, "{new} is not there; give a file of weights"),
        ("training.convert --to timm {foreign}.safetensors --output {new}", 1, "has no model settings in its header"),
        ("training.probe {empty} --label stratum", 2, "{empty} holds no checkpoint; give a run's folder"),
        ("training.embed {model} {cube} --output-dir {new}", 2, "has B02, B8A, not C13, C01, C08"),
    ],
)
def test_it_is_one_sentence(
    place: Path, placed: Path, cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, code: int,
    told: str,
) -> None:  # fmt: skip
    names = {path.name: path for path in place.iterdir()}
    names |= {"foreign": place / "foreign", "placed": placed, "cube": cube, "new": tmp_path / "new"}
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file() and ".claim" not in p.parts}
    module, *words = line.split()
    assert import_module(module).main([word.format(**names) for word in words]) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert told.format(**names, name=placed.name) in error
    assert all(p.read_bytes() == content for p, content in before.items())


def test_cubes_of_a_published_model_are_asked_for_too(tmp_path: Path) -> None:
    config = cube_run(tmp_path, Path("gone.zarr"))
    opened = Opened(MaskedAutoencoder(config.model), config, {}, tmp_path, tmp_path / "weights.safetensors", 1)
    with pytest.raises(UsageError, match=r"learned from gone\.zarr, which is not here .*of these cubes, or of others"):
        judged_on(opened, None)
