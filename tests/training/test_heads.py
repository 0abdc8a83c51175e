"""Labels of classes, numbers, pixels and profiles; heads that learn them; probes of classes and numbers."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from safetensors.torch import load_file

from loaders.counting import compute_statistics
from stratacube.errors import UsageError
from tests.training.small import write_store
from tests.training.test_data import tiles_run
from training import classifiers, finetuning, probe, probing
from training import finetune as command
from training.batches import stored_statistics
from training.classifiers import METHODS, PENALTIES, Problem
from training.data import open_data
from training.finetuning import FineTuned, Tuning, finetune, open_finetuned
from training.head_scores import Tally
from training.heads import Head
from training.labels import Label
from training.models import MaskedAutoencoder
from training.publication import publish
from training.runs import open_run
from training.trainer import Trainer

CPU = torch.device("cpu")
PROFILES, BINS = 20, 8


def add(group: zarr.Group, name: str, dims: tuple[str, ...], values: Any, **attributes: Any) -> None:
    array = group.create_array(
        name, shape=values.shape, dtype=values.dtype, dimension_names=dims, attributes=attributes
    )
    array[...] = values


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve tiles whose labels are told by their pixels: of 13, of 8 and 1, of the mean of 1."""
    folder = tmp_path_factory.mktemp("labelled")
    group = zarr.open_group(write_store()(folder, tiles=12, steps=1, size=16))
    group["packing_scale"][...] = 0.02
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:16, :16] / 3
    for name in ("C13", "C08", "C01"):
        a, b, c = rng.uniform(0, 6, (3, 12, 1, 1, 1))
        image = 1500 + 700 * np.sin(x * np.cos(a) + y * np.sin(a) + b) + 800 * np.cos(c)
        group[name][...] = np.where(np.asarray(group[name]) == 4095, 4095, image).astype("u2")
    counts = {name: np.asarray(group[name][:, 0], "f8") for name in ("C13", "C08", "C01")}
    warm, cold = (counts[name] > np.median(counts[name]) for name in ("C13", "C08"))
    numbers = np.where(warm, 7 + np.arange(12)[:, None, None], 0)[:, None]
    numbers[(counts["C13"] == 4095)[:, None]] = -1
    plan = pd.read_parquet(folder / "plan.parquet")
    plan["extent"] = [35.0] * 7 + [42.75] + [35.0, 42.5, 42.75, 35.0]  # whole in most batches
    plan["grade"] = [np.nan, 1, 2, 1, 1, 2, 1, 1, 1, 2, np.nan, 1]
    plan["rare"] = [4] * 6 + [9, 9] + [9, 4, 4, 4]
    plan["age"] = [3, 5] * 4 + [3, 5, 7, 3]
    plan["blank"] = np.nan
    plan.to_parquet(folder / "plan.parquet")
    stages = np.where(numbers < 0, 255, np.where(numbers > 0, 2, 0)).astype("u1")
    add(group, "system_number_ahead", ("tile", "ahead", "y", "x"), numbers.astype("i8"))
    flags = {"flag_values": [0, 1, 2, 255], "flag_meanings": "none young old unknown"}
    add(group, "life_stage_ahead", ("tile", "ahead", "y", "x"), stages, **flags)
    rows = np.tile(np.linspace(-1, 15, PROFILES).round().astype("i4"), 12)  # the first of each lies outside
    cols, tiles = np.full(len(rows), 9, "i4"), np.repeat(np.arange(12), PROFILES)
    cols[1::2] = 2
    classes = np.zeros((len(rows), BINS), "i1")
    classes[:, BINS // 2 :] = np.where(cold[tiles, rows.clip(0), cols], 4, 0)[:, None]
    valid = (np.arange(len(rows)) % 7 != 3) & (counts["C08"][tiles, rows.clip(0), cols] < 4095)
    classes[~valid] = -1
    names = {"flag_values": [-1, 0, 4, 9], "flag_meanings": "missing clear ac dc"}
    add(group, "cloudsat_profile_count", ("tile",), np.full(12, PROFILES, "i4"))
    add(group, "cloudsat_profile_start", ("tile",), np.arange(12) * PROFILES)
    add(group, "cloudsat_class", ("profile", "cloudsat_height"), classes, **names)
    add(group, "cloudsat_valid", ("profile",), valid.astype("i1"))
    add(group, "cloudsat_row", ("profile",), rows)
    add(group, "cloudsat_col", ("profile",), cols)
    share = (counts["C01"] > np.median(counts["C01"])).mean((1, 2))
    add(group, "landcover_fraction", ("tile", "landcover"), np.stack([share, 1 - share], 1).astype("f4"))
    land = {"flag_values": [0, 12], "flag_meanings": "water crops"}
    add(group, "landcover", ("landcover",), np.array([0, 12], "i4"), **land)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(group.store)
    return folder


@pytest.fixture(scope="module")
def trained(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    model = {"image_size": 16, "frames": 1}
    Trainer(tiles_run(folder, labelled, model=model, data={"batch_size": 4, "statistics": "own"})).fit(1)
    return folder


def batch_of(trained: Path, label: str) -> tuple[Label, Any]:
    opened = open_run(trained, {"data": {"label": label}})
    data = open_data(opened.config, 0, 1, CPU, stored=stored_statistics(opened.manifest), strict=False)
    assert data.validation is not None
    batch = next(iter(data.validation))  # tiles 8 to 11
    return Label.of(label, batch, data.names), batch


def test_labels_are_what_the_store_says(trained: Path, labelled: Path) -> None:
    store = zarr.open_group(labelled / "tiles.zarr", mode="r", use_consolidated=False)
    label, batch = batch_of(trained, "system_number_ahead")
    numbers = store["system_number_ahead"][8:]
    assert (label.kind, label.classes, label.levels) == ("pixels", ("none", "system_number_ahead"), 1)
    assert np.array_equal(label.truth(batch).values, np.where(numbers < 0, -1, numbers > 0))
    label, batch = batch_of(trained, "life_stage_ahead")
    assert label.classes == ("none", "young", "old")
    stages = store["life_stage_ahead"][8:].astype(int)
    assert np.array_equal(label.truth(batch).values, np.where(stages == 255, -1, stages))
    label, batch = batch_of(trained, "cloudsat")
    assert (label.kind, label.classes, label.levels) == ("profiles", ("clear", "ac", "dc"), BINS)
    truth, own = label.truth(batch), slice(8 * PROFILES, None)
    stored = store["cloudsat_class"][own].reshape(4, PROFILES, BINS)
    assert np.array_equal(truth.values, np.select([stored == 0, stored == 4], [0, 1], -1))
    valid = (store["cloudsat_valid"][own] != 0) & (store["cloudsat_row"][own] >= 0)
    places = np.stack([store["cloudsat_row"][own], store["cloudsat_col"][own]], -1)
    assert np.array_equal(truth.at, np.where(valid[:, None], places, -1).reshape(4, PROFILES, 2))
    label, batch = batch_of(trained, "landcover")
    assert (label.kind, label.classes) == ("numbers", ("water", "crops"))
    assert np.array_equal(label.truth(batch).values, store["landcover_fraction"][8:])
    label, _ = batch_of(trained, "stratum")
    assert (label.kind, label.classes, label.values) == ("classes", ("convection", "random"), (0, 1))


def test_a_head_learns_classes_of_profiles_and_is_opened_again(trained: Path, tmp_path: Path, capsys: Any) -> None:
    flags = ["--label", "cloudsat", "--steps", "60", "--lr", "5e-3", "--encoder", "tuned"]
    assert command.main([str(trained), *flags, "--output-dir", str(tmp_path / "head")]) == 0
    assert "encoder tuned" in capsys.readouterr().out
    told = json.loads((tmp_path / "head" / "finetune.json").read_text())
    head, constant = told["scores"]["head"], told["scores"]["commonest class"]
    assert head["iou"] > 0.65 > constant["iou"] + 0.1
    assert set(head["by_class"]) == {"clear", "ac"}
    _, batch = batch_of(trained, "cloudsat")
    opened = open_finetuned(tmp_path / "head")
    label = opened.head.label
    truth, predicted = label.truth(batch), opened.predict(batch)
    known = (truth.values >= 0) & (truth.at[..., :1] >= 0)  # type: ignore[index]
    right = (predicted == truth.values)[known].double().mean()
    assert float(right) == pytest.approx(head["accuracy"])
    assert int(known.sum()) == head["judged"]
    before, after = open_run(trained).model.state_dict(), opened.model.state_dict()
    assert any(not torch.equal(after[name], before[name]) for name in after if name.startswith("encoder."))
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "head").glob("[!.]*")}
    assert command.main([str(trained), *flags, "--output-dir", str(tmp_path / "head")]) == 0  # told again, not done
    assert command.main([str(trained), *flags, "--seed", "1", "--output-dir", str(tmp_path / "head")]) == 2
    assert "made otherwise (seed 0 -> 1); give another --output-dir" in capsys.readouterr().err
    assert command.main([str(trained), *flags, "--output-dir", str(trained)]) == 2
    assert "is not of training.finetune" in capsys.readouterr().err
    assert written == {path: path.stat().st_mtime_ns for path in written}


