"""Metrics, baselines, evaluation, pictures, probe and publishing."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import torch
from jsonschema import Draft202012Validator
from PIL import Image

from stratacube.errors import UsageError
from tests.stac_validation import _core
from tests.training.small import BANDS, small_run
from training import evaluate, evaluation, probe, probing, publish
from training.baselines import BASELINES
from training.batches import Statistics
from training.classifiers import METHODS, Problem
from training.data import open_data
from training.metrics import BandSums, similarity
from training.models import load_model
from training.runs import open_run
from training.trainer import Trainer


def test_metrics_agree_with_numpy() -> None:
    random = np.random.default_rng(0)
    truth = 280 + 5 * random.normal(size=(3, 2, 2, 9, 11))
    estimate = truth + random.normal(1.0, 2.0, truth.shape)
    wanted = random.random(truth.shape) > 0.4
    sums = BandSums(("a", "b"), (50.0, 40.0), torch.device("cpu"))
    for part in (slice(0, 1), slice(1, 3)):
        sums.add(*(torch.from_numpy(values[part]) for values in (truth, estimate, wanted)))
    for number, (row, span) in enumerate(zip(sums.rows(), (50.0, 40.0), strict=True)):
        error = (estimate - truth)[:, :, number][wanted[:, :, number]]
        assert row["pixels"] == error.size
        assert row["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
        assert row["mae"] == pytest.approx(np.abs(error).mean())
        assert row["bias"] == pytest.approx(error.mean())
        assert row["psnr"] == pytest.approx(20 * np.log10(span) - 10 * np.log10((error**2).mean()))


def test_similarity_agrees_with_its_definition() -> None:
    random = np.random.default_rng(1)
    x = 250 + 10 * random.normal(size=(12, 10))
    y = x + 4 * random.normal(size=x.shape)
    span = 60.0
    truth = np.empty_like(x)
    for row in range(12):
        for column in range(10):
            window = (slice(max(0, row - 3), row + 4), slice(max(0, column - 3), column + 4))
            a, b = x[window], y[window]
            mean = 2 * a.mean() * b.mean() + (0.01 * span) ** 2
            mean /= a.mean() ** 2 + b.mean() ** 2 + (0.01 * span) ** 2
            spread = 2 * ((a - a.mean()) * (b - b.mean())).mean() + (0.03 * span) ** 2
            truth[row, column] = mean * spread / (a.var() + b.var() + (0.03 * span) ** 2)
    result = similarity(torch.from_numpy(x)[None], torch.from_numpy(y)[None], [span])
    assert np.allclose(result[0], truth, atol=1e-9)
    same = similarity(torch.from_numpy(x)[None], torch.from_numpy(x)[None], [span])
    assert np.allclose(same, 1)


def test_perfect_and_absent_bands() -> None:
    sums = BandSums(("a", "b"), (1.0, 1.0), torch.device("cpu"))
    image = torch.rand(1, 1, 2, 8, 8)
    wanted = torch.ones_like(image, dtype=torch.bool)
    wanted[:, :, 1] = False
    sums.add(image, image, wanted)
    perfect, absent = sums.rows()
    assert perfect["psnr"] == math.inf
    assert perfect["ssim"] == pytest.approx(1)
    assert absent["pixels"] == 0
    assert absent["rmse"] is None


def test_baselines_by_hand() -> None:
    """One pixel over five frames: seen in the second (value 2) and the fourth (value 6), 10, 20, 40 minutes apart."""
    pixels = torch.tensor([9.0, 2.0, 9.0, 6.0, 9.0])[None, :, None, None, None]
    visible = torch.tensor([False, True, False, True, False])[None, :, None, None, None]
    minutes = torch.tensor([[0, 10, 20, 50, 90]])
    values = {name: predict(pixels, visible, minutes).flatten().tolist() for name, predict in BASELINES.items()}
    assert values["band mean"] == [0, 0, 0, 0, 0]
    assert values["persistence"] == [2, 2, 2, 6, 6]
    assert values["interpolation"] == [2, 2, 3, 6, 6]


def test_baselines_fall_back_to_what_is_visible_of_the_band() -> None:
    pixels = torch.full((1, 2, 1, 1, 2), 4.0)
    visible = torch.tensor([True, False]).expand(1, 2, 1, 1, 2)
    for name in ("persistence", "interpolation"):
        assert BASELINES[name](pixels, visible, torch.tensor([[0, 20]])).eq(4.0).all()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    config = small_run(
        folder,
        model={"image_size": (16, 20), "norm_pix_loss": False},
        optimizer={"lr": 2e-3, "steps": 12, "warmup_steps": 2, "ema": 0.5},
        validation={"every_epochs": 1},
        checkpoints={"every_epochs": 1, "keep_last": 2},
    )
    Trainer(config).fit()
    return folder


def test_evaluation_writes_table_and_pictures(trained: Path, tmp_path, capsys) -> None:
    assert evaluate.main([str(trained), "--output-dir", str(tmp_path), "--pictures", "3", "--bands", "B5", "B1"]) == 0
    assert "| interpolation | B5 |" in capsys.readouterr().out
    with (tmp_path / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    methods = {"model", "band mean", "persistence", "interpolation", "spatial infill", "regression"}
    assert len(rows) == len(methods) * 5
    assert {row["method"] for row in rows} == methods
    by_band = [row["pixels"] for row in rows if row["band"] == "B3"]
    assert len(set(by_band)) == 1  # every method is judged on the same pixels
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [p.name for p in pictures] == ["sample_000.png", "sample_001.png", "sample_002.png"]
    with Image.open(pictures[0]) as picture:
        assert picture.width > 3 * 20
        assert len(picture.getcolors(1 << 20) or ()) > 20
    assert "step 12" in (tmp_path / "evaluation.md").read_text()


def test_validation_while_training_is_the_evaluation_afterwards(trained: Path, tmp_path) -> None:
    """Same masks, same (averaged) weights, same numbers."""
    rows = [json.loads(line) for line in (trained / "validation.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["step"] == 12]
    report = evaluation.evaluate(open_run(trained), tmp_path, pictures=0)
    assert report.loss == pytest.approx(last[0]["loss"], rel=1e-5)
    assert [row["rmse"] for row in report.of()] == pytest.approx([row["rmse"] for row in last], rel=1e-5)


def test_statistics_give_physical_units() -> None:
    statistics = Statistics(("a", "b"), (280.0, 1.0), (10.0, 0.5), (60.0, 2.0), "K")
    physical = statistics.physical(torch.ones(1, 2, 1, 1))
    assert physical.flatten().tolist() == [290.0, 1.5]


def test_normalised_patches_are_brought_back(tmp_path) -> None:
    """A model that predicts zero predicts each patch's own mean."""
    alone = {"norm_pix_loss": True, "groups": [[band] for band in BANDS]}
    config = small_run(tmp_path, model=alone, optimizer={"lr": 1e-9, "steps": 1, "warmup_steps": 0})
    trainer = Trainer(config)
    with torch.no_grad():
        for head in trainer.model.heads:
            head.weight.zero_()
    trainer.fit()
    evaluation.evaluate(open_run(tmp_path), tmp_path / "evaluation", pictures=1)
    report = json.loads((tmp_path / "evaluation/evaluation.json").read_text())
    model = [row["rmse"] for row in report["rows"] if row["method"] == "model"]
    mean = [row["rmse"] for row in report["rows"] if row["method"] == "band mean"]
    assert sum(model) < 0.6 * sum(mean)
    assert "too good" in (tmp_path / "evaluation/evaluation.md").read_text()


