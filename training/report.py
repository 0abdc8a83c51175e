"""The report of a run, ``report.html``: what was asked, what was learned, on what, how fast, and how to open it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from catalog.publish.public import shown
from stratacube.choices import many
from stratacube.files import write_text
from stratacube.guard import guarded
from stratacube.page import Block, Code, Facts, Page, Picture, Section, Series, Shown, Table, html_of, lines

__all__ = ["run_page", "told_of", "write_report"]

_MOST_PICTURES = 4
_MOST_BANDS = 8
"""Of a chart: more lines cannot be told apart."""
_SCORES = ("rmse", "mae", "bias", "psnr", "ssim")
Row = Mapping[str, Any]

_OPENING = """\
from pathlib import Path

import torch
from training.runs import open_run

opened = open_run(Path("."))
model = opened.model.eval()

pixels = torch.zeros({shape})  # (value - mean) / std, by the statistics above
valid = torch.ones_like(pixels, dtype=torch.bool)
minutes = torch.zeros({times}, dtype=torch.int64)  # since 1970-01-01 UTC
with torch.no_grad():
    features = model.encode(pixels, valid, minutes)
"""


def write_report(folder: Path, manifest: Row) -> Path:
    """Write the report of a run from what it has left in its folder.

    Parameters
    ----------
    folder
        Of the run.
    manifest
        Of the run, or of one of its checkpoints.

    Returns
    -------
    Path
        ``report.html``, which holds all that it shows.

    Raises
    ------
    SourceError
        If the logs or the evaluation cannot be read.
    """
    path = folder / "report.html"
    write_text(path, html_of(run_page(folder, manifest)))
    return path


def run_page(folder: Path, manifest: Row) -> Page:
    """Tell of a run; see :func:`write_report`."""
    manifest = shown(manifest)
    metrics, judged = [*_rows(folder / "metrics.jsonl")], [*_rows(folder / "validation.jsonl")]
    config, done = manifest["config"], int(metrics[-1]["step"]) if metrics else 0
    steps = int(manifest.get("facts", {}).get("schedule", {}).get("steps", done))  # runs of before told none
    sections = [
        Section("Asked", [_asked(manifest, steps), "Every setting is in config.yaml."]),
        Section("Learned", [*_learned(metrics, judged), *_evaluated(folder)]),
        Section("Data", _data(manifest)),
        Section("Left out", _left_out(metrics)),
        Section("How to open", [Code(_opening(config["model"]))]),
        Section("Time taken", _timed(metrics)),
        Section("Provenance", [_provenance(manifest)]),
    ]
    summary = f"**{done:,} of {steps:,} steps were done.**"
    facts = Facts(_facts(manifest, metrics, judged, done, steps))
    foot = f"Trained with stratacube, begun {manifest['started']}, configuration {manifest['config_hash']}."
    return Page(config["name"], "Pre-training", [summary, facts], sections, foot)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        with guarded(f"{path} is not a log of steps", "move it elsewhere to go on without it"):
            for line in path.read_text().splitlines():
                row = json.loads(line)
                yield {**row, "step": int(row["step"])}


def _facts(
    manifest: Row, metrics: Sequence[Row], judged: Sequence[Row], done: int, steps: int
) -> list[tuple[str, str, str]]:
    facts = [("Steps", f"{done:,}", f"of {steps:,} planned")]
    losses = [row["loss"] for row in metrics if row["loss"] is not None]
    if losses:
        facts.append(("Loss", f"{losses[-1]:.4f}", f"{losses[0]:.4f} at the beginning"))
    best = min(((row["loss"], row["step"]) for row in judged if row["loss"] is not None), default=None)
    if best is not None:
        facts.append(("Best validation", f"{best[0]:.4f}", f"at step {best[1]:,}"))
    rates = [row["samples_per_s"] for row in metrics]
    if rates:
        mean = f"{sum(rates) / len(rates):.1f}"
        facts.append(("Samples a second", mean, f"{manifest['device']}, {many(manifest['ranks'], 'rank')}"))
    return [*facts, ("Parameters", f"{manifest['parameters'] / 1e6:.1f} M", manifest["config"]["model"]["kind"])]


def _asked(manifest: Row, steps: int) -> Table:
    config = manifest["config"]
    model, data, schedule = config["model"], config["data"], _schedule(manifest)
    side = model["image_size"] if isinstance(model["image_size"], int) else " x ".join(map(str, model["image_size"]))
    rows = [
        ("Model", f"{model['kind']}, {model['size']}"),
        ("Bands", " ".join(model["bands"])),
        ("Groups", ", ".join("+".join(group) for group in model["groups"]) if model.get("groups") else "none"),
        ("Frames", model["frames"]),
        ("Image, patch", f"{side}, {model['patch_size']} pixels"),
        ("Hidden", f"{model['mask_ratio']:.0%}, {model['mask']}"),
        ("Data", data["source"]),
        ("Samples a step", f"{data['batch_size']} a rank and round"),
        ("Steps", f"{steps}, {schedule['warmup']} of them warming up"),
        ("Learning rate", schedule["peak"]),
        ("Seed", config["seed"]),
    ]
    return Table(["Setting", "Value"], rows)


def _schedule(manifest: Row) -> Row:
    """Rate and warm-up as they were worked out; of runs of before, which did not keep that, as they were asked for."""
    told, asked = manifest.get("facts", {}).get("schedule", {}), manifest["config"]["optimizer"]
    rate = asked.get("lr") or f"{asked.get('base_lr')} for 256 samples a step"
    warmup = f"{asked['warmup_epochs']} epochs" if asked.get("warmup_epochs") else asked.get("warmup_steps") or 0
    return {"peak": told.get("peak", rate), "warmup": told.get("warmup", warmup)}


def _learned(metrics: Sequence[Row], judged: Sequence[Row]) -> list[Block]:
    if not metrics:
        return ["Nothing yet."]
    step = [row["step"] for row in metrics]
    by_step = {row["step"]: row["loss"] for row in judged}
    series = [Series("training", step, _numbers(metrics, "loss"))]
    if by_step:
        series.append(Series("validation", list(by_step), [float("nan") if v is None else v for v in by_step.values()]))
    alt = f"Loss over {step[-1]} steps, from {metrics[0]['loss']} to {metrics[-1]['loss']}"
    blocks: list[Block] = [Shown(lines(series, alt=alt, x="step", y="loss", log=True), "Loss over the steps.")]
    return [*blocks, *_by_band(judged)]


def _by_band(judged: Sequence[Row]) -> list[Block]:
    bands = list(dict.fromkeys(row["band"] for row in judged))
    if not bands:
        return []
    by_band = {band: [row for row in judged if row["band"] == band] for band in bands[:_MOST_BANDS]}
    series = [Series(band, [r["step"] for r in rows], _numbers(rows, "rmse")) for band, rows in by_band.items()]
    last = [row for row in judged if row["step"] == judged[-1]["step"]]
    rows = [(row["band"], *(_short(row.get(name)) for name in _SCORES)) for row in last]
    told = "Root mean square error of hidden pixels of the validation data, by band."
    return [
        Shown(lines(series, alt=told, x="step", y="RMSE, in the unit of the data", zero=True), told),
        Table(["Band", "RMSE", "MAE", "Bias", "PSNR, dB", "SSIM"], rows),
    ]


def _evaluated(folder: Path) -> Iterator[Block]:
    """Results of ``python -m training.evaluate``, where they lie in the run's folder, of each source of a mixture."""
    found = [path.parent for path in sorted(folder.glob("evaluation*/evaluation.json"))]
    if not found:
        yield "Not evaluated. `python -m training.evaluate` judges a checkpoint beside baselines."
    for evaluation in found:
        yield from _evaluation(evaluation)


