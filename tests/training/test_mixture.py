"""One run over tiles of an imager and windows of composites: shared blocks, embeddings and heads of each source."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from loaders.apart import DecodeParts
from loaders.order import Share
from stratacube.errors import UsageError
from tests.training.small import small_run
from tests.training.test_data import STATISTICS
from tests.training.test_splits import BLOCKS
from training import convert, embed, evaluate, probe
from training.compute import make_fabric
from training.config import PretrainConfig, RunConfig, validate
from training.manifest import config_hash
from training.meter import sample_flops
from training.mixed import MixedBatch, masks_of
from training.models import draw_masks, load_model, save_model
from training.models.joint import JointAutoencoder, make_model
from training.models.weights import part_of, read_weights
from training.opening import open_run_data
from training.publication import _evaluation, publish
from training.runs import open_run
from training.trainer import Trainer
from training.validate import Report, validate_parts

TILES = {"kind": "temporal_group", "bands": ["C13", "C01", "C08"], "groups": [["C01"], ["C13", "C08"]], "frames": 3}
WINDOWS = {"kind": "group", "bands": ["B02", "B8A"], "groups": [["B8A"], ["B02"]], "image_size": 16, "patch_size": 8}


def mixed_run(folder: Path, store: Path, cube: Path, **changes: Any) -> PretrainConfig:
    tiles = {
        "source": "tiles",
        "stores": [{"path": str(store)}],
        "where": "tile < 8",
        "validation_where": "tile >= 8",
        "statistics": STATISTICS,
        "batch_size": 2,
        "workers": 0,
        **changes.pop("tiles", {}),
    }
    windows = {
        "source": "cubes",
        "cubes": [{"path": str(cube)}],
        "split": BLOCKS,
        "statistics": "own",
        "batch_size": 4,
        "workers": 0,
    }
    model = {**TILES, "image_size": 16, "others": {"composites": WINDOWS}}
    base = small_run(folder).model_dump(mode="json")
    base["model"] |= model | changes.pop("model", {})
    base["optimizer"] |= {"steps": 6}
    data = {
        "source": "mixture",
        "parts": {"tiles": tiles, "composites": windows},
        "shares": {"tiles": 0.25, "composites": 0.75},
        "batch_size": 4,
        "workers": 0,
        **changes.pop("data", {}),
    }
    return validate({**base, "data": data, **changes}, "test")


@pytest.fixture(scope="module")
def trained(placed: Path, cube: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed") / "run"
    config = mixed_run(folder, placed, cube, validation={"every_epochs": 1})
    for stop in (2, None):  # stopped, and gone on with
        Trainer(config).fit(stop)
    return folder


def test_a_stopped_run_ends_as_one_that_was_not(trained: Path, placed: Path, cube: Path, tmp_path: Path) -> None:
    whole = Trainer(mixed_run(tmp_path / "whole", placed, cube))
    begun = {name: weight.clone() for name, weight in whole.model.state_dict().items()}
    whole.fit()
    _, weights, _ = read_weights(open_run(trained).weights)
    ended = whole.model.state_dict()
    assert ended.keys() == weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in ended.items())
    moved = {name for name, weight in begun.items() if not torch.equal(weight, ended[name])}
    assert {"embeddings.0.weight", "heads.1.bias", "encoder.0.attn.qkv.weight", "bridge.weight"} <= moved
    assert {"others.composites.embeddings.1.weight", "others.composites.mask_token"} <= moved
    assert not any(name.startswith("others.composites.encoder") for name in ended)  # told once


def test_batches_hold_each_source_by_its_share_and_places(placed: Path, cube: Path, tmp_path: Path) -> None:
    fabric = make_fabric(RunConfig(accelerator="cpu", devices=1))
    data = open_run_data(mixed_run(tmp_path, placed, cube), fabric, None)
    alone = {name: part.train for name, part in data.parts.items()}
    assert data.train.samples == sum(train.samples for train in alone.values())
    assert data.shares == {"tiles": 0.25, "composites": 0.75}
    every = open_run_data(mixed_run(tmp_path, placed, cube, data={"shares": None}), fabric, None)
    assert every.shares == {name: train.samples / data.train.samples for name, train in alone.items()}
    read = data.train.loader.source.__getitems__([5, 0, 8 + 3, 1])  # of 8 tiles, and windows behind them
    assert read.places == {"tiles": (0, 1, 3), "composites": (2,)}
    assert {n: part.meta["sample"].tolist() for n, part in read.parts.items()} == {
        "tiles": [5, 0, 1],
        "composites": [3],
    }
    count = {"tiles": 0, "composites": 0}
    stream = data.train.stream(Share(4, 4), 0)
    rounds = data.train.samples // 4
    for _, batch in zip(range(rounds), stream, strict=False):
        assert isinstance(batch, MixedBatch)
        assert sorted(place for places in batch.places.values() for place in places) == [0, 1, 2, 3]
        for name, part in batch.parts.items():
            count[name] += len(part)
            assert part.pixels.shape[1:] == {"tiles": (3, 3, 16, 16), "composites": (1, 2, 16, 16)}[name]
    assert count["tiles"] / (4 * rounds) == pytest.approx(0.25, abs=0.02)
    # Windows tell row and column by their values, normalised by their own statistics.
    assert data.parts["composites"].statistics.bands == ("B02", "B8A")
    part = batch.parts["composites"]
    values = data.parts["composites"].statistics.physical(part.pixels)
    assert 0 <= float(values.min()) < float(values.max()) < 161


def test_masks_follow_places_and_the_loss_is_the_mean_over_samples(placed: Path, cube: Path, tmp_path: Path) -> None:
    config = mixed_run(tmp_path, placed, cube)
    data = open_run_data(config, make_fabric(RunConfig(accelerator="cpu", devices=1)), None)
    batch = next(batch for batch in data.train.stream(Share(4, 4), 0) if len(batch.parts) == 2)
    model = make_model(config.model).train()
    numbers = [70, 71, 72, 73]
    mask = masks_of(config.model, 5, numbers, batch)
    losses = []
    for name, part in batch.parts.items():
        own = [numbers[place] for place in batch.places[name]]
        for sample, number in enumerate(own):
            truth = draw_masks(config.model.part(name), 5, [number])
            assert torch.equal(mask.parts[name].masked[sample], truth.masked[0])
            one = part.take(torch.tensor([sample]))
            assert isinstance(model, JointAutoencoder)
            losses.append(model.part(name).reconstruct(one.pixels, one.valid, one.minutes, truth).loss)
    assert model(*batch.inputs(mask)).item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    shares = [part.valid.float().mean((1, 2, 3, 4)) for part in batch.parts.values()]
    assert batch.valid_share().item() == pytest.approx(torch.cat(shares).mean().item())
    only = MixedBatch({"tiles": batch.parts["tiles"]}, {"tiles": tuple(range(len(batch.parts["tiles"])))})
    model(*only.inputs(masks_of(config.model, 5, numbers[: len(only)], only))).backward()
    assert model.others["composites"].mask_token.grad.eq(0).all()  # ranks wait for it, whatever they had
    assert model.embeddings[0].weight.grad.abs().sum() > 0


def test_each_source_is_judged_and_used_alone(
    trained: Path, placed: Path, cube: Path, tmp_path: Path, capsys: Any
) -> None:
    rows = [json.loads(line) for line in (trained / "validation.jsonl").read_text().splitlines()]
    bands = {row["band"] for row in rows if "band" in row}
    assert bands == {"tiles/C13", "tiles/C01", "tiles/C08", "composites/B02", "composites/B8A"}
    first, second = open_run(trained), open_run(trained, part="composites")
    assert first.part == "tiles"
    assert first.config.model.bands == ("C13", "C01", "C08")
    assert second.config.model.bands == ("B02", "B8A")
    assert second.manifest["statistics"]["bands"] == ["B02", "B8A"]
    assert second.manifest["data_fingerprint"] != first.manifest["data_fingerprint"]
    assert torch.equal(first.model.encoder[0].attn.qkv.weight, second.model.encoder[0].attn.qkv.weight)
    assert not torch.equal(first.model.mask_token, second.model.mask_token)
    with pytest.raises(UsageError, match=r"`part` is 'composite'; small-run has tiles, composites \(did you mean"):
        open_run(trained, part="composite")
    assert evaluate.main([str(trained), "--part", "composites", "--pictures", "1"]) == 0
    report = json.loads((trained / "evaluation-composites" / "evaluation.json").read_text())
    assert (report["part"], report["stores"]) == ("composites", ["composites.zarr"])
    page = (trained / "report.html").read_text()
    assert "<code>mixture</code>" in page  # of the whole run, and not of this source
    assert "<td>C13 C01 C08</td>" in page
    assert "samples of composites from composites.zarr beside baselines" in page
    assert {row["band"] for row in report["rows"]} == {"B02", "B8A"}
    assert (
        embed.main([str(trained), str(cube), "--part", "composites", "--output-dir", str(tmp_path / "f"), "--pooled"])
        == 0
    )
    flags = ["--part", "tiles", "--label", "stratum", "--output", str(tmp_path / "p.json")]
    assert probe.main([str(trained), *flags]) == 0
    told = json.loads((tmp_path / "p.json").read_text())
    assert (told["fitted_on"], told["judged_on"], told["classes"]) == (8, 4, ["convection", "random"])
    assert probe.main([str(trained), *flags, "--data", str(placed)]) == 0
    assert json.loads((tmp_path / "p.json").read_text()) == told
    assert convert.main(["--to", "timm", str(trained), "--part", "composites", "--output", str(tmp_path / "vit")]) == 0
    assert json.loads((tmp_path / "vit" / "config.json").read_text())["bands"] == ["B8A"]
    assert probe.main([str(trained), *flags[:-2]]) == 0
    assert json.loads((trained / "probe-tiles.json").read_text()) == told
    publish(second, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "validation samples of composites from composites.zarr, 75% of the tokens hidden" in card
    shutil.copytree(trained / "evaluation-composites", trained / "evaluation")  # as --output-dir may name it
    assert _evaluation(second) == trained / "evaluation-composites"
    assert _evaluation(first) is None  # of the same step, but not of this source
    assert open_run(tmp_path / "model").config.model == second.config.model
    published = load_model(tmp_path / "model" / "weights.safetensors")
    assert published.state_dict().keys() == second.model.state_dict().keys()
    assert all(torch.equal(w, second.model.state_dict()[n]) for n, w in published.state_dict().items())
    capsys.readouterr()


def test_the_loss_of_a_mixture_is_the_mean_by_its_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {1: 1.0, 2: 5.0}
    monkeypatch.setattr(
        "training.validate.validate", lambda _model, loader, *_, **__: Report(losses[loader], loader, [{"band": "B"}])
    )
    parts: Any = {name: SimpleNamespace(validation=n, statistics=None) for name, n in (("a", 1), ("b", 2), ("c", None))}
    data: Any = SimpleNamespace(judged={n: p for n, p in parts.items() if p.validation}, parts=parts)
    data.shares = {"a": 0.6, "b": 0.2, "c": 0.2}
    report = validate_parts(torch.nn.Identity(), data, None, seed=0)  # type: ignore[arg-type]
    assert report.loss == pytest.approx((0.6 * 1 + 0.2 * 5) / 0.8)
    assert (report.samples, [row["band"] for row in report.rows]) == (3, ["a/B", "b/B"])


def test_a_mixture_starts_from_one_source_and_one_source_from_a_mixture(
    trained: Path, placed: Path, cube: Path, tmp_path: Path
) -> None:
    weights = open_run(trained).weights
    config, tensors, _ = read_weights(weights)
    again = Trainer(mixed_run(tmp_path / "again", placed, cube, init_from=str(weights)))
    assert all(torch.equal(weight, tensors[name]) for name, weight in again.model.state_dict().items())
    one, own = part_of(config, tensors, "tiles")
    save_model(one, own, tmp_path / "one.safetensors")
    begun = Trainer(mixed_run(tmp_path / "begun", placed, cube, init_from=str(tmp_path / "one.safetensors")))
    assert torch.equal(begun.model.embeddings[1].weight, tensors["embeddings.1.weight"])
    assert not torch.equal(
        begun.model.others["composites"].heads[0].weight, tensors["others.composites.heads.0.weight"]
    )


def test_a_mixture_that_does_not_fit_is_one_sentence(placed: Path, cube: Path, tmp_path: Path) -> None:
    for changes, message in (
        ({"model": {"others": {}}}, "model.others has none, and data.parts beside the first composites"),
        ({"model": {"start": "regression"}}, "start: regression is of one source, but others are given"),
        ({"data": {"shares": {"tiles": 1.0}}}, "do not go with the parts tiles, composites"),
        ({"run": {"strategy": "fsdp"}}, "mixture does not work with a sharded strategy"),
        ({"tiles": {"stoers": []}}, r"unknown key `data.parts.tiles.stoers`; did you mean `data.parts.tiles.stores`"),
    ):
        with pytest.raises(UsageError, match=message):
            mixed_run(tmp_path, placed, cube, **changes)
    parts = mixed_run(tmp_path, placed, cube).model_dump(mode="json")["data"]["parts"]
    for first, second in (
        *(("tiles", name) for name in ("values", "items", "training", "a.b", "a/b", "", "..", "_modules")),
        *((name, "composites") for name in ("keys", "a.b", "a/b")),
    ):
        changed = {"parts": {first: parts["tiles"], second: parts["composites"]}, "shares": None}
        wrong = second if first == "tiles" else first
        with pytest.raises(
            UsageError, match=f"parts has {wrong!r}, which cannot be the name of a source; take letters"
        ):
            mixed_run(tmp_path, placed, cube, data=changed, model={"others": {second: WINDOWS}})
    named = {"parts": {"goes-16": parts["tiles"], "10m_s2": parts["composites"]}, "shares": None}
    config = mixed_run(tmp_path, placed, cube, data=named, model={"others": {"10m_s2": WINDOWS}})
    assert dict(make_model(config.model).others).keys() == {"10m_s2"}
    DecodeParts({name: torch.nn.Identity() for name in config.parts})
    config = mixed_run(tmp_path, placed, cube)
    assert config_hash(config) == config_hash(mixed_run(tmp_path, placed, cube, tiles={"workers": 3}))
    shares = {"tiles": 0.25, "composites": 0.75}
    parts = {name: sample_flops(config.model.part(name)) for name in shares}
    assert sample_flops(config.model, shares) == pytest.approx(sum(parts[n] * s for n, s in shares.items()))


def test_a_run_is_not_gone_on_with_by_another_config_however_its_data_differ(
    trained: Path, placed: Path, cube: Path, tmp_path: Path
) -> None:
    """Before anything of the data is opened or written: a mixture after one source, and one source after a mixture."""
    mixed = mixed_run(trained, placed, cube)
    with pytest.raises(
        UsageError, match=r"step_00000006 was made with another config .*data.source .mixture. -> .cubes."
    ):
        Trainer(mixed.part("composites"))
    shutil.copytree(open_run(trained).folder, tmp_path / "checkpoints" / "step_00000006")
    file = tmp_path / "checkpoints" / "step_00000006" / "manifest.json"
    manifest = {key: value for key, value in json.loads(file.read_text()).items() if key != "parts"}
    file.write_text(json.dumps({**manifest, "config": mixed.part("tiles").model_dump(mode="json")}))
    with pytest.raises(
        UsageError, match=r"step_00000006 was made with another config .*data.source .tiles. -> .mixture."
    ):
        Trainer(mixed_run(tmp_path, placed, cube))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


@pytest.mark.long
def test_any_number_of_ranks_goes_on_with_a_mixture(trained: Path, placed: Path, cube: Path, tmp_path: Path) -> None:
    """Two ranks have samples of other sources in one step, and wait for gradients of all: the end is that of one."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    for ranks, stop in ((1, 2), (2, 0)):
        command = [*launch, f"--nproc-per-node={ranks}", "-m", "tests.training.mixed_ranks", str(tmp_path / "run")]
        done = subprocess.run(
            [*command, str(placed), str(cube), str(stop)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
    (_, one, _), (_, other, _) = (read_weights(open_run(folder).weights) for folder in (trained, tmp_path / "run"))
    for name, weight in one.items():
        assert torch.allclose(weight, other[name], atol=5e-5), name


def test_what_one_part_learns_from_no_other_is_judged_on(placed: Path, cube: Path, tmp_path: Path) -> None:
    config = mixed_run(tmp_path, placed, cube).model_dump(mode="json")
    tiles = config["data"]["parts"]["tiles"]
    other = {
        **tiles,
        "stores": [{"path": f"{placed}/tiles.zarr"}],
        "where": "tile >= 8",
        "validation_where": "tile < 8",
    }
    config["data"] |= {"parts": {"tiles": tiles, "again": other}, "shares": None}
    config["model"]["others"] = {"again": {**TILES, "image_size": 16}}
    fabric = make_fabric(RunConfig(accelerator="cpu", devices=1))
    with pytest.raises(UsageError, match=r"8 tiles learned from share pixels and times, or a system, with 8 judged on"):
        open_run_data(validate(config, "test"), fabric, None)
