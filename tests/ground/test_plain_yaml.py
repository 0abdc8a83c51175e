"""Configurations from elsewhere: YAML's plain values are read, the rest is refused in one sentence."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml

from cube.config import AbiConfig
from cube.job.folder import BuildFolder
from stratacube.errors import UsageError
from stratacube.plain_yaml import parse_yaml
from training.config import load_config

PLAIN = """
a: 1
b: [1.5, 2, x, null, true, 2020-01-01]
c: {d: '1', 1: e}
f: &more {g: 1}
h: {<<: *more, i: 2}
j: |
  text
"""


def test_plain_values_are_what_yaml_says() -> None:
    assert parse_yaml(PLAIN, "it") == yaml.safe_load(PLAIN)


LAUGHS = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(12)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: !!python/object/apply:os.system ['touch ran']", "tag !!python/object/apply:os.system is not allowed"),
        ("a: !!python/name:os.system", "tag !!python/name:os.system is not allowed"),
        ("a: !include secret.yaml", "tag !include is not allowed"),
        ("!!map {a: 1}", "tag !!map is not allowed"),
        ("a: [!!binary aGVsbG8=]", "tag !!binary is not allowed"),
        ("a: 1\nb: 2\na: 3", "key a is given in line 1 and again in line 3"),
        ("{a: 1, a: 2}", "key a is given in line 1 and again in line 1"),
        ("x:\n  - {b: 1}\n  - c: 1\n    c: 1", "key c is given in line 3 and again in line 4"),
        (LAUGHS, "it stands for more than 100000 values"),
        ("a: &a [*a]", "an alias stands inside of what it names"),
        ("[" * 500, "nested too deeply"),
        ("a: [", "expected the node content"),
        ("a: 1\n b: 2", "mapping values are not allowed"),
        ("a: 2020-13-45", "month must be in"),
        ("\x00", "special characters are not allowed"),
        ("{[a]: 1}", "unhashable key"),
    ],
)
def test_the_rest_is_refused_in_one_sentence(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    begin = time.monotonic()
    with pytest.raises(UsageError, match=said) as caught:
        parse_yaml(text, "file")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begin < 2
    (tmp_path / "config.yaml").write_text(text)
    for read in (AbiConfig.load, load_config):
        with pytest.raises(UsageError, match=f"config file .*config.yaml.*{said}"):
            read(tmp_path / "config.yaml")  # type: ignore[operator]
    assert os.listdir(tmp_path) == ["config.yaml"]


def test_changes_of_a_run_are_plain_too() -> None:
    for text in ("model.image_size=[", "model.image_size=!!python/name:os.system"):
        with pytest.raises(UsageError, match=r"`set` model\.image_size=.* is not YAML"):
            load_config("cpu_smoke", [text])


def test_the_folder_of_another_with_tags_is_no_build(tmp_path: Path) -> None:
    tag = "!!python/object/apply:os.system ['true']"
    (tmp_path / "config.yaml").write_text(f"created: 2020-01-01\ndigest: x\nbuild: {{a: {tag}}}\n")
    with pytest.raises(UsageError, match="holds no build"):
        BuildFolder(tmp_path).described()
