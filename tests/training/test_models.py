from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
import torch
from torch import Tensor

from stratacube.errors import SourceError, UsageError
from tests.training.small import BANDS, GROUPS, KINDS, small_model
from training.models import MaskedAutoencoder, draw_masks, load_model, save_model
from training.models.codes import NO_TIME, CodeWidths, calendar, position_code, time_code
from training.models.patches import images_to_patches, patches_to_images

MASKS = ("independent", "consistent", "tube")
Inputs = tuple[Tensor, Tensor, Tensor]


def inputs(model: MaskedAutoencoder, batch: int = 2, size: int | None = None) -> Inputs:
    config = model.config
    height, width = (size, size) if size else config.height_width
    pixels = torch.randn(batch, config.frames, len(config.bands), height, width)
    minutes = 26_297_280 + 20 * torch.arange(config.frames).repeat(batch, 1)
    return pixels, torch.ones_like(pixels, dtype=torch.bool), minutes


def build(kind: str, **changes: object) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(small_model(kind, **changes))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind: str) -> None:
    model = build(kind, checkpointing=True)
    pixels, valid, minutes = inputs(model)
    valid[:, :, :, ::3] = False
    model.train()(pixels, valid, minutes, draw_masks(model.config, 0, range(2))).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("mask_pattern", MASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_masked_never_reaches_the_predictions(kind: str, mask_pattern: str) -> None:
    model = build(kind, mask=mask_pattern).eval()
    pixels, valid, minutes = inputs(model)
    mask = draw_masks(model.config, 3, range(2))
    tokens = mask.masked.reshape(2, model.config.frames, len(model.groups), 16)
    parts = [tokens[:, :, g, :, None, None].expand(-1, -1, -1, 16, len(group)) for g, group in enumerate(model.groups)]
    hidden = model.images(parts)
    other = torch.where(hidden, torch.randn_like(pixels) * 100, pixels)
    unseen_valid = torch.where(hidden, torch.rand_like(pixels) > 0.5, valid)
    first = model.reconstruct(pixels, valid, minutes, mask)
    second = model.reconstruct(other, unseen_valid, minutes, mask)
    assert all(torch.equal(a, b) for a, b in zip(first.patches, second.patches, strict=True))
    assert first.loss != second.loss
    seen = torch.where(hidden, pixels, pixels + 1)
    third = model.reconstruct(seen, valid, minutes, mask)
    assert not any(torch.equal(a, b) for a, b in zip(first.patches, third.patches, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_each_channel_is_predicted_by_its_own_group(kind: str) -> None:
    """A head whose offset is the channel's number gives an image with that number in that channel."""
    model = build(kind).eval()
    with torch.no_grad():
        for head, group in zip(model.heads, model.groups, strict=True):
            head.weight.zero_()
            head.bias.copy_(torch.tensor(group, dtype=torch.float32).repeat(16))
    pixels, valid, minutes = inputs(model)
    mask = draw_masks(model.config, 0, range(2))
    numbers = torch.arange(float(len(BANDS)))[:, None, None].expand(pixels.shape)
    result = model.reconstruct(numbers, valid, minutes, mask)
    assert torch.equal(model.images(result.patches), numbers)
    assert result.loss == 0


def test_groups_take_the_channels_they_name() -> None:
    model = build("group")
    assert model.groups == ((0, 3), (4, 1), (2,))
    images = torch.randn(2, 1, 5, 8, 12)
    parts = images_to_patches(images, 4, model.groups)
    assert torch.equal(parts[1][1, 0, 4, 6], images[1, 0, [4, 1], 5, 6])  # row 1, column 1, pixel (1, 2)
    assert torch.equal(patches_to_images(parts, 4, model.groups, (2, 3)), images)


@pytest.mark.parametrize("kind", KINDS)
def test_encode_keeps_grid_order(kind: str) -> None:
    """With blocks that pass tokens on, a changed pixel changes the token of its own patch and no other."""
    model = build(kind).eval()
    model.encoder = torch.nn.ModuleList()
    pixels, valid, minutes = inputs(model)
    before = model.encode(pixels, valid, minutes)
    assert before.shape == (2, model.config.frames, len(model.groups), 4, 4, 64)
    for sample, frame, channel, row, column in ((0, 0, 1, 0, 15), (1, model.config.frames - 1, 4, 9, 2)):
        probed = pixels.clone()
        probed[sample, frame, channel, row, column] += 5
        changed = (model.encode(probed, valid, minutes) != before).any(-1).nonzero().tolist()
        group = next(g for g, members in enumerate(model.groups) if channel in members)
        assert changed == [[sample, frame, group, row // 4, column // 4]]


@pytest.mark.parametrize("kind", KINDS)
def test_visible_tokens_return_to_their_places(kind: str) -> None:
    """With blocks that pass tokens on, only the prediction of a changed visible patch changes."""
    model = build(kind).eval()
    model.encoder, model.decoder = torch.nn.ModuleList(), torch.nn.ModuleList()
    pixels, valid, minutes = inputs(model, 1)
    mask = draw_masks(model.config, 0, [0])
    before = torch.stack(
        [part.flatten(3).sum(-1) for part in model.reconstruct(pixels, valid, minutes, mask).patches], 2
    )
    for token in mask.visible[0].tolist():
        frame, group, place = np.unravel_index(token, before.shape[1:])
        row, column = 4 * (place // 4), 4 * (place % 4)
        probed = pixels.clone()
        probed[0, frame, list(model.groups[group]), row : row + 4, column : column + 4] += 5
        patches = model.reconstruct(probed, valid, minutes, mask).patches
        after = torch.stack([part.flatten(3).sum(-1) for part in patches], 2)
        assert (after != before).nonzero().tolist() == [[0, frame, group, place]]


def test_encode_answers_most_at_the_probed_patch() -> None:
    model = build("temporal_group").eval()
    pixels, valid, minutes = inputs(model, 1)
    probed = pixels.clone()
    probed[0, 2, 4, 4:8, 8:12] += 3
    change = (model.encode(probed, valid, minutes) - model.encode(pixels, valid, minutes)).norm(dim=-1)
    assert np.unravel_index(int(change.argmax()), change.shape) == (0, 2, 1, 1, 2)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("invalid", ["learned", "neutral"])
def test_invalid_pixels_change_nothing(invalid: str, normalise: bool) -> None:
    model = build("temporal_group", invalid=invalid, norm_pix_loss=normalise)
    pixels, valid, minutes = inputs(model)
    valid = torch.rand(pixels.shape) > 0.3
    valid[:, :, :, :4, :4] = False  # a patch without any valid pixel
    mask = draw_masks(model.config, 0, range(2))
    losses, gradients = [], []
    for filler in (0.0, 1e6, float("nan"), float("inf")):
        model.zero_grad()
        loss = model(torch.where(valid, pixels, filler), valid, minutes, mask)
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert len(set(losses)) == 1
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])


def test_a_sample_without_valid_pixels_adds_nothing() -> None:
    model = build("temporal")
    pixels, valid, minutes = inputs(model)
    valid[1] = False
    mask = draw_masks(model.config, 0, range(2))
    alone = model(pixels[:1], valid[:1], minutes[:1], draw_masks(model.config, 0, range(1)))
    assert model(pixels, valid, minutes, mask).item() == pytest.approx(alone.item() / 2, rel=1e-5)


def test_loss_of_a_batch_is_the_mean_over_its_samples() -> None:
    """Whatever is invalid where, so that splitting a batch over ranks changes nothing."""
    model = build("temporal_group")
    pixels, valid, minutes = inputs(model, 4)
    valid = torch.rand(pixels.shape) > torch.tensor([0.0, 0.3, 0.6, 0.9])[:, None, None, None, None]
    whole = model(pixels, valid, minutes, draw_masks(model.config, 0, range(4)))
    parts = [
        model(pixels[i : i + 1], valid[i : i + 1], minutes[i : i + 1], draw_masks(model.config, 0, [i]))
        for i in range(4)
    ]
    assert whole.item() == pytest.approx(torch.stack(parts).mean().item(), rel=1e-5)


def test_loss_is_the_error_of_masked_pixels() -> None:
    model = build("temporal_group").eval()
    pixels, valid, minutes = inputs(model, 1)
    valid = torch.rand(pixels.shape) > 0.2
    mask = draw_masks(model.config, 0, [0])
    result = model.reconstruct(pixels, valid, minutes, mask)
    total, count = 0.0, 0
    for group, members in enumerate(model.groups):
        for frame in range(3):
            for place in range(16):
                if not mask.masked[0, (frame * 3 + group) * 16 + place]:
                    continue
                row, column = 4 * (place // 4), 4 * (place % 4)
                for number, channel in enumerate(members):
                    cut = (0, frame, channel, slice(row, row + 4), slice(column, column + 4))
                    predicted = result.patches[group][0, frame, place, :, number].reshape(4, 4)
                    total += ((predicted - pixels[cut]) ** 2)[valid[cut]].sum().item()
                    count += int(valid[cut].sum())
    assert result.loss.item() == pytest.approx(total / count, rel=1e-5)


def test_normalised_targets_are_normalised_over_valid_pixels() -> None:
    model = build("temporal", norm_pix_loss=True)
    with torch.no_grad():
        model.heads[0].weight.zero_()
    pixels, valid, minutes = inputs(model, 1)
    loss = model(pixels * 7 + 3, valid, minutes, draw_masks(model.config, 0, [0]))
    assert loss.item() == pytest.approx(79 / 80, rel=1e-4)  # 80 values a patch, deviation with n - 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", MASKS)
def test_masks_are_of_their_pattern(kind: str, pattern: str) -> None:
    config = small_model(kind, mask=pattern, mask_ratio=0.7)
    mask = draw_masks(config, 5, [10, 11])
    groups = len(config.group_indices)
    tokens = mask.masked.reshape(2, config.frames, groups, 16)
    assert mask.visible.shape == (2, config.visible_tokens)
    assert (~mask.masked).gather(1, mask.visible).all()
    assert mask.masked.float().mean() == pytest.approx(0.7, abs=0.02)
    assert not torch.equal(mask.masked[0], mask.masked[1])
    if pattern != "independent":
        assert (tokens == tokens[:, :1]).all()
    if groups > 1:
        assert (tokens == tokens[:, :, :1]).all() == (pattern == "consistent")


def test_masks_depend_on_seed_and_number_alone() -> None:
    config = small_model("temporal_group")
    many = draw_masks(config, 1, [4, 7, 9]).masked
    assert torch.equal(many[1:2], draw_masks(config, 1, [7]).masked)
    assert not torch.equal(many[1:2], draw_masks(config, 2, [7]).masked)


def test_calendar_agrees_with_datetime() -> None:
    step = np.timedelta64(17, "D")
    days = np.arange(np.datetime64("1895-01-01"), np.datetime64("2105-01-01"), step).astype("datetime64[m]")
    moments = days + np.arange(len(days)).astype("timedelta64[m]") * 37 % np.timedelta64(1440, "m")
    year, day, minute = calendar(torch.from_numpy(moments.astype(np.int64)))
    truth = [datetime.fromisoformat(str(moment)) for moment in moments]
    assert year.tolist() == [moment.year for moment in truth]
    assert day.tolist() == [moment.timetuple().tm_yday - 1 for moment in truth]
    assert minute.tolist() == [moment.hour * 60 + moment.minute for moment in truth]


@pytest.mark.parametrize("width", [32, 96, 384])
def test_time_code_tells_minutes_apart(width: int) -> None:
    minutes = 26_297_280 + torch.tensor([[0, 1, 2, 20, 40, 60, 1440, 525_600]])
    code = time_code(minutes, width)[0]
    apart = torch.cdist(code, code) + 9 * torch.eye(len(code))
    assert apart.min() > 0.1
    later = time_code(minutes + 366 * 1440 * 4, width)[0]
    assert (code - later).norm(dim=-1).min() > 0.01  # another year


def test_midnight_and_new_year_are_no_seams() -> None:
    """One minute is as far across midnight as at noon, and one day as far across the new year as in May."""

    def step(first: str, second: str, channels: slice) -> float:
        moments = [int(np.datetime64(text, "m").astype(np.int64)) for text in (first, second)]
        code = time_code(torch.tensor(moments)[:, None], 96)[:, 0, channels]
        return float((code[0] - code[1]).norm())

    day, minute = slice(12, 24), slice(24, 48)  # after the year's channels
    across = step("2020-12-31T23:59", "2021-01-01T00:00", minute)
    assert across == pytest.approx(step("2020-05-05T11:59", "2020-05-05T12:00", minute), rel=1e-4)
    across = step("2020-12-31T12:00", "2021-01-01T12:00", day)
    assert across == pytest.approx(step("2020-05-05T12:00", "2020-05-06T12:00", day), rel=1e-4)


def test_frames_without_time_have_no_code() -> None:
    code = time_code(torch.tensor([[NO_TIME, 26_297_280, 26_297_300]]), 96)
    assert not code[0, 0].any()
    assert torch.equal(code[0, 1:], time_code(torch.tensor([[26_297_280, 26_297_300]]), 96)[0])


def test_the_time_matters_to_the_model() -> None:
    model = build("temporal").eval()
    pixels, valid, minutes = inputs(model)
    assert not torch.equal(model.encode(pixels, valid, minutes), model.encode(pixels, valid, minutes + 20))


@pytest.mark.parametrize("width", [64, 96, 128, 192, 384, 512, 768, 1024, 1280])
def test_codes_fill_the_width(width: int) -> None:
    for time in (False, True):
        for groups in (False, True):
            widths = CodeWidths.split(width, time=time, groups=groups)
            assert widths.position + widths.time + widths.group == width
            assert widths.position % 4 == 0 == widths.time % 16
            assert widths.position >= width // 4


def test_position_codes_are_interpolated() -> None:
    device = torch.device("cpu")
    trained = position_code(4, 4, 32, (4, 4), device)
    assert len(trained.flatten(0, 1).unique(dim=0)) == 16
    finer = position_code(12, 12, 32, (4, 4), device)
    assert torch.allclose(finer[1::3, 1::3], trained, atol=1e-6)  # centres coincide


def test_other_sizes_can_be_encoded() -> None:
    model = build("temporal_group").eval()
    pixels, valid, minutes = inputs(model, 1, size=24)
    assert model.encode(pixels, valid, minutes).shape == (1, 3, 3, 6, 6, 64)
    with pytest.raises(ValueError, match="takes 3 frames of 5 bands"):
        model.encode(pixels[:, :2], valid[:, :2], minutes[:, :2])


def test_weights_travel_as_safetensors(tmp_path) -> None:
    model = build("temporal_group").eval()
    save_model(model.config, model.state_dict(), tmp_path / "all.safetensors", step="3")
    save_model(model.config, model.state_dict(), tmp_path / "encoder.safetensors", encoder_only=True)
    sample = inputs(model)
    mask = draw_masks(model.config, 0, range(2))
    again = load_model(tmp_path / "all.safetensors").eval()
    assert torch.equal(again(*sample, mask), model(*sample, mask))
    assert torch.equal(load_model(tmp_path / "encoder.safetensors").eval().encode(*sample), model.encode(*sample))
    assert (tmp_path / "encoder.safetensors").stat().st_size < (tmp_path / "all.safetensors").stat().st_size
    larger = load_model(tmp_path / "all.safetensors", image_size=32, mask_ratio=0.5)
    assert larger.config.tokens == 4 * model.config.tokens


def test_weights_that_do_not_fit_are_refused(tmp_path) -> None:
    model = build("temporal_group")
    save_model(model.config, model.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match="does not fit the model"):
        load_model(tmp_path / "w.safetensors", groups=(BANDS,))
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(SourceError, match="cannot be read"):
        load_model(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "temporal", "groups": GROUPS}, "kind temporal has none"),
        ({"kind": "temporal_group", "groups": None}, "needs groups"),
        ({"kind": "group", "groups": GROUPS, "frames": 2}, "one frame"),
        ({"groups": (("B1",), ("B2", "B3", "B4"))}, "exactly once"),
        ({"groups": (("B1", "B5"), ("B5", "B2", "B3", "B4"))}, "exactly once"),
        ({"image_size": 18}, "not a multiple"),
        ({"embed_dim": 100}, "multiple of 32"),
        ({"bands": ("B1", "B1"), "groups": (("B1",),)}, "twice"),
    ],
)
def test_settings_that_contradict_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_model("temporal_group", **changes)


def test_the_predecessors_model_has_its_size() -> None:
    from training.config import load_config

    config = load_config("satvision_pix4d").model
    assert (config.tokens, config.visible_tokens) == (7168, 2867)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in MaskedAutoencoder(config.model_copy()).parameters())
    assert 330e6 < parameters < 345e6
