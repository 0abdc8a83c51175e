"""What a training run is: one YAML file, every key known, described and used."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from stratacube.choices import nearest
from stratacube.errors import UsageError
from stratacube.plain_yaml import parse_yaml
from stratacube.settings import RUN_ONLY, Settings, read_yaml
from training.models.settings import ModelConfig
from training.predecessor import is_of_predecessor, translated
from training.settings_data import BlobsData, CubesData, MixtureData, TilesData

__all__ = [
    "CheckpointConfig",
    "LogConfig",
    "OptimizerConfig",
    "PretrainConfig",
    "RunConfig",
    "ValidationConfig",
    "load_config",
    "presets",
    "print_config",
    "slurm_job",
    "validate",
]

_log = logging.getLogger(__name__)

PRESETS = Path(__file__).parent / "configs"


class OptimizerConfig(Settings):
    """AdamW, and how its rate runs."""

    lr: float | None = Field(None, gt=0, description="highest rate; or give base_lr")
    base_lr: float | None = Field(None, gt=0, description="rate for 256 samples a step: lr = base_lr * batch / 256")
    min_lr: float = Field(0.0, ge=0, description="rate at the end of the cosine")
    epochs: float | None = Field(None, gt=0, description="length of the run in epochs; or give steps")
    steps: int | None = Field(None, gt=0, description="length of the run in optimizer steps")
    warmup_epochs: float | None = Field(None, ge=0, description="linear warm-up, in epochs")
    warmup_steps: int | None = Field(None, ge=0, description="linear warm-up, in optimizer steps")
    weight_decay: float = Field(0.05, ge=0, description="decay of matrices; offsets, norms and tokens have none")
    betas: tuple[float, float] = Field((0.9, 0.95), description="moments of AdamW")
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient")
    accumulate: int = Field(1, ge=1, description="batches added up for one optimizer step")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of an averaged copy of the weights")

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        for one, other, needed in (
            ("lr", "base_lr", True),
            ("epochs", "steps", True),
            ("warmup_epochs", "warmup_steps", False),
        ):
            given = sum(getattr(self, name) is not None for name in (one, other))
            if given > 1 or (needed and given == 0):
                raise ValueError(f"give either {one} or {other}, not {'both' if given else 'neither'}")
        return self


class RunConfig(Settings):
    """Where and how a run computes."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="kind of device")
    devices: int | Literal["auto"] = Field("auto", description="devices a node (processes, on a CPU)")
    nodes: int = Field(1, ge=1, description="nodes; under Slurm or torchrun as they say")
    strategy: Literal["auto", "ddp", "fsdp", "zero2"] = Field(
        "auto",
        description="auto: one process, or ddp where there are more; fsdp: weights, gradients and moments sharded;"
        " zero2: as fsdp, but weights stay whole between forward and backward",
    )
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true"] = Field("32-true", description="arithmetic")
    matmul: Literal["highest", "high", "medium"] = Field("high", description="precision of float32 matrix products")
    compile: bool = Field(False, description="compile the model with torch.compile")
    deterministic: bool = Field(False, description="only deterministic kernels (slower on GPUs)")
    requeue: bool = Field(True, description="under Slurm, put the job back in the queue when it is told to stop")


class CheckpointConfig(Settings):
    """When state is saved, and how much is kept."""

    every_steps: int | None = Field(None, gt=0, description="save every so many optimizer steps")
    every_epochs: float | None = Field(1.0, gt=0, description="save every so many epochs")
    keep_last: int = Field(2, ge=1, description="newest checkpoints kept")
    keep_best: int = Field(1, ge=0, description="checkpoints of the lowest validation loss kept besides")
    asynchronous: bool = Field(True, description="write while the run goes on; takes the memory of one more state")


class LogConfig(Settings):
    """What is written while training; metrics.jsonl and metrics.csv always are."""

    every_steps: int = Field(10, ge=1, description="one row every so many optimizer steps")
    tensorboard: bool = Field(False, description="also write TensorBoard events")
    mlflow_uri: str | None = Field(
        None,
        description="also log to this MLflow server, or to a database such as sqlite:///mlflow.db",
    )
    mlflow_experiment: str = Field("stratacube", description="experiment in MLflow")
    peak_tflops: float | None = Field(
        None, gt=0, description="peak of one device in TFLOP/s for the MFU, if the device is not known"
    )


class ValidationConfig(Settings):
    """How the model is judged while it trains: always on the same masks."""

    every_epochs: float | None = Field(1.0, gt=0, description="validate every so many epochs; null: never")
    batches: int | None = Field(None, ge=1, description="batches of each validation on a rank; null: all")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the masks")