def told_by(folder: Path) -> Any:
    """All that was learned: numbers and weights, of heads and encoders."""
    weights = [load_file(folder / f"{name}.safetensors") for name in ("head", "encoder")]
    return json.loads((folder / "finetune.json").read_text()), weights


def same(one: Any, other: Any) -> bool:
    """Bit by bit."""
    return one[0] == other[0] and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one[1], other[1], strict=True)
    )


def test_a_head_that_was_killed_goes_on_to_the_same_numbers(trained: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """In the tuned head and in the one it is compared with, and where a signal asks to stop."""
    flags = [str(trained), "--label", "cloudsat", "--encoder", "tuned", "--steps", "9", "--save-every", "2"]
    flags += ["--compare", "--batch-size", "3", "--output-dir"]
    drawn = MaskedAutoencoder.encode

    def dropping(self: Any, *inputs: Any) -> Any:  # as an encoder that drops paths: from the generator of all
        tokens = drawn(self, *inputs)
        return tokens * (0.5 + torch.rand(tokens.shape[-1])) if self.training else tokens

    monkeypatch.setattr(MaskedAutoencoder, "encode", dropping)
    assert command.main([*flags, str(tmp_path / "whole")]) == 0
    whole, folder = told_by(tmp_path / "whole"), tmp_path / "parts"
    assert {"head", "random", "none"} <= whole[0]["scores"].keys()
    assert not (tmp_path / "whole" / "heads").exists()
    loss, steps = Head.loss, []

    def dying(at: int) -> Any:
        def broken(self: Head, *told: Any) -> Any:
            steps.append(at)
            if len(steps) == at:
                raise OSError(5, "a node died")  # nothing is saved by it
            return loss(self, *told)

        return broken

    for at, left in ((6, "tuned/step_00000004"), (5 + 6, "random/step_00000004")):  # the first goes on at its fifth
        steps.clear()
        monkeypatch.setattr(Head, "loss", dying(at))
        assert command.main([*flags, str(folder)]) == 1
        assert (folder / "heads" / left).exists()
        torch.rand(7)  # wherever the generator stands
    assert (folder / "finetune.json").exists()
    monkeypatch.setattr(Head, "loss", lambda self, *told: (os.kill(os.getpid(), signal.SIGTERM), loss(self, *told))[1])
    assert command.main([*flags, str(folder)]) == 75
    assert (folder / "heads" / "random" / "step_00000005").exists()
    monkeypatch.setattr(Head, "loss", loss)
    assert command.main([*flags, str(folder), "--batch-size", "2"]) == 2
    assert command.main([*flags, str(folder)]) == 0
    assert same(told_by(folder), whole)


@pytest.mark.slow
@pytest.mark.long
def test_a_process_that_is_killed_goes_on_with_its_head(trained: Path, tmp_path: Path) -> None:
    flags = ["-m", "training.finetune", str(trained), "--label", "cloudsat", "--encoder", "tuned", "--save-every", "5"]
    flags += ["--steps", "200", "--output-dir"]
    process = subprocess.Popen([sys.executable, *flags, str(tmp_path / "killed")])
    while not [*(tmp_path / "killed" / "heads" / "tuned").glob("step_*")]:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    for name in ("killed", "whole"):
        subprocess.run([sys.executable, *flags, str(tmp_path / name)], check=True)
    assert same(told_by(tmp_path / "killed"), told_by(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize(("label", "encoder"), [("system_number_ahead", "frozen"), ("life_stage_ahead", "none")])
def test_a_head_learns_classes_of_pixels(trained: Path, label: str, encoder: Any) -> None:
    opened = open_run(trained, {"data": {"label": label}})
    before = {name: value.clone() for name, value in opened.model.state_dict().items()}
    tuned, told = finetune(opened, Tuning(encoder, 60, 5e-3))
    assert told["scores"]["head"]["iou"] > 0.8 > told["scores"]["commonest class"]["iou"] + 0.1
    assert all(torch.equal(value, before[name]) for name, value in tuned.model.state_dict().items())
    _, batch = batch_of(trained, label)
    assert tuned.predict(batch).shape == (4, 1, 16, 16)


@pytest.mark.slow
def test_a_head_tells_numbers_and_classes_of_samples(trained: Path, tmp_path: Path) -> None:
    opened = open_run(trained, {"data": {"label": "landcover"}})
    tuned, told = finetune(opened, Tuning("none", 150, 2e-2), tmp_path / "head")
    assert set(told["scores"]["head"]["by_class"]) == {"water", "crops"}
    assert told["scores"]["head"]["rmse"] < 0.6 * told["scores"]["mean"]["rmse"]
    _, batch = batch_of(trained, "landcover")
    assert torch.allclose(open_finetuned(tmp_path / "head").predict(batch), tuned.predict(batch), atol=1e-6)
    opened = open_run(trained, {"data": {"label": "stratum"}})
    told = finetune(opened, Tuning("none", 5))[1]
    assert set(told["scores"]["head"]["by_class"]) == {"convection", "random"}


@pytest.mark.slow
def test_the_example_learns_classes_by_height_in_forty_lines(labelled: Path, capsys: Any) -> None:
    path = Path(__file__).parents[2] / "docs" / "examples" / "unet3d.py"
    assert len([line for line in path.read_text().splitlines() if line.strip() and line[:3] != '"""']) <= 40
    example = runpy.run_path(str(path))
    torch.manual_seed(0)
    statistics = labelled / "statistics.json"
    compute_statistics([str(labelled)]).save(statistics)
    example["train"](labelled, statistics, steps=51, batch_size=4)
    right = [float(line.split()[-2]) for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert len(right) == 2
    assert right[1] > max(0.75, right[0])


def test_places_of_profiles_are_rows_and_columns(trained: Path) -> None:
    """One pixel is changed: what is told changes of the profile there, and of none whose view does not reach it."""
    label, batch = batch_of(trained, "cloudsat")
    opened = open_run(trained)
    tuned = FineTuned(opened.model, _head(opened, label), (torch.zeros(1), torch.ones(1)), "none")
    changed = batch.pixels.clone()
    place = batch.at[0][batch.at[0, :, 0] > 4][0].tolist()
    changed[0, 0, :, place[0], place[1]] += 5
    seen = [
        tuned.answer(type(batch)(p, batch.valid, batch.minutes, batch.samples, batch.labels, batch.at))
        for p in (batch.pixels, changed)
    ]
    there = (batch.at[0] == torch.tensor(place)).all(1)
    far = (batch.at[0] - torch.tensor(place)).abs().amax(1) > 2
    apart = (seen[0][0] - seen[1][0]).abs().flatten(1).amax(1)
    assert int(there.sum()) == 1
    assert apart[there] > 3 * apart[far].max()
    assert torch.equal(seen[0][1:], seen[1][1:])


def _head(opened: Any, label: Label) -> Any:
    torch.manual_seed(0)
    return Head(opened.model, label, tokens=False).eval()


def test_scores_of_a_head_by_hand() -> None:
    label = Label("x", "pixels", ("a", "b", "c"), (0, 1, 2))
    tally = Tally(label)
    tally.add(torch.tensor([0, 0, 1, 1, 1, 2]), torch.tensor([0, 1, 1, 1, -1, 0]))
    scores = tally.scores()
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["balanced"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert scores["by_class"] == pytest.approx({"a": 1 / 3, "b": 2 / 3})
    assert (scores["iou"], scores["judged"]) == (pytest.approx(1 / 2), 5)
    numbers = Tally(Label("y", "numbers", ("p", "q")))
    numbers.add(torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[2.0, 2], [4, float("nan")]]))
    scores = numbers.scores()
    assert scores["rmse"] == pytest.approx((2 / 3) ** 0.5)
    assert scores["by_class"] == pytest.approx({"p": 1.0, "q": 0.0})
    assert scores["r2"] == pytest.approx(1 - 2 / 2)
    assert Tally(label).scores()["iou"] is None


def test_what_cannot_be_told_is_refused(trained: Path, tmp_path: Path, capsys: Any) -> None:
    for label, message in (
        ("nothing", "no column 'nothing' to label by"),
        ("cloudsat_row", "has no places in the tiles"),
    ):
        flags = ["--label", label, "--steps", "1", "--output-dir", str(tmp_path / "out")]
        assert command.main([str(trained), *flags]) == 2
        assert message in capsys.readouterr().err
    assert command.main([str(trained), "--steps", "0", "--output-dir", str(tmp_path / "out")]) == 2
    assert "--steps is 0" in capsys.readouterr().err
    assert probe.main([str(trained), "--label", "cloudsat"]) == 2
    assert "training.finetune" in capsys.readouterr().err


def test_a_column_is_what_all_its_samples_say(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the samples that come first happen to be."""
    monkeypatch.setattr(finetuning, "_SAMPLES", 1)

    def told(label: str, task: Any = None, batch_size: int = 1) -> dict[str, Any]:
        changes = {"data": {"label": label, "batch_size": batch_size}}
        return finetune(open_run(trained, changes), Tuning("none", 2, task=task))[1]

    extent = told("extent")
    assert (extent["kind"], extent["classes"]) == ("numbers", ["extent"])
    for batch_size in (1, 8):  # of eight samples to learn from one is not known
        grade = told("grade", batch_size=batch_size)
        assert (grade["kind"], grade["classes"], grade["values"]) == ("classes", ["1", "2"], [1, 2])
        assert grade["scores"]["head"]["judged"] == 3
    assert grade["scores"]["commonest class"]["accuracy"] == pytest.approx(2 / 3)
    rare = told("rare")
    assert (rare["values"], rare["scores"]["head"]["judged"]) == ([4, 9], 4)
    assert rare["scores"]["commonest class"]["accuracy"] == pytest.approx(3 / 4)
    assert told("age", "numbers")["kind"] == "numbers"
    for label, task, message in (
        ("extent", "classes", "`label` holds numbers with fractions, such as 42.75, and no classes"),
        ("age", None, "validation samples have age 7, which no training sample has, so that no head can tell it"),
        ("tile", None, "`label` has 8 values in 8 samples, so they are no classes"),
        ("blank", None, "`label` blank is not known of any sample"),
    ):
        with pytest.raises(UsageError, match=message):
            told(label, task)
    with pytest.raises(UsageError, match="`task` is words; give one of classes, numbers"):
        Tuning(task="words")  # type: ignore[arg-type]


def test_classes_of_pixels_are_whole_in_all_that_is_looked_at(trained: Path) -> None:
    _, batch = batch_of(trained, "system_number_ahead")
    whole = replace(batch, labels=batch.labels.float())
    whole.labels[0, 0, 0] = float("nan")  # type: ignore[index]
    label = Label.of("x", whole, {}, others=[whole.labels])
    truth = label.truth(whole).values
    assert truth[0, 0, 0].eq(-1).all()
    assert torch.equal(truth[1:], label.truth(batch).values[1:])
    with pytest.raises(UsageError, match="`label` x holds no classes of the samples' pixels"):
        Label.of("x", whole, {}, others=[whole.labels + 0.5])


def test_numbers_are_probed_by_regression(trained: Path, capsys: Any) -> None:
    assert probe.main([str(trained), "--label", "landcover", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["task"], told["classes"]) == ("numbers", ["water", "crops"])
    assert set(told["scores"]) == {"mean", "model", "random weights", "pixel statistics"}
    pixels = told["scores"]["pixel statistics"]
    assert pixels["rmse"] < told["scores"]["mean"]["rmse"]
    assert set(pixels) == {"rmse", "r2", "penalty", "neighbours"}
    with pytest.raises(UsageError, match=r"12 values in 12 samples.*`task=numbers`"):
        probing.probe(open_run(trained, {"data": {"label": "tile"}}))


def test_a_published_model_is_probed_and_given_a_head_on_stores_that_are_named(
    trained: Path, labelled: Path, tmp_path: Path, capsys: Any
) -> None:
    """It names no folder; on the stores of its run it tells what the run does."""
    publish(open_run(trained), tmp_path / "model")
    told = []
    flags = ["--label", "stratum", "--json", "--output", str(tmp_path / "probe.json")]
    for asked in ([str(trained)], [str(tmp_path / "model"), "--data", str(labelled)]):
        assert probe.main([*asked, *flags]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1]
    assert (told[0]["classes"], told[0]["fitted_on"], told[0]["judged_on"]) == (["convection", "random"], 8, 4)
    assert probe.main([str(tmp_path / "model"), *flags]) != 0
    assert "give --data: paths or URLs of these stores" in capsys.readouterr().err
    head = ["--label", "stratum", "--encoder", "none", "--steps", "1", "--output-dir", str(tmp_path / "head")]
    assert command.main([str(tmp_path / "model"), *head, "--data", str(labelled)]) == 0
    assert open_finetuned(tmp_path / "head").head.label.classes == ("convection", "random")


@pytest.mark.parametrize("width", [3, 200])
def test_linear_numbers_are_ridge_regression(width: int) -> None:
    """Against the normal equations, with the penalty that leaving blocks out chooses."""
    torch.manual_seed(0)
    features = torch.randn(120, width).double()
    truth = features[:, :1] * 2 - features[:, 2:3] + 0.5 * torch.randn(120, 1).double()
    known, unseen = Problem(features[:100].float(), truth[:100].float(), 0), features[100:].float()
    fitted = METHODS["linear"](known, unseen)
    mean, std = known.features.double().mean(0), known.features.double().std(0)
    x, y = (known.features.double() - mean) / std, truth[:100]
    weight = torch.linalg.solve(x.T @ x + 100 * fitted.tuned * torch.eye(width).double(), x.T @ (y - y.mean()))
    assert torch.allclose(fitted.predicted.double(), (unseen.double() - mean) / std @ weight + y.mean(), atol=1e-3)
    weight = torch.linalg.solve(x.T @ x + 100 * 0.5 * torch.eye(width).double(), x.T @ (y - y.mean()))
    strong = classifiers._ridge(known.scaled(mean.float(), std.float()), (unseen - mean.float()) / std.float(), 0.5)
    assert torch.allclose(strong.double(), (unseen.double() - mean) / std @ weight + y.mean(), atol=1e-3)
    errors = []
    for penalty in PENALTIES:
        errors.append(0.0)
        for fold in np.split(np.arange(100), 4):
            rest = np.setdiff1d(np.arange(100), fold)
            centre, spread = features[rest].mean(0), features[rest].std(0)
            a, b = (features[rest] - centre) / spread, truth[rest]
            w = torch.linalg.solve(a.T @ a + 75 * penalty * torch.eye(width).double(), a.T @ (b - b.mean()))
            errors[-1] += float((truth[fold] - (features[fold] - centre) / spread @ w - b.mean()).square().sum())
    assert fitted.tuned == PENALTIES[int(np.argmin(errors))]


def test_neighbours_vote_and_their_number_is_chosen_by_blocks_left_out() -> None:
    torch.manual_seed(1)
    angle = torch.rand(400) * 2 * torch.pi
    features = torch.stack([angle.cos(), angle.sin()], 1) + torch.randn(400, 2) * 0.05
    labels = (angle > torch.pi).long()
    wrong = torch.rand(400) < 0.3  # with so many wrong labels one neighbour is right in 0.58, many in nearly all
    noisy = torch.where(wrong, 1 - labels, labels)
    fitted = METHODS["neighbours"](Problem(features[:300], noisy[:300], 2), features[300:])
    assert fitted.tuned >= 10
    assert (fitted.predicted == labels[300:]).float().mean() > 0.9
