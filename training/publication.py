"""A folder others can use: weights, settings, statistics, model card, STAC item.

Written are ``weights.safetensors`` (all of the model), ``encoder.safetensors``, ``manifest.json``, ``statistics.json``,
``config.yaml``, the evaluation if there is one, ``README.md`` (the model card) and ``item.json`` (STAC with the machine
learning model extension, linked to the collection that was trained on). None of them names a folder of this machine.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from catalog.publish.public import link_to, shown
from stratacube.errors import SourceError, UsageError
from stratacube.files import whole_folder
from stratacube.guard import guarded
from training.batches import Statistics
from training.card import model_card, model_item
from training.config import print_config, validate
from training.models import save_model
from training.models.weights import part_of, read_weights
from training.runs import Opened

__all__ = ["publish"]


def publish(opened: Opened, output: Path, *, collection: str | None = None, licence: str = "other") -> None:
    """Write the folder; it appears whole or not at all.

    Parameters
    ----------
    opened
        The checkpoint.
    output
        Folder to write, which must not exist.
    collection
        Path or URL of the STAC collection that was trained on. A file lends its extent to the item.
    licence
        SPDX identifier.

    Raises
    ------
    UsageError
        If the folder exists.
    SourceError
        If the collection cannot be read.
    """
    if output.exists():
        raise UsageError(f"{output} exists; give another folder, or remove it")
    extent = _extent(collection)
    with whole_folder(output) as part:
        _fill(part, opened, output, collection, extent, licence)


def _fill(
    part: Path, opened: Opened, output: Path, collection: str | None, extent: dict[str, Any] | None, licence: str
) -> None:
    model, weights, _ = read_weights(opened.weights)
    model, weights = part_of(model, weights, opened.part)
    opened = _public(opened)
    manifest = {**opened.manifest, "step": opened.step}
    note = {"step": str(opened.step), "config_hash": opened.manifest["config_hash"]}
    save_model(model, weights, part / "weights.safetensors", **note)
    save_model(model, weights, part / "encoder.safetensors", encoder_only=True, **note)
    (part / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    Statistics.stored(opened.manifest["statistics"]).save(part / "statistics.json")
    (part / "config.yaml").write_text(print_config(opened.config))
    evaluation = _evaluation(opened)
    if evaluation is not None:
        shutil.copytree(evaluation, part / "evaluation")
    (part / "README.md").write_text(model_card(opened, licence, part / "evaluation"))
    link = link_to(collection, output) if collection else collection
    item = model_item(opened, part, link, extent, licence)
    (part / "item.json").write_text(json.dumps(item, indent=1) + "\n")


def _public(opened: Opened) -> Opened:
    """Return what is told of a model without the folders of the machine that trained it."""
    config = validate(shown(opened.config.model_dump(mode="json")), str(opened.folder))
    return replace(opened, config=config, manifest=shown(opened.manifest))


def _evaluation(opened: Opened) -> Path | None:
    """Evaluation of this very step and source, beside the checkpoint or in its run."""
    for name in dict.fromkeys((opened.named("evaluation"), "evaluation")):
        for folder in (opened.folder / name, opened.folder.parent.parent / name):
            file = folder / "evaluation.json"
            if not file.exists():
                continue
            with guarded(f"{file} is not an evaluation", "evaluate the checkpoint again"):
                told = json.loads(file.read_text())
                if told["step"] == opened.step and told.get("part", "") == opened.part:
                    return folder
    return None


def _extent(collection: str | None) -> dict[str, Any] | None:
    """Extent of a collection's file; None for a URL, which is only linked to."""
    if collection is None or "://" in collection:
        return None
    with guarded(f"collection {collection} cannot be read", "give the collection.json of the build"):
        content = json.loads(Path(collection).read_text())
        if not isinstance(content, dict) or content.get("type") != "Collection":
            raise SourceError(f"{collection} is not a STAC collection; give the collection.json of the build")
        return dict(content["extent"])
