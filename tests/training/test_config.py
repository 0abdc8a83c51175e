from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from stratacube.errors import UsageError
from tests.training.small import small_run
from training.config import PRESETS, PretrainConfig, load_config, presets
from training.pretrain import main
from training.settings_data import TilesData


def test_the_presets_are_valid_and_print_themselves(capsys) -> None:
    assert {"satvision_pix4d", "satmae_temporal", "satmae_group", "abi_temporal_group", "cpu_smoke"} < set(presets())
    for name in presets():
        assert main(["--config", name, "--print-config"]) == 0
        printed = yaml.safe_load(capsys.readouterr().out)
        assert PretrainConfig.model_validate(printed) == load_config(name)


def test_every_value_of_a_preset_has_its_source() -> None:
    """Its first lines name each key of the model and the optimizer, or say whose the rest is; none is unchecked."""
    for name in presets():
        text = (PRESETS / f"{name}.yaml").read_text()
        head = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
        assert "Where values are from:" in head, name
        assert "not checked" not in head, name
        values = yaml.safe_load(text)
        keys = {key for section in ("model", "optimizer") for key in values[section]} | {"data", "run"}
        rest = re.search(r"the rest is ours|is ours|ours, for a minute|tests/configs of its repository", head)
        untold = {key for key in keys if not re.search(rf"\b{key}\b", head)}
        assert not untold or rest, f"{name}: {untold}"
        if name.startswith("satmae"):
            assert not untold, f"{name}: {untold}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.wieght_decay=0.1", "unknown key `optimizer.wieght_decay`; did you mean `optimizer.weight_decay`?"),
        ("epochs=3", "unknown key `epochs`; did you mean `optimizer.epochs`?"),
        ("data.workers=3", "unknown key `data.workers`; known keys are batch_size"),
        ("optimizer.base_lr=0.1", "give either lr or base_lr, not both"),
        ("optimizer.lr=null", "give either lr or base_lr, not neither"),
        ("optimizer.lr=-1", "`optimizer.lr` is -1: give more than 0"),
        ("model.size=giant", "`model.size` is 'giant': give nano, tiny, small, base, large or huge"),
        ("model.frames=0", "model.frames"),
        ("run.strategy=deepspeed", "run.strategy"),
        ("data.source=tapes", "`data.source` is 'tapes': give tiles, cubes, mixture or blobs"),
        ("optimizer.lr", "is not KEY=VALUE"),
        ("seed.a=1", "holds a value"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(change: str, message: str, capsys) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        load_config("cpu_smoke", [change])
    assert main(["--config", "cpu_smoke", "--set", change]) == 2
    assert message.replace("`", "") in capsys.readouterr().err


def test_changes_are_read_as_yaml() -> None:
    config = load_config("cpu_smoke", ["optimizer.lr=1e-4", "model.groups=[[B1, B2], [B3, B4]]", "name=other"])
    assert config.optimizer.lr == 1e-4
    assert config.model.group_indices == ((0, 1), (2, 3))
    assert config.name == "other"


def test_files_that_are_no_config_are_refused(tmp_path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    for name, message in (("list.yaml", "holds list"), ("broken.yaml", "not YAML"), ("none.yaml", "cannot be read")):
        with pytest.raises(UsageError, match=message):
            load_config(tmp_path / name)


def test_averaging_and_sharding_exclude_each_other(tmp_path) -> None:
    with pytest.raises(UsageError, match="ema does not work"):
        small_run(tmp_path, optimizer={"ema": 0.9}, run={"strategy": "fsdp"})


def test_every_key_is_used() -> None:
    """No key of the config is only parsed: each is read as an attribute somewhere in the package."""
    from training import config, settings_data
    from training.models.settings import ModelConfig

    sections = [PretrainConfig, ModelConfig, config.OptimizerConfig, config.RunConfig, config.CheckpointConfig]
    sections += [config.LogConfig, config.ValidationConfig, settings_data.TilesData, settings_data.CubesData]
    sections += [settings_data.BlobsData, settings_data.StoreData, settings_data.CubeData]
    used = set()
    for path in (Path(config.__file__).parent).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                used.add(node.attr)
    keys = {key for section in sections for key in section.model_fields} - {"source"}  # the discriminator
    assert keys <= used


def test_a_cache_is_no_part_of_what_a_run_is() -> None:
    data = {"source": "tiles", "stores": [{"path": "a"}], "statistics": "own"}
    near = TilesData.check({**data, "cache_dir": "near", "cache_gb": 5})
    assert near.described() == TilesData.check(data).described()
    assert not {"cache_dir", "cache_gb"} & {*near.described()}
