"""A training step of our temporal model against a plain PyTorch loop of a masked autoencoder of the same size.

Ours is the whole trainer: masks, validity, time codes, clipping, log, schedule. The other is what one writes in an
afternoon: ``nn.TransformerEncoderLayer``, a learned position, a shuffle, AdamW.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.table import Row, compare, race, reset_peak
from training.batches import Data
from training.config import validate
from training.logs import Logs
from training.meter import Meter
from training.models import ModelConfig
from training.synthetic import MemoryLoader, moving_blobs, unit_statistics
from training.trainer import Trainer

FRAMES, BANDS, PATCH, RATIO = 3, 6, 16, 0.6


def rows(scratch: Path, quick: bool) -> list[Row]:
    """Compare step time and peak memory for small sizes that a CPU can train."""
    found = []
    for size, pixels, batch in (("tiny", 96, 8), ("small", 128, 4)):
        if quick and size != "tiny":
            continue
        shape = {"size": size, "pixels": pixels, "batch": batch, "steps": 2 if quick else 8}
        best = race(
            {"ours": (ours, {**shape, "folder": scratch / "run"}), "plain": (plain, shape)}, rounds=1 if quick else 4
        )
        what = f"ViT-{size}, {FRAMES} x {BANDS} x {pixels}^2, batch {batch}, float32"
        counts = {name: found_.result["parameters"] for name, found_ in best.items()}
        note = (
            f"{counts['ours'] / 1e6:.1f} M parameters; the plain one {counts['plain'] / counts['ours']:.3f} times that;"
            " by CPU time of one thread"
        )
        peaks = [best[name].peak - best[name].result["before"] for name in ("ours", "plain")]
        seconds = [best[name].cpu / shape["steps"] for name in ("ours", "plain")]
        found += [
            compare(
                "Training", f"step: {what}", *seconds, "s", target=None if quick else "ours <= 1.05 theirs", note=note
            ),
            compare(
                "Training",
                f"peak memory: {what}",
                *peaks,
                "MiB",
                target=None if quick else "ours <= 1.05 theirs",
                note="above the process with its imports and samples, before there is a model",
            ),
        ]
    return found


def _model(size: str, pixels: int) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "kind": "temporal",
            "size": size,
            "bands": [f"B{band}" for band in range(BANDS)],
            "frames": FRAMES,
            "image_size": pixels,
            "patch_size": PATCH,
            "mask_ratio": RATIO,
        }
    )


def ours(size: str, pixels: int, batch: int, steps: int, folder: str) -> Generator[None, None, dict[str, float]]:
    """Run the trainer for some steps."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = _model(size, pixels)
    blobs = moving_blobs(batch * (steps + 2), FRAMES, BANDS, (pixels, pixels), seed=0)
    before = reset_peak()
    data = Data(MemoryLoader(blobs, batch, seed=0), None, unit_statistics(model.bands), "bench")
    config = validate(
        {
            "name": "bench",
            "output_dir": folder,
            "model": model.model_dump(),
            "data": {"source": "blobs", "batch_size": batch},
            "optimizer": {"lr": 1e-4, "steps": 10_000, "clip": 1.0},
            "run": {"accelerator": "cpu", "devices": 1},
            "validation": {"every_epochs": None},
            "checkpoints": {"every_steps": 100_000},
            "logs": {"every_steps": steps},
        },
        "bench",
    )
    trainer = Trainer(config, data=data, resume=False)
    logs = Logs(Path(folder), config.logs, config.name, 0, {})
    stepping = _stepping(trainer, steps, logs)
    next(stepping)
    yield
    next(stepping, None)
    yield
    return {"parameters": trainer.parameters, "before": before}


def _stepping(trainer: Trainer, steps: int, logs: Logs) -> Generator[None, None, None]:
    """One step to warm up, then the timed ones, without the save at the end of a run."""
    meter = Meter(trainer.config.model, trainer.fabric.device, None)
    ahead = trainer._ahead()
    trainer.wrapped.train()
    trainer._step(ahead, meter)
    yield
    for _ in range(steps):
        norm = trainer._step(ahead, meter)
    trainer._log(logs, meter, norm)


class PlainAutoencoder(nn.Module):
    """A masked autoencoder as in the paper, on PyTorch's own transformer layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = config.dimensions
        self.kept = config.visible_tokens
        values = PATCH**2 * BANDS

        def blocks(width: int, heads: int, depth: int) -> nn.ModuleList:
            options: dict[str, Any] = {"activation": "gelu", "batch_first": True, "norm_first": True, "dropout": 0.0}
            return nn.ModuleList(nn.TransformerEncoderLayer(width, heads, 4 * width, **options) for _ in range(depth))

        self.embed = nn.Conv2d(BANDS, size.embed_dim, PATCH, PATCH)
        self.position = nn.Parameter(torch.zeros(1, config.tokens, size.embed_dim))
        self.encoder = blocks(size.embed_dim, size.heads, size.depth)
        self.norm = nn.LayerNorm(size.embed_dim)
        self.bridge = nn.Linear(size.embed_dim, size.decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, size.decoder_dim))
        self.decoder_position = nn.Parameter(torch.zeros(1, config.tokens, size.decoder_dim))
        self.decoder = blocks(size.decoder_dim, size.decoder_heads, size.decoder_depth)
        self.decoder_norm = nn.LayerNorm(size.decoder_dim)
        self.head = nn.Linear(size.decoder_dim, values)

    def forward(self, images: Tensor) -> Tensor:
        """Loss of images (batch, frames, bands, height, width)."""
        batch, frames, bands, height, width = images.shape
        tokens = (
            self.embed(images.flatten(0, 1)).flatten(2).transpose(1, 2).reshape(batch, -1, self.norm.weight.numel())
        )
        tokens = tokens + self.position
        order = torch.rand(tokens.shape[:2]).argsort(1)
        back, kept = order.argsort(1), order[:, : self.kept]
        visible = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))
        for block in self.encoder:
            visible = block(visible)
        visible = self.bridge(self.norm(visible))
        filled = self.mask_token.expand(batch, tokens.shape[1] - self.kept, -1)
        whole = torch.cat([visible, filled], 1).gather(1, back[..., None].expand(-1, -1, visible.shape[-1]))
        whole = whole + self.decoder_position
        for block in self.decoder:
            whole = block(whole)
        predicted = self.head(self.decoder_norm(whole))
        cut = images.reshape(batch, frames, bands, height // PATCH, PATCH, width // PATCH, PATCH)
        target = cut.permute(0, 1, 3, 5, 4, 6, 2).reshape(batch, -1, predicted.shape[-1])
        masked = torch.ones(tokens.shape[:2]).scatter(1, kept, 0.0)
        return ((predicted - target).square().mean(-1) * masked).sum() / masked.sum()


def plain(size: str, pixels: int, batch: int, steps: int) -> Generator[None, None, dict[str, float]]:
    """Run a plain loop for some steps."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    blobs = moving_blobs(batch * (steps + 2), FRAMES, BANDS, (pixels, pixels), seed=0).pixels
    before = reset_peak()
    model = PlainAutoencoder(_model(size, pixels))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step(number: int) -> float:
        loss = model(blobs[number * batch : (number + 1) * batch])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    step(0)
    yield
    for number in range(1, steps + 1):
        step(number)
    yield
    return {"parameters": sum(p.numel() for p in model.parameters()), "before": before}
