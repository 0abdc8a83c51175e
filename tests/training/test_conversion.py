"""Weights to timm and from SatVision-Pix4D, and its configuration."""

from __future__ import annotations

import json
import logging
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from stratacube.errors import UsageError
from tests.training.small import small_model
from training import convert
from training.config import load_config, print_config
from training.conversion import time_codes, to_timm
from training.models import MaskedAutoencoder, load_model, save_model
from training.models.codes import NO_TIME
from training.models.weights import read_weights
from training.pretrain import main

YAML = Path(__file__).parent / "satvision_dev.yaml"


def saved(path: Path, kind: str, **changes: Any) -> MaskedAutoencoder:
    torch.manual_seed(0)
    model = MaskedAutoencoder(small_model(kind, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_model(model.config, model.state_dict(), path, encoder_only=True)
    return model


@pytest.mark.parametrize(("kind", "group"), [("temporal", 0), ("group", 1)])
def test_timm_alone_gives_the_tokens_of_one_frame_and_group(tmp_path: Path, kind: str, group: int) -> None:
    timm = pytest.importorskip("timm")
    groups = {} if kind == "temporal" else {"groups": (("B1", "B4"), ("B5", "B2"), ("B3",))}
    model = saved(tmp_path / "w.safetensors", kind, image_size=(16, 24), frames=1, **groups)
    assert (
        convert.main(
            ["--to", "timm", str(tmp_path / "w.safetensors"), "--output", str(tmp_path / "timm"), "--group", str(group)]
        )
        == 0
    )
    vit = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    bands = list(model.groups[group])
    pixels = torch.randn(2, 1, 5, 16, 24)
    with torch.no_grad():
        tokens = vit.forward_features(pixels[:, 0, bands])
        alone = _only(model, group).encode(
            pixels[:, :, bands], torch.ones_like(pixels[:, :, bands], dtype=torch.bool), torch.full((2, 1), NO_TIME)
        )
    assert torch.allclose(tokens, alone[:, 0, 0].flatten(1, 2), atol=1e-5)


def _only(model: MaskedAutoencoder, group: int) -> MaskedAutoencoder:
    """The model with tokens of one group alone: the same embedding, blocks and codes."""
    config = model.config
    if len(model.groups) == 1:
        return model
    from training.conversion import _codes

    names = tuple(config.bands[band] for band in model.groups[group])
    one = MaskedAutoencoder(config.model_copy(update={"bands": names, "groups": (names,)})).eval()
    one.embeddings[0].load_state_dict(model.embeddings[group].state_dict())
    one.encoder.load_state_dict(model.encoder.state_dict())
    one.encoder_norm.load_state_dict(model.encoder_norm.state_dict())
    one._codes = lambda minutes, _grid, _width: _codes(config, group).expand(len(minutes), -1, -1)  # type: ignore[method-assign]
    return one


def test_the_adapter_of_the_card_gives_the_tokens_of_several_frames(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = saved(tmp_path / "w.safetensors", "temporal")
    to_timm(tmp_path / "w.safetensors", tmp_path / "timm")
    vit = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    code = re.findall(r"```python\n(.*?)```", (tmp_path / "timm" / "README.md").read_text(), re.S)[1]
    names: dict[str, Any] = {}
    exec(code, names)
    pixels = torch.randn(2, 3, 5, 16, 16)
    valid = torch.rand(pixels.shape) > 0.3
    minutes = 26_297_280 + torch.tensor([[0, 20, 45], [7, 9, 10]])
    fill = json.loads((tmp_path / "timm" / "config.json").read_text())["fill"]
    with torch.no_grad():
        tokens = names["encode"](vit, pixels, valid, time_codes(model.config, minutes), fill)
        truth = model.encode(pixels, valid, minutes).flatten(1, 4)
    assert torch.allclose(tokens, truth, atol=1e-5)


def predecessor(model: MaskedAutoencoder) -> dict[str, torch.Tensor]:
    """The same weights by the names and shapes they have there, with what is not here."""
    own, config = model.state_dict(), model.config
    names = {
        "encoder.": "blocks.",
        "encoder_norm.": "norm.",
        "bridge.": "decoder_embed.",
        "decoder.": "decoder_blocks.",
    }
    names |= {"decoder_norm.": "decoder_norm.", "heads.0.": "decoder_pred."}
    theirs = {
        to + name.removeprefix(ours): own[name] for name in own for ours, to in names.items() if name.startswith(ours)
    }
    patch = config.patch_size
    kernel = own["embeddings.0.weight"].reshape(-1, patch, patch, len(config.bands)).permute(0, 3, 1, 2)
    theirs |= {"patch_embed.proj.weight": kernel.contiguous(), "patch_embed.proj.bias": own["embeddings.0.bias"]}
    theirs |= {"mask_token": own["mask_token"][None, None], "cls_token": torch.zeros(1, 1, 64)}
    return theirs | {"pos_embed": torch.zeros(1, 17, 40), "decoder_pos_embed": torch.zeros(1, 17, 64)}


def settings(folder: Path) -> list[str]:
    small = small_model("temporal").model_dump(mode="json")
    (folder / "small.yaml").write_text(
        yaml.safe_dump({**yaml.safe_load(print_config(load_config("cpu_smoke"))), "model": small})
    )
    return ["--config", str(folder / "small.yaml")]


@pytest.mark.parametrize("form", ["plain", "deepspeed"])
def test_weights_of_the_predecessor_load_tensor_by_tensor(tmp_path: Path, form: str, capsys) -> None:
    torch.manual_seed(1)
    model = MaskedAutoencoder(small_model("temporal"))
    theirs = predecessor(model)
    content: Any = (
        theirs if form == "plain" else {"module": {f"module.model.{k}": v for k, v in theirs.items()}, "step": 3}
    )
    torch.save(content, tmp_path / "theirs.pt")
    output = tmp_path / "ours.safetensors"
    arguments = ["--from", "satvision", str(tmp_path / "theirs.pt"), "--output", str(output), *settings(tmp_path)]
    assert convert.main([*arguments, "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    told = {entry["name"]: entry for entry in entries}
    assert [entry["name"] for entry in entries] == [*theirs, "fill"]
    assert told["patch_embed.proj.weight"]["became"] == "embeddings.0.weight"
    assert told["pos_embed"] == {
        "name": "pos_embed",
        "shape": [1, 17, 40],
        "became": None,
        "reason": "codes of places are computed here, in channels beside those of time",
    }
    assert told["cls_token"]["reason"] == "there is no class token here"
    assert told["fill"]["reason"] == "keeps its random start"
    _, weights, _ = read_weights(output)
    own = model.state_dict()
    assert [name for name in own if name != "fill" and not torch.equal(own[name], weights[name])] == []
    assert torch.equal(load_model(output).mask_token, model.mask_token)


def test_a_tensor_of_another_shape_is_told_and_its_place_keeps_its_start(tmp_path: Path, capsys) -> None:
    theirs = predecessor(MaskedAutoencoder(small_model("temporal")))
    theirs["patch_embed.proj.bias"] = torch.zeros(3)
    torch.save(theirs, tmp_path / "theirs.pt")
    arguments = ["--from", "satvision", str(tmp_path / "theirs.pt"), "--output", str(tmp_path / "ours.safetensors")]
    assert convert.main([*arguments, *settings(tmp_path), "--json"]) == 0
    told = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert told["patch_embed.proj.bias"] == {
        "name": "patch_embed.proj.bias",
        "shape": [3],
        "became": None,
        "reason": "embeddings.0.bias is (64,) here",
    }
    assert told["embeddings.0.bias"]["reason"] == "keeps its random start"


class Evil:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('ran')",)


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path, capsys) -> None:
    torch.save(
        {"state_dict": predecessor(MaskedAutoencoder(small_model("temporal"))), "args": Evil()}, tmp_path / "a.ckpt"
    )
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("a.ckpt", "b.pt"):
        arguments = ["--from", "satvision", str(tmp_path / name), "--output", str(tmp_path / "o.safetensors")]
        assert convert.main([*arguments, *settings(tmp_path)]) == 1
        said = capsys.readouterr().err
        assert f"{name} cannot be read as weights without running code of it" in said
        assert said.count("\n") == 1
    assert not (tmp_path / "o.safetensors").exists()


def test_the_predecessors_configuration_is_answered_key_by_key(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "training"):
        config = load_config(YAML)
    told = dict(record.getMessage().split(": ", 1) for record in caplog.records)

    def keys(values: Any, above: str = "") -> list[str]:
        return [
            k
            for key, v in values.items()
            for k in (keys(v, f"{above}{key}.") if isinstance(v, dict) else [above + key])
        ]

    assert list(told) == keys(yaml.safe_load(YAML.read_text()))
    assert told["TRAIN.STRATEGY"] == "became run.strategy: zero2 (as DeepSpeed's stage 2)"
    assert told["MODEL.DROP_PATH_RATE"] == "was ignored there, and is here"
    assert told["DATA.LENGTH"] == "no match; an epoch is every sample once"
    assert told["DATA.VAL_DATA_PATHS"].startswith(
        "the same paths as to learn from: judged on their tiles of the split val"
    )
    preset = load_config("satvision_pix4d")
    name = "satmae_satvision_pix4d_pretrain-dev"
    changed = {
        "name": name,
        "output_dir": Path("development/satmae") / name,
        "model": preset.model.model_copy(
            update={
                **{
                    "embed_dim": 1024,
                    "depth": 24,
                    "heads": 16,
                    "decoder_dim": 512,
                    "decoder_depth": 8,
                    "decoder_heads": 16,
                },
                "checkpointing": True,
            }
        ),
        "run": preset.run.model_copy(update={"accelerator": "cuda"}),
    }
    for key, value in changed.items():
        assert getattr(config, key) == value, key
    assert config.model.dimensions == preset.model.dimensions
    assert (config.optimizer, config.data.batch_size, config.data.workers) == (preset.optimizer, 1, 4)
    assert config.data.stores[0].path == "tiles_pix4d"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MODEL": {"NMAE": 1}}, r"key MODEL\.NMAE is not one of SatVision-Pix4D's"),
        ({"TRAIN": {"EPOCHS": "many"}}, r"TRAIN\.EPOCHS is 'many', which has no meaning here"),
        ({"TRAIN": {"ACCELERATOR": "abacus"}}, r"TRAIN\.ACCELERATOR is 'abacus'"),
    ],
)
def test_what_it_says_wrongly_is_one_sentence(tmp_path: Path, change: Any, message: str) -> None:
    values = {"MODEL": {}, "DATA": {"IMG_SIZE": 512}, "TRAIN": {}, **change}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UsageError, match=message):
        load_config(tmp_path / "wrong.yaml")


def test_minus_c_is_a_configuration(capsys) -> None:
    assert main(["-c", str(YAML), "--print-config"]) == 0
    out = capsys.readouterr()
    assert yaml.safe_load(out.out)["run"]["strategy"] == "zero2"
    assert "TRAIN.WARMUP_LR: was ignored there, and is here" in out.err
