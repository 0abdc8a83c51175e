"""SatVision-Pix4D's YAML, answered key by key: what it became, what was ignored there, what has no match."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stratacube.choices import nearest
from stratacube.errors import UsageError

__all__ = ["is_of_predecessor", "translated"]

_SECTIONS = {"MODEL", "DATA", "TRAIN"}

IGNORED = {
    "MODEL.DROP_PATH_RATE",
    "DATA.MASK_PATCH_SIZE",
    "TRAIN.WARMUP_LR",
    "TRAIN.LR_SCHEDULER.NAME",
    "TRAIN.LR_SCHEDULER.GAMMA",
    "TRAIN.LR_SCHEDULER.MULTISTEPS",
    "SAVE_FREQ",
}
"""Keys that nothing there reads but the defaults that name them."""

UNMATCHED = {
    "PIPELINE": "there is one pipeline, `python -m training.pretrain`",
    "DATAMODULE": "samples come from tile stores, whatever made them",
    "DATA.DATAMODULE": "samples always come through loaders",
    "MODEL.TYPE": "the model is a masked autoencoder of kind temporal",
    "MODEL.MAE_VIT.MLP_RATIO": "blocks are four times as wide inside as outside",
    "DATA.LENGTH": "an epoch is every sample once",
    "DATA.SHUFFLE": "samples always come in a seeded order",
    "DATA.PIN_MEMORY": "memory is pinned where there is a GPU",
    "DATA.PERSISTENT_WORKERS": "workers always serve every epoch",
    "DEEPSPEED.STAGE": "see TRAIN.STRATEGY",
}

_STRATEGIES = {1: "ddp", 2: "zero2", 3: "fsdp"}
_ACCELERATORS = {"gpu": "cuda", "cuda": "cuda", "cpu": "cpu", "auto": "auto"}


def is_of_predecessor(values: Mapping[str, Any]) -> bool:
    """Whether values of a YAML file are a configuration of SatVision-Pix4D."""
    return len(_SECTIONS & values.keys()) > 1


def translated(values: Mapping[str, Any], preset: Mapping[str, Any], source: str) -> tuple[dict[str, Any], list[str]]:
    """Translate a configuration.

    Parameters
    ----------
    values
        Its keys and values.
    preset
        Ours of the same model, for what it does not say.
    source
        Its name, for sentences.

    Returns
    -------
    values, answers
        Ours, and a line for each key of theirs.

    Raises
    ------
    UsageError
        If a key is unknown or a value cannot be taken over.
    """
    given = dict(_flat(values))
    ours = {key: dict(value) if isinstance(value, Mapping) else value for key, value in preset.items()}
    answers = []
    for key, value in given.items():
        if key in IGNORED:
            answers.append(f"{key}: was ignored there, and is here")
        elif key in UNMATCHED:
            answers.append(f"{key}: no match; {UNMATCHED[key]}")
        elif key in _TAKEN:
            try:
                told = _TAKEN[key](ours, value, given)
            except (TypeError, ValueError, KeyError) as error:
                raise UsageError(f"{source}: {key} is {value!r}, which has no meaning here ({error})") from error
            answers.append(f"{key}: {told}")
        else:
            known = [*_TAKEN, *IGNORED, *UNMATCHED]
            raise UsageError(f"{source}: key {key} is not one of SatVision-Pix4D's{nearest(key, known)}")
    return ours, answers


Taker = Callable[[dict[str, Any], Any, Mapping[str, Any]], str]


def _to(path: str, change: Callable[[Any], Any] = lambda value: value) -> Taker:
    """Put a value at a key of ours, with dots into sections."""

    def take(ours: dict[str, Any], value: Any, _given: Mapping[str, Any]) -> str:
        taken = change(value)
        *sections, last = path.split(".")
        place = ours
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = taken
        return f"became {path}: {taken}"

    return take


def _number(value: Any) -> float:
    return float(value)  # YAML 1.1 reads 3e-4 as text


def _paths(key: str) -> Taker:
    def take(ours: dict[str, Any], value: Any, given: Mapping[str, Any]) -> str:
        paths = [value] if isinstance(value, str) else [str(path) for path in value]
        if key == "validation_stores" and value == given.get("DATA.TRAIN_DATA_PATHS"):
            return "the same paths as to learn from: judged on their tiles of the split val, which share no pixel"
        ours["data"][key] = [{"path": path} for path in paths]
        return f"became data.{key}: {', '.join(paths)} (tile stores: build them with python -m cube.build abi)"

    return take


def _strategy(ours: dict[str, Any], value: Any, given: Mapping[str, Any]) -> str:
    stage = int(given.get("DEEPSPEED.STAGE", 2))
    chosen = _STRATEGIES[stage] if value == "deepspeed" else str(value)
    ours["run"]["strategy"] = chosen
    return f"became run.strategy: {chosen}" + (f" (as DeepSpeed's stage {stage})" if value == "deepspeed" else "")


def _mask(ours: dict[str, Any], value: Any, _given: Mapping[str, Any]) -> str:
    ours["model"]["mask"] = "consistent" if value else "independent"
    return f"became model.mask: {ours['model']['mask']}"


def _channels(ours: dict[str, Any], value: Any, _given: Mapping[str, Any]) -> str:
    bands = ours["model"]["bands"][: int(value)]
    if len(bands) != int(value):
        raise ValueError(f"the imager has {len(bands)} bands")
    ours["model"]["bands"] = bands
    return f"became model.bands: {bands[0]} to {bands[-1]}"


def _output(ours: dict[str, Any], value: Any, given: Mapping[str, Any]) -> str:
    ours["output_dir"] = f"{str(value).rstrip('/')}/{given.get('TAG', ours['name'])}"
    return f"became output_dir: {ours['output_dir']}"


_TAKEN: dict[str, Taker] = {
    "OUTPUT": _output,
    "TAG": _to("name", str),
    "MODEL.NAME": lambda ours, value, given: _to("name", str)(ours, given.get("TAG", value), given),
    "MODEL.MAE_VIT.PATCH_SIZE": _to("model.patch_size", int),
    "MODEL.MAE_VIT.IN_CHANS": _channels,
    "MODEL.MAE_VIT.EMBED_DIM": _to("model.embed_dim", int),
    "MODEL.MAE_VIT.DEPTHS": _to("model.depth", int),
    "MODEL.MAE_VIT.NUM_HEADS": _to("model.heads", int),
    "MODEL.MAE_VIT.DECODER_EMBED_DIM": _to("model.decoder_dim", int),
    "MODEL.MAE_VIT.DECODER_DEPTH": _to("model.decoder_depth", int),
    "MODEL.MAE_VIT.DECODER_NUM_HEADS": _to("model.decoder_heads", int),
    "MODEL.MAE_VIT.SAME_MASK": _mask,
    "DATA.BATCH_SIZE": _to("data.batch_size", int),
    "DATA.NUM_WORKERS": _to("data.workers", int),
    "DATA.TRAIN_DATA_PATHS": _paths("stores"),
    "DATA.VAL_DATA_PATHS": _paths("validation_stores"),
    "DATA.IMG_SIZE": _to("model.image_size", int),
    "DATA.MASK_RATIO": _to("model.mask_ratio", _number),
    "TRAIN.ACCELERATOR": _to("run.accelerator", lambda value: _ACCELERATORS[value]),
    "TRAIN.STRATEGY": _strategy,
    "TRAIN.USE_CHECKPOINT": _to("model.checkpointing", bool),
    "TRAIN.EPOCHS": _to("optimizer.epochs", _number),
    "TRAIN.WARMUP_EPOCHS": _to("optimizer.warmup_epochs", _number),
    "TRAIN.BASE_LR": _to("optimizer.lr", _number),
    "TRAIN.MIN_LR": _to("optimizer.min_lr", _number),
    "TRAIN.WEIGHT_DECAY": _to("optimizer.weight_decay", _number),
    "PRECISION": _to("run.precision", str),
    "PRINT_FREQ": _to("logs.every_steps", int),
}


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