def told_of(part: str, stores: Sequence[str]) -> str:
    """Of which source, and of which stores, validation samples are."""
    return (f" of {part}" if part else "") + (f" from {', '.join(stores)}" if stores else "")


def _evaluation(folder: Path) -> list[Block]:
    file = folder / "evaluation.json"
    with guarded(f"{file} is not an evaluation", "evaluate the checkpoint again"):
        told = json.loads(file.read_text())
        rows = [(row["method"], row["band"], *(_short(row[name]) for name in _SCORES)) for row in told["rows"]]
        unit = told["unit"] or "the unit of the data"
        of = told_of(told.get("part", ""), told.get("stores", []))  # evaluations of before do not say
        words = f"Judged at step {told['step']:,} on {told['samples']:,} samples{of} beside baselines, in {unit}:"
    blocks: list[Block] = [words, Table(["Method", "Band", "RMSE", "MAE", "Bias", "PSNR, dB", "SSIM"], rows)]
    for path in sorted((folder / "pictures").glob("*.png"))[:_MOST_PICTURES]:
        with Image.open(path) as image:
            size = image.size
        shown = Picture(f"Reconstruction {path.stem}", *size, image=path.read_bytes(), media_type="image/png")
        blocks.append(Shown(shown, "Input, what the encoder saw, reconstruction, and error; a column a frame."))
    return blocks