class PretrainConfig(Settings):
    """A pre-training run."""

    name: str = Field(description="name of the run and of the published model", json_schema_extra=RUN_ONLY)
    output_dir: Path = Field(description="folder of the run", json_schema_extra=RUN_ONLY)
    seed: int = Field(0, ge=0, lt=2**32, description="seed of weights, masks, order and augmentation")
    init_from: Path | None = Field(
        None, description="weights to start from (safetensors), of any image size", json_schema_extra=RUN_ONLY
    )
    model: ModelConfig
    data: Annotated[
        TilesData | CubesData | MixtureData | BlobsData,
        Field(discriminator="source", description="what the model learns from"),
    ]
    optimizer: OptimizerConfig
    run: RunConfig = Field(default_factory=RunConfig, json_schema_extra=RUN_ONLY)
    checkpoints: CheckpointConfig = Field(default_factory=CheckpointConfig, json_schema_extra=RUN_ONLY)
    logs: LogConfig = Field(default_factory=LogConfig, json_schema_extra=RUN_ONLY)
    validation: ValidationConfig = Field(default_factory=ValidationConfig, json_schema_extra=RUN_ONLY)

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.optimizer.ema is not None and self.run.strategy in ("fsdp", "zero2"):
            raise ValueError("optimizer.ema does not work with a sharded strategy; take run.strategy: ddp")
        if self.run.precision == "16-mixed" and self.run.strategy in ("fsdp", "zero2"):
            raise ValueError("run.precision 16-mixed does not work with a sharded strategy; take bf16-mixed")
        if self.model.start != "none" and (self.run.strategy in ("fsdp", "zero2") or self.run.precision == "bf16-true"):
            raise ValueError(
                f"model.start: {self.model.start} works neither with a sharded strategy nor with bf16-true, but run has"
                f" {self.run.strategy} and {self.run.precision}; take run.strategy: ddp and bf16-mixed"
            )
        if any(t.norm_pix_loss and t.patch_size == 1 for t in (self.model, *self.model.others.values())):
            raise ValueError("model.norm_pix_loss needs patches of more than one pixel")
        parts = [*self.data.parts] if isinstance(self.data, MixtureData) else [""]
        if set(parts[1:]) != set(self.model.others) or parts[0] in self.model.others:
            raise ValueError(
                f"model.others has {', '.join(self.model.others) or 'none'}, and data.parts beside the first"
                f" {', '.join(parts[1:]) or 'none'}; give each part but the first its tokens there"
            )
        if len(parts) > 1 and self.run.strategy in ("fsdp", "zero2"):
            raise ValueError("data of source mixture does not work with a sharded strategy; take run.strategy: ddp")
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the sources of a mixture; of other data there are none."""
        return tuple(self.data.parts) if isinstance(self.data, MixtureData) else ()

    def part(self, name: str) -> PretrainConfig:
        """Make the run of one source of a mixture alone.

        Raises
        ------
        UsageError
            If there is no such source.
        """
        if not isinstance(self.data, MixtureData) or name not in self.data.parts:
            known = ", ".join(self.parts) or "none: it is of one source"
            raise UsageError(f"`part` is {name!r}; {self.name} has {known}{nearest(name, self.parts)}")
        return self.model_copy(update={"model": self.model.part(name), "data": self.data.parts[name]})


def presets() -> list[str]:
    """List the configs that come with the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_config(source: str | Path, changes: Sequence[str] = ()) -> PretrainConfig:
    """Read a run's config.

    Parameters
    ----------
    source
        A YAML file, or the name of a preset. A configuration of SatVision-Pix4D is translated, and answered key by key
        in the log.
    changes
        ``key=value`` with dots into sections, such as ``optimizer.lr=1e-4``; the value is YAML. They override the file.

    Raises
    ------
    UsageError
        For a file that is not there or not YAML, and for a key that is unknown or a value that does not fit.
    """
    path = Path(source)
    if not path.exists() and str(source) in presets():
        path = PRESETS / f"{source}.yaml"
    try:
        values = read_yaml(path)
    except UsageError as error:
        raise UsageError(f"{error}; presets are {', '.join(presets())}{nearest(str(source), presets())}") from error
    if is_of_predecessor(values):
        values, answers = translated(values, read_yaml(PRESETS / "satvision_pix4d.yaml"), str(path))
        for answer in answers:
            _log.info("%s", answer)
    for change in changes:
        _set(values, change)
    return validate(values, str(path))


def validate(values: Mapping[str, Any], source: str) -> PretrainConfig:
    """Check the values of a config; `UsageError` names the first wrong key and the nearest known one."""
    try:
        return PretrainConfig.check(values)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from error


def print_config(config: PretrainConfig) -> str:
    """Every key with its value, as YAML that `load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=110)


def slurm_job() -> str | None:
    """Number of the Slurm batch job this process belongs to, if any."""
    return os.environ.get("SLURM_JOB_ID")


def _set(values: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals:
        raise UsageError(f"`set` {change} is not KEY=VALUE, such as optimizer.lr=1e-4")
    *sections, last = key.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise UsageError(f"`set` {change}: {section} holds a value, not keys")
        values = inner
    value = parse_yaml(text, f"`set` {change}")
    values[last] = _number(value) if isinstance(value, str) else value


def _number(text: str) -> str | float:
    """YAML 1.1 reads 1e-4 as text."""
    try:
        return float(text)
    except ValueError:
        return text
