"""Weights in and out: a plain timm model, and what of another masked autoencoder's weights is of use here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stratacube.errors import SourceError, UsageError
from stratacube.files import whole_folder
from stratacube.guard import guarded
from training.models import MaskedAutoencoder, ModelConfig, save_model
from training.models.codes import CodeWidths, group_code, position_code, time_code
from training.models.weights import load_model

__all__ = ["ADAPTER", "Taken", "from_satvision", "time_codes", "to_timm"]

ADAPTER = '''
def encode(vit, pixels, valid, time_codes=None, fill=None):
    """Tokens (batch, frames * places, width) of pixels (batch, frames, bands, height, width), as the model has them.

    vit is timm.create_model("local-dir:FOLDER"); time_codes (batch, frames, width) are those of `time_codes` in
    training.conversion, or None for frames without a time; fill is that of config.json, for invalid pixels.
    """
    import torch

    if fill is not None:
        pixels = torch.where(valid, pixels, torch.tensor(fill)[:, None, None])
    tokens = vit.patch_embed(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2]) + vit.pos_embed
    if time_codes is not None:
        tokens = tokens + time_codes[:, :, None]
    tokens = tokens.flatten(1, 2)
    for block in vit.blocks:
        tokens = block(tokens)
    return vit.norm(tokens)
'''
"""What several frames need beside plain timm; it stands in the card and is run by a test."""


def to_timm(weights: Path, output: Path, group: int = 0, part: str = "") -> MaskedAutoencoder:
    """Write the encoder as a folder that ``timm.create_model("local-dir:FOLDER")`` opens.

    Of one frame and one group its tokens are ours; several frames go through the adapter that README.md shows. A model
    of several groups gives one of them: tokens of others, which it would see beside, timm does not know.

    Parameters
    ----------
    weights
        File of a model of ours.
    output
        Folder to write, which must not exist.
    group
        Number of the group.
    part
        Of a model of several sources, the name of one; the first by default.

    Raises
    ------
    UsageError
        If there is no such group, or the folder exists.
    """
    model = load_model(weights, part)
    config, size = model.config, model.config.dimensions
    if not 0 <= group < len(model.groups):
        raise UsageError(f"`group` is {group}; {weights} has groups 0 to {len(model.groups) - 1}")
    if output.exists():
        raise UsageError(f"{output} exists; give another folder, or remove it")
    patch, bands = config.patch_size, model.groups[group]
    embedding = model.embeddings[group].state_dict()
    kernel = embedding["weight"].reshape(size.embed_dim, patch, patch, len(bands)).permute(0, 3, 1, 2)
    tensors = {
        "pos_embed": _codes(config, group)[None],
        "patch_embed.proj.weight": kernel.contiguous(),
        "patch_embed.proj.bias": embedding["bias"],
        **{f"blocks.{name}": value for name, value in model.encoder.state_dict().items()},
        **{f"norm.{name}": value for name, value in model.encoder_norm.state_dict().items()},
    }
    arguments = {
        "img_size": list(config.height_width),
        "patch_size": patch,
        "in_chans": len(bands),
        "embed_dim": size.embed_dim,
        "depth": size.depth,
        "num_heads": size.heads,
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,
        "num_classes": 0,
    }
    fill = None if model.fill is None else model.fill.detach()[list(bands)].tolist()
    described: dict[str, Any] = {
        "architecture": "vit_base_patch16_224",  # every size of it is given below
        "num_classes": 0,
        "num_features": size.embed_dim,
        "global_pool": "avg",
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [len(bands), *config.height_width],
            "fixed_input_size": True,
            "classifier": "",
        },
        "bands": [config.bands[band] for band in bands],
        "fill": fill,
    }
    with whole_folder(output) as folder:
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(described, indent=1) + "\n")
        (folder / "README.md").write_text(_card(described["bands"], config))
    return model


def time_codes(config: ModelConfig, minutes: Tensor) -> Tensor:
    """Codes of the times of frames on the whole width, which `ADAPTER` adds to tokens.

    Parameters
    ----------
    config
        Of the model.
    minutes
        (batch, frames) int64, minutes since 1970-01-01 UTC.

    Returns
    -------
    Tensor
        (batch, frames, width) float32.
    """
    width = config.dimensions.embed_dim
    widths = CodeWidths.split(width, time=config.has_time_code, groups=len(config.group_indices) > 1)
    code = torch.zeros(*minutes.shape, width)
    if widths.time:
        code[..., widths.position : widths.position + widths.time] = time_code(minutes, widths.time)
    return code


def _codes(config: ModelConfig, group: int) -> Tensor:
    """Codes of places and of the group, (places, width); the channels of time are zero."""
    width, groups = config.dimensions.embed_dim, len(config.group_indices)
    widths = CodeWidths.split(width, time=config.has_time_code, groups=groups > 1)
    code = torch.zeros(config.grid[0] * config.grid[1], width)
    cpu = torch.device("cpu")
    code[:, : widths.position] = position_code(*config.grid, widths.position, config.grid, cpu).flatten(0, 1)
    if widths.group:
        code[:, widths.position + widths.time :] = group_code(groups, widths.group, cpu)[group]
    return code


def _card(bands: list[str], config: ModelConfig) -> str:
    several = f"The model learned from {config.frames} frames together" if config.frames > 1 else "One frame"
    return (
        f"# Encoder for timm\n\nBands, in this order: {', '.join(bands)}, normalised by the model's statistics.\n\n"
        '```python\nimport timm\n\nvit = timm.create_model("local-dir:FOLDER", pretrained=True).eval()\n'
        "tokens = vit.forward_features(pixels)  # (batch, places, width) of one frame\n```\n\n"
        f"{several}; `vit` alone sees one, without its time. For several:\n\n```python{ADAPTER}```\n"
    )


@dataclass(frozen=True)
class Taken:
    """What became of one tensor."""

    name: str
    shape: tuple[int, ...]
    became: str | None
    """Name here; none if it is not loaded."""
    reason: str = ""


_RENAMED = (
    (re.compile(r"^blocks\.(.+)$"), r"encoder.\1"),
    (re.compile(r"^norm\.(.+)$"), r"encoder_norm.\1"),
    (re.compile(r"^decoder_embed\.(.+)$"), r"bridge.\1"),
    (re.compile(r"^decoder_blocks\.(.+)$"), r"decoder.\1"),
    (re.compile(r"^decoder_norm\.(.+)$"), r"decoder_norm.\1"),
    (re.compile(r"^decoder_pred\.(.+)$"), r"heads.0.\1"),
    (re.compile(r"^patch_embed\.proj\.(.+)$"), r"embeddings.0.\1"),
    (re.compile(r"^mask_token$"), "mask_token"),
)
_REASONS = (
    (re.compile(r"cls_token"), "there is no class token here"),
    (re.compile(r"pos_embed"), "codes of places are computed here, in channels beside those of time"),
    (re.compile(r"time|temporal"), "codes of times are computed here, to the minute"),
)
_WRAPPERS = re.compile(r"^(module\.|model\.|_forward_module\.|_orig_mod\.)+")


def from_satvision(source: Path, config: ModelConfig, output: Path) -> list[Taken]:
    """Take over the weights of SatVision-Pix4D's masked autoencoder, as far as they have a place here.

    No code is unpickled. What is taken over learned beside other codes of place and time and a class token, so that
    the model is a start for training, not a trained one.

    Parameters
    ----------
    source
        Checkpoint: safetensors, or a file of ``torch.save`` that holds tensors and plain values.
    config
        Model to make.
    output
        File to write, for ``init_from``.

    Returns
    -------
    list of Taken
        Every tensor of theirs, then every one of ours that keeps its random start.

    Raises
    ------
    SourceError
        If it cannot be read without running code, or holds no such weights.
    """
    theirs = {_WRAPPERS.sub("", name): value for name, value in _read(source).items()}
    torch.manual_seed(0)
    model = MaskedAutoencoder(config)
    own, taken = model.state_dict(), []
    for name, value in theirs.items():
        became = next((pattern.sub(to, name) for pattern, to in _RENAMED if pattern.match(name)), None)
        shape = tuple(value.shape)
        if became is None or became not in own:
            found = (told for pattern, told in _REASONS if pattern.search(name))
            taken.append(Taken(name, shape, None, next(found, "nothing of that name is here")))
            continue
        turned = _turned(name, value)
        if turned.shape != own[became].shape:
            taken.append(Taken(name, shape, None, f"{became} is {tuple(own[became].shape)} here"))
            continue
        own[became] = turned.to(own[became].dtype)
        taken.append(Taken(name, shape, became))
    loaded = {entry.became for entry in taken if entry.became}
    if not loaded:
        raise SourceError(
            f"{source} holds no weights of a masked autoencoder that fit; give another, or other settings"
        )
    save_model(config, own, output, source=source.name)
    rest = [
        Taken(name, tuple(v.shape), None, "keeps its random start") for name, v in own.items() if name not in loaded
    ]
    return [*taken, *rest]


def _turned(name: str, value: Tensor) -> Tensor:
    if name == "patch_embed.proj.weight" and value.ndim == 4:  # (width, bands, rows, columns): here pixels, then bands
        return value.permute(0, 2, 3, 1).flatten(1)
    return value.flatten() if name == "mask_token" else value


def _read(source: Path) -> Mapping[str, Tensor]:
    remedy = "give a file of weights: save the model's state_dict() there, by safetensors or torch.save"
    with guarded(f"{source} cannot be read as weights without running code of it", remedy):
        if source.suffix == ".safetensors":
            return load_file(source)
        content: Any = torch.load(source, map_location="cpu", weights_only=True)
        for key in ("module", "model", "state_dict"):
            if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
                content = content[key]
        found = {name: value for name, value in content.items() if isinstance(value, Tensor)}
        if not found:
            raise ValueError("it holds no tensors by name")
        return found
