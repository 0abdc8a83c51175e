"""What is said of a published model: a model card, and a STAC item with the machine learning model extension."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from training.config import PretrainConfig
from training.runs import Opened

__all__ = ["MLM", "model_card", "model_item"]

MLM = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
EO = "https://stac-extensions.github.io/eo/v1.1.0/schema.json"
"""Declared for ``eo:bands``: the model extension looks there, or in the properties, where STAC 1.1 forbids bands."""
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"

_USE = """## Use

```python
from pathlib import Path

import torch
from training.models import load_model

model = load_model(Path("encoder.safetensors")).eval()
pixels = torch.zeros(1, {frames}, {bands}, {height}, {width})  # batch, frames, bands, rows, columns; as below
valid = torch.ones_like(pixels, dtype=torch.bool)
minutes = torch.arange({frames})[None] * 10  # when each frame was seen, since 1970-01-01 UTC
with torch.inference_mode():
    features = model.encode(pixels, valid, minutes)
print(features.shape)  # batch, frames, groups, rows and columns of patches, width
```
"""

_KINDS = {
    "temporal": "temporal masked autoencoder",
    "group": "channel-group masked autoencoder",
    "temporal_group": "temporal and channel-group masked autoencoder",
}


def model_card(opened: Opened, licence: str, evaluation: Path) -> str:
    """Write the model card, in Markdown with a YAML head."""
    config, manifest = opened.config, opened.manifest
    model, size = config.model, config.model.dimensions
    statistics = manifest["statistics"]
    rows, columns = model.grid
    judged = (
        (evaluation / "evaluation.md").read_text().partition("\n\n")[2]
        if (evaluation / "evaluation.md").exists()
        else "Not evaluated. `python -m training.evaluate` judges a checkpoint beside baselines.\n"
    )
    bands = "\n".join(
        f"| {band} | {mean:.6g} | {std:.6g} |"
        for band, mean, std in zip(statistics["bands"], statistics["mean"], statistics["std"], strict=True)
    )
    groups = "" if model.groups is None else f"Groups: {', '.join('+'.join(g) for g in model.groups)}. "
    normalised = ", targets normalised by patch" if model.norm_pix_loss else ""
    versions = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items() if number)
    return f"""---
license: {licence}
library_name: stratacube
tags: [satellite, masked-autoencoder, SatMAE]
---
# {config.name}

A {_KINDS[model.kind]} (after SatMAE, arXiv 2207.08051, and MAE, arXiv 2111.06377), trained for {opened.step} steps.

## Model

{manifest["parameters"] / 1e6:.1f} M parameters; encoder {size.embed_dim} wide, {size.depth} blocks, {size.heads} heads;
decoder {size.decoder_dim} wide, {size.decoder_depth} blocks, {size.decoder_heads} heads. {groups}Input: {model.frames}
frames of {len(model.bands)} bands, {model.height_width[0]} x {model.height_width[1]} pixels, patches of
{model.patch_size} pixels ({rows} x {columns} places, {model.tokens} tokens, {model.visible_tokens} of them seen in
training; masks {model.mask}, {model.mask_ratio:.0%} hidden{normalised}).

{_use(config)}
## Data

Source: `{config.data.source}`, fingerprint `{manifest["data_fingerprint"]}`. Pixels are normalised as
(value - mean) / std, values in {statistics["unit"] or "the units of the data"}. Statistics: {statistics["source"]}.

| band | mean | std |
|---|---:|---:|
{bands}

## Evaluation

{judged}
## Training

Config hash `{manifest["config_hash"]}`, seed {config.seed}, {manifest["ranks"]} ranks on {manifest["device"]};
{versions}; commit `{manifest["git"] or "unknown"}`. All settings are in `config.yaml`, the rest of the
provenance in `manifest.json`.

## Limits