def test_the_probe_judges_features(trained: Path, capsys) -> None:
    assert probe.main([str(trained)]) == 0
    scores = json.loads((trained / "probe.json").read_text())
    assert set(scores["scores"]) == {"commonest class", "model", "random weights", "pixel statistics"}
    assert scores["classes"] == ["calm", "windy"]
    assert (scores["fitted_on"], scores["judged_on"]) == (24, 6)
    assert set(scores["scores"]["model"]) == {"accuracy", "balanced", "penalty", "neighbours"}
    assert "balanced" in capsys.readouterr().out


def test_the_classifier_finds_a_linear_rule() -> None:
    features = torch.randn(400, 6)
    labels = (features @ torch.tensor([1.0, -2, 0, 0, 3, 0]) > 0).long()
    fitted = METHODS["linear"](Problem(features[:300], labels[:300], 2), features[300:])
    assert (fitted.predicted == labels[300:]).float().mean() > 0.95
    assert fitted.tuned < 1e-2  # a rule without noise needs no shrinking


def test_what_cannot_be_opened_is_refused(trained: Path, tmp_path, capsys) -> None:
    assert evaluate.main([str(tmp_path)]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err
    assert evaluate.main([str(trained), "--bands", "B9"]) == 2
    assert "B9" in capsys.readouterr().err


def test_a_probe_needs_two_classes(trained: Path, monkeypatch) -> None:
    opened = open_run(trained)
    data = open_data(opened.config, 0, 1, torch.device("cpu"))
    data.train.data.labels.zero_()  # type: ignore[attr-defined]
    monkeypatch.setattr(probing, "open_data", lambda *_, **__: data)
    with pytest.raises(UsageError, match="one class"):
        probing.probe(opened)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(torch.linspace(-0.5, 30, 24), "numbers with fractions, such as"), (torch.arange(24), "24 values in 30 samples")],
)
def test_a_label_that_is_no_class_is_refused(trained: Path, monkeypatch, labels: torch.Tensor, message: str) -> None:
    """Unless numbers are to be told."""
    opened = open_run(trained)
    data = open_data(opened.config, 0, 1, torch.device("cpu"))
    object.__setattr__(data.train.data, "labels", labels)  # type: ignore[attr-defined]
    object.__setattr__(data.validation.data, "labels", labels[:6])  # type: ignore[union-attr]
    monkeypatch.setattr(probing, "open_data", lambda *_, **__: data)
    with pytest.raises(UsageError, match=message):
        probing.probe(opened, task="classes")
    told = probing.probe(opened, task="numbers")
    assert told["task"] == "numbers"
    assert told["scores"]["mean"]["rmse"] > 0


