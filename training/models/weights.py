"""Weights as safetensors, with the model's settings in the header: one file is enough to build the model again."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stratacube.errors import SourceError, UsageError
from stratacube.guard import guarded
from training.models.mae import MaskedAutoencoder
from training.models.settings import ModelConfig

__all__ = ["ENCODER_PARTS", "load_model", "load_weights", "part_of", "read_weights", "save_model"]

_HEADER = "stratacube"

ENCODER_PARTS = ("fill", "embeddings.", "encoder.", "encoder_norm.")
"""Names of the weights that ``encode`` needs."""

_TRUNK = ("encoder.", "encoder_norm.", "bridge.", "decoder.", "decoder_norm.")
"""Names of the weights that sources of a mixture share."""
_OTHERS = "others."


def save_model(
    config: ModelConfig, weights: dict[str, Tensor], path: Path, *, encoder_only: bool = False, **notes: str
) -> None:
    """Write weights and settings.

    Parameters
    ----------
    config
        The model's settings.
    weights
        Its state dict, whole tensors on the CPU.
    path
        File to write.
    encoder_only
        Leave out the decoder.
    **notes
        More entries of the header.
    """
    kept = {n: t.contiguous() for n, t in weights.items() if not encoder_only or n.startswith(ENCODER_PARTS)}
    header = {"model": config.model_dump(mode="json"), **notes}
    save_file(kept, path, metadata={_HEADER: json.dumps(header, sort_keys=True)})  # one entry: their order is not kept


def read_weights(path: Path) -> tuple[ModelConfig, dict[str, Tensor], dict[str, str]]:
    """Read settings, weights and the notes in the header of a file of `save_model`.

    Raises
    ------
    UsageError
        If there is no such file.
    SourceError
        If it is not one of `save_model`.
    """
    if not path.is_file():
        why = "is a folder" if path.is_dir() else "is not there"
        raise UsageError(f"{path} {why}; give a file of weights, such as a checkpoint's weights.safetensors")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (safe_open is no dict)
    except (OSError, SafetensorError) as error:
        raise SourceError(
            f"{path} cannot be read as safetensors ({error}); give a file written by stratacube"
        ) from error
    if header is None:
        raise SourceError(f"{path} has no model settings in its header; give a file written by stratacube")
    with guarded(f"{path} has a header that is not of a model", "give another file written by stratacube"):
        notes = json.loads(header)
        return ModelConfig.model_validate(notes.pop("model")), weights, notes


def part_of(config: ModelConfig, weights: dict[str, Tensor], name: str) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Settings and weights of one source of several, as of a model of that alone.

    Parameters
    ----------
    config, weights
        Of a model; one of one source is its only part, whatever the name.
    name
        Of the source; that of the first where no other has this name.
    """
    prefix = f"{_OTHERS}{name}."
    own = {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
    if name in config.others:
        shared = {n: t for n, t in weights.items() if n.startswith(_TRUNK)}
    else:
        shared = {n: t for n, t in weights.items() if not n.startswith(_OTHERS)}
    return config.part(name), shared | own


def load_model(path: Path, part: str = "", **changes: object) -> MaskedAutoencoder:
    """Build the model of a file and load its weights.

    Parameters
    ----------
    path
        A file of `save_model`, with or without the decoder (which then keeps its random start).
    part
        Name of the source, of a model of several; the first by default.
    **changes
        Settings to replace, such as ``image_size`` or ``mask_ratio``; no weight depends on the size of the image.
    """
    config, weights, _ = read_weights(path)
    config, weights = part_of(config, weights, part)
    model = MaskedAutoencoder(ModelConfig.model_validate({**config.model_dump(), **changes}))
    load_weights(model, config, weights, path)
    return model


def load_weights(model: MaskedAutoencoder, config: ModelConfig, weights: dict[str, Tensor], source: Path) -> None:
    """Copy weights of a model of other settings; the decoder may be missing, what tokens stand for may not differ.

    Raises
    ------
    UsageError
        If bands or groups are others, though their numbers be the same, or the shape of a weight.
    """
    if config.others and not model.config.others:
        fitting = [name for name in ("", *config.others) if config.part(name).bands == model.config.bands]
        config, weights = part_of(config, weights, fitting[0] if fitting else "")
    pairs = [(config.part(name), model.config.part(name)) for name in ("", *config.others.keys() & model.config.others)]
    for what, there, here in (
        *(("bands", one.bands, other.bands) for one, other in pairs),
        *(("groups", _named(one), _named(other)) for one, other in pairs),
    ):
        if there != here:
            raise UsageError(
                f"{source} does not fit the model: it has {what} {_told(there)}, the model {_told(here)}; take the"
                " model's settings from the file"
            )
    own = model.state_dict()
    wrong = [n for n, t in weights.items() if n not in own or own[n].shape != t.shape]
    missing = [n for n in own if n not in weights and n.startswith(ENCODER_PARTS)]
    if wrong or missing:
        first = (wrong or missing)[0]
        shapes = [tuple(w[first].shape) if first in w else "nothing" for w in (weights, own)]
        raise UsageError(
            f"{source} does not fit the model: {first} is {shapes[0]} in the file and {shapes[1]} in the model"
            f" ({len(wrong) + len(missing)} differ); take the model's settings from the file"
        )
    with torch.no_grad():
        model.load_state_dict(weights, strict=False)


def _named(config: ModelConfig) -> tuple[str, ...]:
    """Bands of each group; one of all where there are no groups."""
    return tuple("+".join(config.bands[band] for band in group) for group in config.group_indices)


def _told(names: tuple[str, ...]) -> str:
    return ", ".join(names)