Learned from the data named above; other sensors, bands, pixel sizes and time steps were not seen. Reconstructions are
plausible, not measured: they do not replace missing observations.
"""


def _use(config: PretrainConfig) -> str:
    model = config.model
    height, width = model.height_width
    return _USE.format(frames=model.frames, bands=len(model.bands), height=height, width=width)


def model_item(
    opened: Opened, folder: Path, collection: str | None, extent: dict[str, Any] | None, licence: str
) -> dict[str, Any]:
    """Describe a published folder as a STAC item.

    Parameters
    ----------
    opened
        The model.
    folder
        The folder with its files.
    collection
        Link to the collection that was trained on.
    extent
        Its extent.
    licence
        SPDX identifier.
    """
    config, manifest = opened.config, opened.manifest
    box = extent["spatial"]["bbox"][0] if extent else None
    properties: dict[str, Any] = {
        "title": config.name,
        "description": f"{_KINDS[config.model.kind].capitalize()}, {opened.step} steps",
        "license": licence,
        "created": manifest["started"],
        **_times(extent, manifest["started"]),
        **_mlm(config, manifest, opened.step),
    }
    links = []
    if collection is not None:
        links.append({"rel": "derived_from", "href": collection, "type": "application/json"})
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [EO, FILE, MLM],
        "id": f"{config.name}-{opened.step:08d}",
        "geometry": _polygon(box) if box else None,
        **({"bbox": box} if box else {}),
        "properties": properties,
        "links": links,
        "assets": _assets(folder, [{"name": band} for band in config.model.bands]),
    }


def _times(extent: dict[str, Any] | None, started: str) -> dict[str, Any]:
    start, end = extent["temporal"]["interval"][0] if extent else (None, None)
    if start and end:
        return {"datetime": None, "start_datetime": start, "end_datetime": end}
    return {"datetime": start or started}


def _mlm(config: PretrainConfig, manifest: dict[str, Any], step: int) -> dict[str, Any]:
    model, statistics = config.model, manifest["statistics"]
    rows, columns = model.grid
    scaling = [
        {"type": "z-score", "mean": mean, "stddev": std}
        for mean, std in zip(statistics["mean"], statistics["std"], strict=True)
    ]
    pixels = [-1, model.frames, len(model.bands), *model.height_width]
    features = [-1, model.frames, len(model.group_indices), rows, columns, model.dimensions.embed_dim]
    return {
        "mlm:name": config.name,
        "mlm:architecture": "Masked autoencoder, Vision Transformer",
        "mlm:framework": "PyTorch",
        "mlm:framework_version": manifest["versions"]["torch"],
        "mlm:tasks": ["similarity-search", "generative"],
        "mlm:total_parameters": manifest["parameters"],
        "mlm:memory_size": 4 * manifest["parameters"],
        "mlm:pretrained": True,
        "mlm:pretrained_source": f"{config.data.source} {manifest['data_fingerprint']}",
        "mlm:batch_size_suggestion": config.data.batch_size,
        "mlm:accelerator": "cuda" if manifest["device"].startswith("cuda") else "amd64",
        "mlm:accelerator_constrained": False,
        "mlm:hyperparameters": {
            "kind": model.kind,
            "patch_size": model.patch_size,
            "mask": model.mask,
            "mask_ratio": model.mask_ratio,
            "steps": step,
            "seed": config.seed,
        },
        "mlm:input": [
            {
                "name": "pixels",
                "bands": list(model.bands),
                "input": {
                    "shape": pixels,
                    "dim_order": ["batch", "time", "bands", "height", "width"],
                    "data_type": "float32",
                },
                "value_scaling": scaling,
                "resize_type": None,
            }
        ],
        "mlm:output": [
            {
                "name": "features",
                "tasks": ["similarity-search"],
                "result": {
                    "shape": features,
                    "dim_order": ["batch", "time", "group", "row", "column", "feature"],
                    "data_type": "float32",
                },
            }
        ],
    }


def _assets(folder: Path, bands: list[dict[str, str]]) -> dict[str, Any]:
    kinds: dict[str, tuple[str, str, str, list[str]]] = {
        "weights": (
            "weights.safetensors",
            "application/vnd.safetensors",
            "Weights",
            ["mlm:model", "mlm:weights", "data"],
        ),
        "encoder": ("encoder.safetensors", "application/vnd.safetensors", "Encoder", ["mlm:model", "mlm:weights"]),
        "card": ("README.md", "text/markdown", "Model card", ["overview"]),
        "config": ("config.yaml", "application/yaml", "Configuration", ["mlm:training", "metadata"]),
        "manifest": ("manifest.json", "application/json", "Provenance", ["metadata"]),
        "statistics": ("statistics.json", "application/json", "Statistics used to normalise", ["metadata"]),
        "evaluation": ("evaluation/evaluation.json", "application/json", "Evaluation", ["metadata"]),
    }
    assets = {}
    for key, (name, media, title, roles) in kinds.items():
        path = folder / name
        if not path.exists():
            continue
        assets[key] = {
            "href": f"./{name}",
            "type": media,
            "title": title,
            "roles": roles,
            "file:size": path.stat().st_size,
            "file:checksum": _multihash(path),
        }
        if "mlm:model" in roles:
            assets[key] |= {"mlm:artifact_type": "safetensors.torch.save_file", "bands": bands, "eo:bands": bands}
    return assets


def _multihash(path: Path) -> str:
    """SHA-256 as a multihash in hexadecimal."""
    with path.open("rb") as file:
        return "1220" + hashlib.file_digest(file, "sha256").hexdigest()


def _polygon(box: list[float]) -> dict[str, Any]:
    west, south, east, north = box
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}
