"""Right values that a break in the code would change, and that no other test asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from loaders.order import Order
from stratacube.errors import UsageError
from tests.training.small import BANDS, GROUPS, small_model, small_run
from training.batches import minutes_of, to_minutes
from training.checkpoint import Checkpoints
from training.config import load_config
from training.models import MaskedAutoencoder, draw_masks, load_model, save_model
from training.models.codes import NO_TIME, time_code
from training.trainer import Trainer


def build(kind: str = "temporal_group", **changes: object) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(small_model(kind, **changes)).eval()


def test_minutes_are_told_to_the_minute() -> None:
    times = np.array([["2020-03-01T12:34:59.9", "1969-12-31T23:59:30", "NaT"]], "M8[us]")
    truth = [[(1583020800 + 12 * 3600 + 34 * 60) // 60, -1, NO_TIME]]
    assert to_minutes(times).tolist() == truth
    assert minutes_of(torch.from_numpy(times.view("i8"))).tolist() == truth


def test_the_code_of_the_time_of_day_is_to_the_minute() -> None:
    """In its own channels, which the minutes since the first frame do not touch."""
    moments = 26_297_280 + torch.arange(0, 60)[:, None]  # each a sample of one frame: no offset tells them apart
    of_day = time_code(moments, 96)[:, 0, 24:48]
    apart = torch.cdist(of_day, of_day) + 9 * torch.eye(60)
    assert apart.min() > 0.05


def test_hidden_tokens_know_their_place_frame_and_group() -> None:
    """All that tells two hidden tokens apart is their code."""
    model = build()
    model.decoder = torch.nn.ModuleList()  # tokens do not see one another
    pixels = torch.randn(1, 3, 5, 16, 16)
    minutes = 26_297_280 + 20 * torch.arange(3)[None]
    mask = draw_masks(model.config, 0, [0])
    with torch.no_grad():
        parts = model.reconstruct(pixels, torch.ones_like(pixels, dtype=torch.bool), minutes, mask).patches
    for group, part in enumerate(parts):
        hidden = mask.masked.reshape(3, 3, 16)[:, group]
        told = part[0][hidden].flatten(1)
        apart = torch.cdist(told, told) + 9 * torch.eye(len(told))
        assert apart.min() > 1e-4


@pytest.mark.parametrize("kind", ["temporal", "temporal_group"])
def test_what_stands_at_invalid_pixels_is_of_their_band(kind: str) -> None:
    model = build(kind)
    assert model.fill is not None
    with torch.no_grad():
        model.fill.copy_(torch.arange(1.0, 6.0))
    pixels = torch.randn(1, 3, 5, 16, 16)
    valid = torch.rand(pixels.shape) > 0.4
    filled = torch.where(valid, pixels, torch.arange(1.0, 6.0)[:, None, None])
    minutes = torch.zeros(1, 3, dtype=torch.int64)
    everywhere = torch.ones_like(valid)
    assert torch.equal(model.encode(pixels, valid, minutes), model.encode(filled, everywhere, minutes))


def test_a_checkpoint_is_renamed_into_its_place(tmp_path: Path) -> None:
    """Copied, a half of it would have its name for a while."""
    seen: list[int] = []

    def fill(folder: Path) -> None:
        assert not (tmp_path / "step_00000003").exists()
        (folder / "weights").write_text("x")
        seen.append((folder / "weights").stat().st_ino)

    path = Checkpoints(tmp_path, 1, 0).write(3, fill)
    assert (path / "weights").stat().st_ino == seen[0]


@pytest.mark.slow
def test_million_samples_of_a_mixture_are_laid_out_by_their_shares() -> None:
    """How long that takes is a benchmark."""
    order = Order((400_000, 300_000, 300_000), seed=3, shares=(1.0, 2.0, 3.0))
    samples = order.epoch(1).samples
    assert len(samples) == 1_000_000
    assert np.bincount(np.digitize(samples, [400_000, 700_000])).tolist() == list(order.quotas)


@pytest.mark.parametrize("block", [None, 1, 4])
def test_a_mixture_is_laid_out_as_ever(block: int | None) -> None:
    """By pieces of its parts, one after another, in mixed order: runs go on that were begun with it."""
    order = Order((7, 10), seed=5, block=block)
    parts = [order._part(0, 2), order._part(1, 2) + 7]
    pieces = [part[i : i + (block or 1)] for part in parts for i in range(0, len(part), block or 1)]
    mixed = [pieces[i] for i in order._generator(2**31, 2).permutation(len(pieces))]
    epoch = order.epoch(2)
    assert epoch.samples.tolist() == np.concatenate(mixed).tolist()
    assert epoch.runs.tolist() == (np.cumsum([len(piece) for piece in mixed]).tolist() if block else [17])


@pytest.mark.parametrize("checkpointing", [True, "selective"])
def test_what_is_computed_again_is_the_same(checkpointing: bool | str) -> None:
    gradients = []
    for recompute in (False, checkpointing):
        model = build(checkpointing=recompute).train()
        pixels = torch.randn(1, 3, 5, 16, 16, generator=torch.Generator().manual_seed(1))
        valid, minutes = torch.ones_like(pixels, dtype=torch.bool), torch.zeros(1, 3, dtype=torch.int64)
        model(pixels, valid, minutes, draw_masks(model.config, 0, [0])).backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_masks_follow_the_samples_and_not_the_rounds(tmp_path: Path) -> None:
    """A sample has the mask of its place in the stream, however a step is cut."""
    drawn = []
    for name, batch, accumulate in (("one", 8, 1), ("two", 2, 4)):
        optimizer = {"accumulate": accumulate}
        trainer = Trainer(small_run(tmp_path / name, data={"batch_size": batch}, optimizer=optimizer))
        trainer.step = 5
        ahead = trainer._ahead()
        taken = [ahead.take() for _ in range(accumulate)]
        drawn.append((torch.cat([b.samples for b, _ in taken]), torch.cat([m.masked for _, m in taken])))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])
    expected = draw_masks(trainer.config.model, trainer.config.seed, range(40, 48)).masked
    assert torch.equal(drawn[0][1], expected)


def test_decay_warm_up_and_moments_reach_the_optimizer(tmp_path: Path) -> None:
    optimizer = {"weight_decay": 0.3, "betas": (0.7, 0.8), "warmup_steps": 4, "lr": 0.02}
    trainer = Trainer(small_run(tmp_path, optimizer=optimizer))
    groups = trainer.optimizer.param_groups
    assert [(group["weight_decay"], tuple(group["betas"])) for group in groups] == [
        (0.3, (0.7, 0.8)),
        (0.0, (0.7, 0.8)),
    ]
    trainer.fit(2)
    assert [group["lr"] for group in groups] == [pytest.approx(0.02 * 2 / 4)] * 2


def test_dropped_paths_drop_more_in_later_blocks() -> None:
    model = build(drop_path=0.3, depth=3)
    assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.encoder] == pytest.approx([0, 0.15, 0.3])
    assert not any(getattr(block.drop_path1, "drop_prob", 0.0) for block in model.decoder)


def test_weights_of_other_bands_or_groups_are_no_start(tmp_path: Path) -> None:
    """Though every shape is the same."""
    model = build()
    save_model(model.config, model.state_dict(), tmp_path / "w.safetensors")
    others = ("B5", "B4", "B3", "B2", "B1")
    with pytest.raises(UsageError, match=r"it has bands B1, B2, B3, B4, B5, the model B5, B4, B3, B2, B1"):
        load_model(tmp_path / "w.safetensors", bands=others)
    with pytest.raises(UsageError, match=r"it has groups B1\+B4, B5\+B2, B3, the model B1\+B2, B5\+B4, B3"):
        load_model(tmp_path / "w.safetensors", groups=(("B1", "B2"), ("B5", "B4"), ("B3",)))
    assert torch.equal(load_model(tmp_path / "w.safetensors", groups=GROUPS, bands=BANDS).mask_token, model.mask_token)


def test_the_recipe_of_the_paper_masks_each_frame_by_itself() -> None:
    config = load_config("satmae_temporal").model
    masked = draw_masks(config, 0, [0]).masked.reshape(config.frames, -1)
    assert not torch.equal(masked[0], masked[1])
    assert masked.float().mean() == pytest.approx(0.75, abs=0.01)