def test_classes_may_be_any_whole_numbers() -> None:
    values, truth, expected = probing._classes(torch.tensor([18, 16, -3, 16]), torch.tensor([18, 18, -3]))
    assert values == [-3, 16, 18]
    assert (truth.tolist(), expected.tolist()) == ([2, 1, 0, 1], [2, 2, 0])


def test_publishing_makes_a_folder_that_stands_alone(trained: Path, tmp_path) -> None:
    evaluation.evaluate(open_run(trained), trained / "evaluation", pictures=1)
    collection = tmp_path / "catalog" / "collection.json"
    collection.parent.mkdir()
    extent = {
        "spatial": {"bbox": [[-100, -20, -60, 40]]},
        "temporal": {"interval": [["2020-01-01T00:00:00Z", "2020-12-31T00:00:00Z"]]},
    }
    collection.write_text(json.dumps({"type": "Collection", "extent": extent}))
    output, opened = tmp_path / "model", open_run(trained)
    assert publish.main([str(trained), "--output-dir", str(output), "--collection", str(collection)]) == 0
    assert publish.main([str(trained), "--output-dir", str(output)]) == 2  # never overwritten
    model = load_model(output / "encoder.safetensors")
    averaged = load_model(trained / "checkpoints/step_00000012/ema.safetensors")
    assert torch.equal(model.encoder_norm.weight, averaged.encoder_norm.weight)
    card = (output / "README.md").read_text()
    assert "| model | B1 |" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    with contextlib.chdir(output):
        names: dict[str, Any] = {}
        exec(compile(code, "README.md", "exec"), names)
    assert names["features"].shape[:2] == (1, opened.config.model.frames)
    assert names["features"].isfinite().all()
    item = json.loads((output / "item.json").read_text())
    assert item["links"] == [{"rel": "derived_from", "href": "../catalog/collection.json", "type": "application/json"}]
    assert item["bbox"] == [-100, -20, -60, 40]
    schema = json.loads((Path(__file__).parent / "mlm-v1.5.2.json").read_text())
    Draft202012Validator.check_schema(schema)
    assert [error.message for error in Draft202012Validator(schema).iter_errors(item)] == []
    assert list(_core(item)) == []
    pystac.Item.from_dict(item)
    for asset in item["assets"].values():
        assert (output / asset["href"]).stat().st_size == asset["file:size"]
    reopened = open_run(output)  # a published folder can be evaluated again
    assert reopened.step == 12
