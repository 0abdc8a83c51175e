"""Judge a checkpoint on its validation data, beside baselines, with pictures.

Written are ``evaluation.csv``, ``evaluation.json``, ``evaluation.md`` and ``pictures/``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from catalog.publish.public import shown
from stratacube.choices import require_least
from stratacube.errors import UsageError
from stratacube.files import whole_file, write_text
from training.baselines import BASELINES, REGRESSION, Baseline, fit_regression
from training.batches import Data, stored_statistics
from training.compute import make_fabric
from training.config import RunConfig
from training.data import TileBatches, open_data
from training.manifest import read_manifest
from training.models import draw_masks
from training.pictures import save_pictures
from training.report import told_of, write_report
from training.runs import Opened
from training.settings_data import CubesData, TilesData
from training.validate import Report, restore, validate

__all__ = ["evaluate", "table"]

_COLUMNS = ("method", "band", "pixels", "rmse", "mae", "bias", "psnr", "ssim")


def evaluate(
    opened: Opened,
    output: Path,
    *,
    batches: int | None = None,
    pictures: int = 4,
    bands: Sequence[str] | None = None,
) -> Report:
    """Judge a model and write what comes of it.

    Parameters
    ----------
    opened
        The model.
    output
        Folder to write into.
    batches
        Batches to judge on; all if not given.
    pictures
        Samples to draw.
    bands
        Bands to draw; the first of each group if not given.

    Raises
    ------
    UsageError
        If the run has no validation data, a band is not known, or a number is too low.
    """
    require_least(1, batches=batches)
    require_least(0, pictures=pictures)
    config = opened.config
    unknown = [band for band in bands or () if band not in config.model.bands]
    if unknown:
        raise UsageError(f"bands {unknown} are not among the model's {list(config.model.bands)}")
    fabric = make_fabric(RunConfig(devices=1, precision=config.run.precision, matmul=config.run.matmul))
    data = open_data(config, 0, 1, fabric.device, stored=stored_statistics(opened.manifest), strict=opened.elsewhere)
    if data.validation is None:
        raise UsageError(f"{config.name} has no validation data; set them in the config's data section")
    model = opened.model.to(fabric.device)
    report = validate(
        model,
        data.validation,
        data.statistics,
        fabric,
        seed=config.validation.seed,
        batches=batches,
        baselines=_baselines(config.data, data),
    )
    output.mkdir(parents=True, exist_ok=True)
    with whole_file(output / "evaluation.csv") as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(report.rows)
    summary = {
        "checkpoint": opened.folder.name,
        "step": opened.step,
        "part": opened.part,
        "stores": _stores(config.data),
        "data_fingerprint": _fingerprint(data),
        "loss": report.loss,
        "samples": report.samples,
        "unit": data.statistics.unit,
        "norm_pix_loss": config.model.norm_pix_loss,
        "rows": report.rows,
    }
    write_text(output / "evaluation.json", json.dumps(summary, indent=1) + "\n")
    write_text(output / "evaluation.md", _page(opened, report, data))
    _draw(opened, data, fabric, output / "pictures", pictures, bands)
    if opened.folder.parent == output.parent / "checkpoints":
        write_report(output.parent, read_manifest(opened.folder))  # of the whole run, which now has this to show
    return report


def _baselines(config: Any, data: Data) -> dict[str, Baseline]:
    """Methods to judge beside the model; a regression only where there is more to learn from than what is judged on."""
    if isinstance(config, CubesData) and config.split is None and config.cubes == config.validation_cubes:
        return BASELINES
    return {**BASELINES, REGRESSION: fit_regression(data.train)}


def _stores(config: Any) -> list[str]:
    """What is judged on, by name; of a data set made in memory nothing."""
    if isinstance(config, TilesData):
        return [shown(store.path) for store in config.validation_stores or config.stores]
    return (
        [shown(cube.path) for cube in config.validation_cubes or config.cubes] if isinstance(config, CubesData) else []
    )


def _fingerprint(data: Data) -> str:
    """Names the samples judged on; in memory they go with those learned from."""
    judged = data.validation
    return str(judged.loader.source.fingerprint) if isinstance(judged, TileBatches) else data.fingerprint


def table(report: Report) -> str:
    """Format the rows of a report as a Markdown table."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---|---|" + "---:|" * 6]
    for row in report.rows:
        lines.append("| " + " | ".join(_cell(row[name]) for name in _COLUMNS) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _page(opened: Opened, report: Report, data: Data) -> str:
    model, of = opened.config.model, told_of(opened.part, _stores(opened.config.data))
    note = (
        "\nThe model predicts patches normalised by their own mean and deviation, which were taken from the truth to"
        " bring them back: its numbers are too good to set beside the baselines.\n"
        if model.norm_pix_loss
        else ""
    )
    unit = data.statistics.unit or "the units of the data"
    return (
        f"# {opened.config.name}, step {opened.step}\n\n"
        f"{report.samples} validation samples{of}, {model.mask_ratio:.0%} of the tokens hidden ({model.mask}), masks"
        f" drawn from seed {opened.config.validation.seed}; loss {report.loss:.4f}. Numbers are of masked, valid"
        f" pixels, in {unit}; PSNR and SSIM refer to each band's own range.\n{note}\n"
        f"{table(report)}"
    )


def _draw(opened: Opened, data: Data, fabric: Fabric, folder: Path, count: int, bands: Sequence[str] | None) -> None:
    """Draw the first samples."""
    config = opened.config.model
    names = list(bands or [config.bands[group[0]] for group in config.group_indices])
    start = 0
    assert data.validation is not None
    opened.model.eval()
    for batch in islice(iter(data.validation), count):
        here = batch.to(fabric.device)
        mask = draw_masks(config, opened.config.validation.seed, here.samples.tolist()).to(fabric.device)
        with torch.no_grad(), fabric.autocast():
            restored = restore(opened.model, here, mask)
        start += save_pictures(restored, data.statistics, names, folder, first=start, most=count - start)
        if start >= count:
            break
