"""Settings: one build is one digest, however it is written and by whichever version; mistakes are one sentence."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

from cube.config import AbiConfig
from cube.registry import REDUCERS
from cube.sentinel2.config import GridConfig, Sentinel2Config
from cube.sentinel2.reduce import parse_reducer
from cube.sentinel2.vocabulary import band_name, reducer_name
from stratacube import settings
from stratacube.errors import UsageError
from stratacube.settings import RUN_ONLY, End, LocalPath, Settings, Start
from training.config import PretrainConfig, load_config, presets
from training.manifest import config_hash

OLD_ABI: tuple[tuple[str, dict[str, Any]], ...] = (
    ("663b0984ba116549", {"output_dir": "/data/out"}),
    (
        "4c80ce78e0e008b7",
        {
            **{"output_dir": "/data/out", "channels": ["13", "2"], "satellite": "east", "domain": "M1"},
            **{"start_dt": "2020-07-01", "end_dt": "2020-07-01", "local_data_dir": "/archive/", "grid": "2km"},
            **{"tile_size": "32", "steps": "1", "num_tiles": "2", "seed": "7", "workers": "3", "overwrite": True},
            **{"good_dqf": ["0"], "tolerance_minutes": "2.5"},
        },
    ),
    (
        "fcfd885a8d980d65",
        {
            **{"output_dir": "/data/out", "stratification": "convection", "convection_regex": "/masks/*.nc"},
            **{"systems": "all", "product": "ABI-L1b-RadC", "max_solar_zenith": 85, "allow_missing": True},
            **{"download": True, "s3_endpoint": "http://localhost:9000"},
        },
    ),
)
OLD_SENTINEL2: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "49cc14895d43a288",
        {"work_dir": "/data/out", "bbox": [-149.7, 68, -149, 69], "start": "2021-06-01", "end": "2021-06-30"},
    ),
    (
        "1c89a97d04e6af13",
        {
            **{"work_dir": "/data/out", "bbox": ["-149.7", "68", "-149", "69"], "grid_csv": "/grid.csv"},
            **{"start": "2021-06-01", "end": "2021-06-30T12:00Z", "bands": ["B02", "B8A"], "tr": ["40", "40"]},
            **{"tap": True, "reducer": "percentile:25", "products": ["cog", "zarr"], "mask_classes": ["0", "3"]},
            **{"months": ["6", "7"], "orbits": ["1"], "safe_dir": "/safe", "values": "int16", "bands_res": "10"},
            **{"keep_tmp": True, "workers": "2"},
        },
    ),
)
OLD_TRAINING = {
    "abi_temporal_group": "d1311a95d6953779de4f42b0535ed6daab055bab5dc18a39924e4d693b3015d6",
    "cpu_smoke": "67e8131d5fab129fad02637ec7c98a049d9cf899bc33b47ab2516240d8c4c1fd",
    "satmae_group": "8de3b82a6b28a2bf19bb388209c3f94c35255270ea63ef0f2598ed9fc08c6a49",
    "satvision_pix4d": "3d18a26f7d9941d17b532808856a7c0c2ec8ba271f817ca877f1790cb7efb970",
    "sentinel2_group": "ff892f92e1a97ce34d2bfa01c8910881d649184a9ba79e5caeb6ee4a19e067f3",
}
"""Digests by version 0.1.0 before the settings had a base of their own: folders are recognised by them."""


@pytest.mark.parametrize(("digest", "values"), OLD_ABI)
def test_folders_of_older_abi_builds_are_recognised(digest: str, values: dict[str, Any]) -> None:
    config = AbiConfig.load(None, {**AbiConfig.former(), **values})
    assert config.digest() == digest
    free = {*AbiConfig.former(), "output_dir", "s3_endpoint", "engine", "workers", "retries", "overwrite", "plan_only"}
    free |= {"dry_run", "task_minutes", "shard", "publish_only", "archive", "previews"}
    always = {"area", "convection_regex", "systems"}  # which 0.1.0 knew as settings
    free |= {n for n, owner in AbiConfig.STRATA_BY_OPTION.items() if owner != config.stratification} - always
    assert list(config.described()) == [name for name in AbiConfig.model_fields if name not in free]


@pytest.mark.parametrize(("digest", "values"), OLD_SENTINEL2)
def test_folders_of_older_sentinel2_builds_are_recognised(digest: str, values: dict[str, Any]) -> None:
    config = Sentinel2Config.load(None, {**Sentinel2Config.former(), **values})
    assert config.digest() == digest
    free = {
        *Sentinel2Config.former(),
        "work_dir",
        "access",
        "connections",
        "keep_tmp",
        "tmp_gb",
        "engine",
        "workers",
        "retries",
    }
    free |= {
        "overwrite",
        "plan_only",
        "dry_run",
        "task_minutes",
        "verify_digests",
        "shard",
        "publish_only",
        "imagery_dir",
    }
    free |= {"cdse_token_url", "cdse_hosts", "cdse_s3_endpoint"}
    assert list(config.described()) == [name for name in Sentinel2Config.model_fields if name not in free]


def test_runs_of_older_versions_are_recognised() -> None:
    assert {name: config_hash(load_config(name)) for name in OLD_TRAINING} == OLD_TRAINING
    assert set(OLD_TRAINING) <= set(presets())
    # The preset masked as the paper does not; runs of before go on with what it had.
    old = load_config("satmae_temporal", ["model.mask=consistent"])
    assert config_hash(old) == "45e03fadd839c7e3878d6614c528b57de01bfc455a3916d7fb4449c15eec44e3"


def test_what_only_says_how_a_training_goes_may_change() -> None:
    config = load_config("abi_temporal_group")
    described = config.described()
    assert set(described) == {"seed", "model", "data", "optimizer"}
    assert {"workers", "prefetch", "validation_stores", "validation_where"}.isdisjoint(described["data"])
    assert {"source", "stores", "statistics", "batch_size"} <= described["data"].keys()
    older = {**config.model_dump(mode="json"), "of_an_older_version": 1}
    assert config.deciding(older) == {**described, "of_an_older_version": 1}
    assert set(load_config("cpu_smoke").described()["data"]).isdisjoint({"validation_samples"})
    assert set(load_config("sentinel2_group").described()["data"]).isdisjoint({"validation_cubes", "workers"})


class Young(Settings):
    """A configuration of which older versions knew one key alone."""

    width: int = 3
    height: int = Field(5, json_schema_extra=settings.formerly(4))


def test_what_versions_did_that_did_not_know_a_key_is_not_described(tmp_path: Path) -> None:
    assert Young(height=4).described() == {"width": 3}
    assert Young().described() == {"width": 3, "height": 5}
    assert Young.former() == {"height": 4}


def test_the_configuration_of_a_build_means_what_it_meant(tmp_path: Path) -> None:
    """What a build does not tell it did as versions did that could not: whatever the default has become."""
    build, own = tmp_path / "config.yaml", tmp_path / "own.yaml"
    build.write_text(yaml.safe_dump({"digest": "", "build": {"width": 1}}))
    own.write_text(yaml.safe_dump({"width": 1}))
    assert Young.load(build).height == 4
    assert Young.load(build, {"height": 5}).height == 5
    assert Young.load(own).height == 5


class Inner(Settings):
    """A section."""

    width: int = Field(3, ge=1, description="its width")


class Apples(Settings):
    """One of two sources."""

    source: Literal["apples"]
    number: int = 1


class Pears(Settings):
    """The other."""

    source: Literal["pears"]
    weights: list[float] = Field([], max_length=2)


class Example(Settings):
    """What a field may be."""

    folder: LocalPath = Field(description="where to write", json_schema_extra=RUN_ONLY)
    first: Start | None = None
    last: End | None = None
    size: Literal["small", "large"] = "small"
    box: list[float] | None = Field(None, min_length=4, max_length=4)
    names: list[str] = Field(["a"], min_length=1)
    share: float = Field(0.5, ge=0, lt=1)
    most: float = Field(1, gt=0, le=2)
    whole: bool = True
    number_or_name: int | Literal["auto"] = "auto"
    inner: Inner = Field(default_factory=Inner)
    fruit: Annotated[Apples | Pears, Field(discriminator="source")] | None = None
    boxes: tuple[Inner, ...] = ()
    table: dict[str, int] = Field({})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "`folder` is required: where to write"),
        ({"folder": "s3://b/x"}, "`folder` is 's3://b/x': give a path of this machine, not a URL"),
        ({"names": []}, "`names` is []: give 1 or more"),
        ({"box": [1, 2]}, "`box` is 1 2: give 4 values"),
        ({"box": "1,2,3,x"}, "`box` is 'x': give a number"),
        ({"size": "lrge"}, "`size` is 'lrge': give small or large (did you mean large?)"),
        ({"size": 3}, "`size` is 3: give small or large"),
        ({"share": 1}, "`share` is 1: give less than 1"),
        ({"share": -1}, "`share` is -1: give 0 or more"),
        ({"share": "inf"}, "`share` is 'inf': give a finite number"),
        ({"share": "half"}, "`share` is 'half': give a number"),
        ({"most": 0}, "`most` is 0: give more than 0"),
        ({"most": 3}, "`most` is 3: give 2 or less"),
        ({"whole": "perhaps"}, "`whole` is 'perhaps': give true or false"),
        ({"number_or_name": "many"}, "`number_or_name` is 'many': give a whole number or give auto"),
        ({"inner": {"width": 0}}, "`inner.width` is 0: give 1 or more"),
        ({"inner": {"width": 1.5}}, "`inner.width` is 1.5: give a whole number"),
        ({"inner": {"wdth": 2}}, "unknown key `inner.wdth`; did you mean `inner.width`?"),
        ({"inner": 3}, "`inner` is 3: give keys and values"),
        ({"width": 3}, "unknown key `width`; did you mean `inner.width`?"),
        ({"nmaes": ["x"]}, "unknown key `nmaes`; did you mean `names`?"),
        ({"boxes": [{}, {"width": 0}]}, "`boxes.1.width` is 0: give 1 or more"),
        ({"boxes": 3}, "`boxes` is 3: give a list"),
        ({"table": {"x": "y"}}, "`table` of x is 'y': give a whole number"),
        ({"fruit": {"source": "plums"}}, "`fruit.source` is 'plums': give apples or pears"),
        ({"fruit": {"number": 1}}, "`fruit.source` is required: give apples or pears"),
        ({"fruit": {"source": "pears", "number": 1}}, "unknown key `fruit.number`; known keys are source, weights"),
        ({"fruit": {"source": "apples", "number": "x"}}, "`fruit.number` is 'x': give a whole number"),
        ({"fruit": {"source": "pears", "weights": "1 2 3"}}, "`fruit.weights` is 1 2 3: give 2 at most"),
        ({"first": 20200101}, "`first` is 20200101: give ISO 8601"),
        ({"last": "9999-12-31"}, "`last` is '9999-12-31': give a day before the last that there is"),
    ],
)
def test_mistakes_are_one_sentence(values: dict[str, Any], sentence: str) -> None:
    given = {"folder": "/x", **values} if values else {}
    with pytest.raises(UsageError) as refused:
        Example.check(given)
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)
    assert "pydantic" not in str(refused.value)
    assert refused.value.parameters


def test_an_unknown_key_is_told_before_what_is_missing_for_it() -> None:
    with pytest.raises(UsageError, match=r"unknown key `foldr`; did you mean `folder`\?"):
        Example.check({"foldr": "/x"})


def test_a_rule_between_keys_is_said_as_it_stands() -> None:
    with pytest.raises(UsageError, match=r"^`good_dqf` is \[7\]; the quality of ABI has the values 0 to 4"):
        AbiConfig.check({"output_dir": "/x", "good_dqf": [7]})
    with pytest.raises(UsageError, match=r"^model: bands .* name one band twice"):
        PretrainConfig.check({**load_config("cpu_smoke").model_dump(), "model": {**MODEL, "bands": ["a", "a"]}})


MODEL = {"kind": "temporal", "image_size": 16}


@pytest.mark.parametrize("text", ["C02,C13", "2 13", ["C02,13"], ["2", "c13"], [2, 13], (2, "C13")])
def test_channels_in_any_spelling(text: Any) -> None:
    assert AbiConfig.check({"output_dir": "/x", "channels": text}).channels == [2, 13]


@pytest.mark.parametrize("text", ["b04,8a", "B4 b8a", ["b04", "B8A"]])
def test_bands_in_any_spelling(text: Any) -> None:
    asked = {"work_dir": "/x", "cells": ["c"], "start": "2020-01-01", "end": "2020-01-01", "bands": text}
    assert Sentinel2Config.check(asked).bands == ["B04", "B8A"]


def test_what_is_no_band_is_left_for_the_sentence() -> None:
    assert [band_name(b) for b in ("SCL", "b11", "4", "B8a", "12A")] == ["SCL", "B11", "B04", "B8A", "B12A"]


def test_a_single_value_is_a_list_of_one() -> None:
    assert AbiConfig.check({"output_dir": "/x", "channels": 13}).channels == [13]
    assert GridConfig.check({"output": "/x", "bounds": "-10, 60,10 70"}).bounds == [-10.0, 60.0, 10.0, 70.0]


@pytest.mark.parametrize(("start", "end"), [("2020-07-02", "2020-07-01"), ("2020-07-02T12", "2020-07-02T12")])
def test_a_period_that_ends_as_it_starts_is_told_so(start: str, end: str) -> None:
    with pytest.raises(
        UsageError, match=r"^`end_dt` \((the end of .*|.*, exclusive)\) is not after `start_dt` \(.*\); give a later"
    ):
        AbiConfig.check({"output_dir": "/x", "start_dt": start, "end_dt": end})


def test_a_file_and_what_overrides_it(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("folder: out\nfirst: 2020-01-01\nlast: 2020-01-01\nbox: 1, 2, 3, 4\nnumber-or-name: 3\n")
    read = Example.load(file, {"number_or_name": 4})
    assert (read.number_or_name, read.box, read.folder) == (4, [1, 2, 3, 4], Path("out").absolute())
    assert (read.first, read.last) == (datetime(2020, 1, 1), datetime(2020, 1, 2))
    file.write_text(yaml.safe_dump({"created": 1, "digest": "x", "build": {"folder": "/y"}}))
    assert Example.load(file).folder == Path("/y")
    file.write_text("foldr: out\n")
    with pytest.raises(UsageError, match=f"unknown key `foldr` in {file}; did you mean `folder`"):
        Example.load(file, {"folder": "/x"})


@pytest.mark.parametrize(
    ("text", "said"), [("- 1\n", "holds list, not keys and values"), ("a: [\n", "is not YAML"), (None, "No such file")]
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UsageError, match=said):
        Example.load(tmp_path / "x.yaml")


def test_what_only_says_how_a_run_goes_is_no_part_of_the_digest() -> None:
    one, other, third = (Example(folder=Path(f), share=s) for f, s in (("/a", 0.1), ("/b", 0.1), ("/a", 0.2)))
    assert one.digest() == other.digest() != third.digest()
    assert "folder" not in one.described()
    assert len(one.digest(64)) == 64
    assert one.digest(64).startswith(one.digest())


def test_reducers_have_one_list_of_names() -> None:
    assert [parse_reducer(name).name for name in REDUCERS.names()] == REDUCERS.names()
    assert [reducer_name(t) for t in ("median", "p5", "percentile:5.0")] == ["median", "p5", "p5"]
    assert parse_reducer("percentile:25").name == "p25"
    for text in ("medan", "p101", "percentile:", "pnan", "25"):
        with pytest.raises(UsageError, match="is unknown"):
            reducer_name(text)


def test_what_was_meant() -> None:
    assert settings.nearest("Lrage", ["small", "LARGE"]) == " (did you mean LARGE?)"
    assert settings.nearest("x", ["small"]) == ""
    assert settings.one_of(["a"]) == "a"
    assert settings.one_of("abc") == "a, b or c"