def _data(manifest: Row) -> list[Block]:
    statistics = manifest["statistics"]
    rows = [
        (band, f"{mean:.6g}", f"{std:.6g}")
        for band, mean, std in zip(statistics["bands"], statistics["mean"], statistics["std"], strict=True)
    ]
    unit = statistics["unit"] or "the unit of the data"
    return [
        f"Source `{manifest['config']['data']['source']}`, fingerprint `{manifest['data_fingerprint']}`. "
        f"Values in {unit}; statistics: {statistics['source'] or 'given'}.",
        Table(["Band", "Mean", "Deviation"], rows),
    ]


def _left_out(metrics: Sequence[Row]) -> list[Block]:
    skipped = int(metrics[-1].get("skipped") or 0) if metrics else 0
    shares = [row["valid_share"] for row in metrics if row.get("valid_share") is not None]
    blocks: list[Block] = [f"Steps skipped because a gradient was not finite: {skipped}."]
    if shares:
        blocks.append(f"Valid pixels: {sum(shares) / len(shares):.1%} of those read; invalid ones are in no loss.")
    return blocks


def _opening(model: Row) -> str:
    size = model["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    frames, bands = model["frames"], len(model["bands"])
    return _OPENING.format(shape=f"1, {frames}, {bands}, {height}, {width}", times=f"1, {frames}")


def _timed(metrics: Sequence[Row]) -> list[Block]:
    if not metrics:
        return ["Nothing yet."]
    steps = [row["step"] for row in metrics]
    counts = [b - a for a, b in zip([0, *steps], steps, strict=False)]
    spent = sum(row["step_s"] * count for row, count in zip(metrics, counts, strict=True))
    waited = sum(row["step_s"] * count * row["data_wait"] for row, count in zip(metrics, counts, strict=True))
    rows = [("training", f"{spent:.1f}"), ("of that, waiting for data", f"{waited:.1f}")]
    name = "samples a second"
    series = [Series(name, steps, _numbers(metrics, "samples_per_s"), filled=True)]
    rate = lines(series, alt=f"{name} over the steps", x="step", y=name, zero=True)
    told = "Throughput over the run; validation and checkpoints are left out."
    return [Table(["Step", "Seconds"], rows), Shown(rate, told)]


def _provenance(manifest: Row) -> Table:
    versions = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items() if number)
    rows = [
        ("Begun", manifest["started"]),
        ("Configuration", manifest["config_hash"]),
        ("Commit", manifest["git"] or "unknown"),
        ("Software", versions),
        ("Device", f"{manifest['device']}, {many(manifest['ranks'], 'rank')}"),
        ("Gone on with", many(len(manifest.get("resumed", [])), "time")),
        ("Everything else", "manifest.json of each checkpoint"),
    ]
    return Table(["What", "Value"], rows)


def _numbers(rows: Sequence[Row], name: str) -> list[float]:
    return [float("nan") if row[name] is None else float(row[name]) for row in rows]


def _short(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"
