"""The masked autoencoder: temporal, channel-group, and both together, as one model.

A token is one patch of one band group in one frame. The temporal model has one group (all bands), the channel-group
model one frame; everything else is the same. The encoder sees the visible tokens only; the decoder fills the rest
with a learned token and predicts every patch (MAE, arXiv 2111.06377; SatMAE, arXiv 2207.08051).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from training.models.blocks import run_blocks
from training.models.codes import CodeWidths, group_code, position_code, time_code
from training.models.loss import reconstruction_loss
from training.models.masks import TokenMask
from training.models.patches import images_to_patches, patches_to_images
from training.models.settings import ModelConfig
from training.models.start import Start

__all__ = ["MaskedAutoencoder", "Reconstruction"]


class Reconstruction(NamedTuple):
    """What the model makes of a batch."""

    loss: Tensor
    """Mean over the samples of the weighted squared error on masked, valid pixels; a scalar."""
    patches: list[Tensor]
    """For each group (batch, frames, patches, pixels of a patch, bands of the group), as predicted."""


class MaskedAutoencoder(nn.Module):
    """Masked autoencoder of satellite image series.

    Parameters
    ----------
    config
        Tokens, width, depth and masking.
    trunk
        A model whose blocks this one works with, so that it has none of its own.
    """

    def __init__(self, config: ModelConfig, trunk: MaskedAutoencoder | None = None) -> None:
        super().__init__()
        self.config = config
        self._lent = (trunk,)  # within a tuple it is no part of this one, whose weights would be told twice
        self.groups = config.group_indices
        size, pixels = config.dimensions, config.patch_size**2
        self.fill = nn.Parameter(torch.zeros(len(config.bands))) if config.invalid == "learned" else None
        self.embeddings = nn.ModuleList(nn.Linear(pixels * len(group), size.embed_dim) for group in self.groups)
        if trunk is None:
            drops = [config.drop_path * block / max(1, size.depth - 1) for block in range(size.depth)]
            self.encoder = nn.ModuleList(_block(size.embed_dim, size.heads, drop) for drop in drops)
            self.encoder_norm = nn.LayerNorm(size.embed_dim, eps=1e-6)
            self.bridge = nn.Linear(size.embed_dim, size.decoder_dim)
        self.mask_token = nn.Parameter(torch.empty(size.decoder_dim))
        if trunk is None:
            self.decoder = nn.ModuleList(
                _block(size.decoder_dim, size.decoder_heads) for _ in range(size.decoder_depth)
            )
            self.decoder_norm = nn.LayerNorm(size.decoder_dim, eps=1e-6)
        self.heads = nn.ModuleList(nn.Linear(size.decoder_dim, pixels * len(group)) for group in self.groups)
        frames, bands = config.frames, len(config.bands)
        self.start = (
            Start(frames, bands, config.patch_size, config.detail, config.ridge) if config.start != "none" else None
        )
        self._fixed: dict[tuple[object, ...], Tensor] = {}
        """Codes of places and groups, which are the same in every step."""
        self.initialise()

    @property
    def trunk(self) -> MaskedAutoencoder:
        """Whose blocks are worked with: this one's own, as a rule."""
        return self._lent[0] or self

    def ends(self) -> list[nn.Parameter]:
        """Weights that no other source of a mixture has: of embeddings, fill, mask token and heads."""
        own = [self.mask_token, *self.embeddings.parameters(), *self.heads.parameters()]
        return own if self.fill is None else [*own, self.fill]

    def initialise(self) -> None:
        """Draw the weights anew: Xavier for matrices, zero for offsets, 0.02 for the mask token."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.mask_token, std=0.02)
        if self.start is not None:  # tokens add nothing at first
            for head in self.heads:
                nn.init.zeros_(head.weight)  # type: ignore[arg-type]

    def forward(self, pixels: Tensor, valid: Tensor, minutes: Tensor, mask: TokenMask) -> Tensor:
        """Loss of a batch; see `reconstruct`."""
        return self.reconstruct(pixels, valid, minutes, mask).loss

    def reconstruct(self, pixels: Tensor, valid: Tensor, minutes: Tensor, mask: TokenMask) -> Reconstruction:
        """Hide tokens, predict them, and compare.

        Parameters
        ----------
        pixels
            (batch, frames, channels, height, width) float, normalised; anything (NaN too) where not valid.
        valid
            Same shape, bool.
        minutes
            (batch, frames) int64, minutes since 1970-01-01 UTC.
        mask
            Which tokens are visible.
        """
        grid = self._grid(pixels)
        targets = images_to_patches(pixels, self.config.patch_size, self.groups)
        weights = images_to_patches(valid, self.config.patch_size, self.groups)
        latent = self._encode(targets, weights, minutes, grid, mask.visible)
        predictions, deviations = self._decode(latent, minutes, grid, mask.visible), None
        if self.start is not None:
            seen = valid & ~self.hidden(mask, grid)
            started = self.start(pixels, seen, self.images(predictions, grid))
            predictions, deviations = (images_to_patches(p, self.config.patch_size, self.groups) for p in started)
        loss = reconstruction_loss(
            predictions,
            targets,
            weights,
            mask.masked.reshape(len(pixels), self.config.frames, len(self.groups), -1),
            normalise=self.config.norm_pix_loss,
            deviations=deviations,
        )
        return Reconstruction(loss, predictions)

    def encode(self, pixels: Tensor, valid: Tensor, minutes: Tensor) -> Tensor:
        """Turn every patch into features: nothing masked, nothing shuffled.

        The image may have another size than in training (position codes are interpolated) as long as patches fit.

        Parameters
        ----------
        pixels, valid, minutes
            As for `reconstruct`.

        Returns
        -------
        Tensor
            (batch, frames, groups, rows, columns, width): token [b, t, g, i, j] is the patch in row i and column j.
        """
        grid = self._grid(pixels)
        patches = images_to_patches(pixels, self.config.patch_size, self.groups)
        weights = images_to_patches(valid, self.config.patch_size, self.groups)
        latent = self._encode(patches, weights, minutes, grid, None)
        return latent.reshape(len(pixels), self.config.frames, len(self.groups), *grid, -1)

    def images(self, patches: list[Tensor], grid: tuple[int, int] | None = None) -> Tensor:
        """Lay patches of all groups out as images (batch, frames, channels, height, width)."""
        return patches_to_images(patches, self.config.patch_size, self.groups, grid or self.config.grid)

    def hidden(self, mask: TokenMask, grid: tuple[int, int] | None = None) -> Tensor:
        """Say of every pixel of every band whether its token is hidden, (batch, frames, channels, height, width)."""
        tokens = mask.masked.reshape(len(mask.masked), self.config.frames, len(self.groups), -1)
        pixels = self.config.patch_size**2
        parts = [
            tokens[:, :, number, :, None, None].expand(-1, -1, -1, pixels, len(group))
            for number, group in enumerate(self.groups)
        ]
        return self.images(parts, grid)

    def _grid(self, pixels: Tensor) -> tuple[int, int]:
        _, frames, channels, height, width = pixels.shape
        patch = self.config.patch_size
        if frames != self.config.frames or channels != len(self.config.bands) or height % patch or width % patch:
            raise ValueError(
                f"the model takes {self.config.frames} frames of {len(self.config.bands)} bands in patches of {patch}"
                f" pixels, not {frames} frames of {channels} bands of {height} x {width} pixels"
            )
        return height // patch, width // patch

    def _embed(self, group: int, patches: Tensor, valid: Tensor) -> Tensor:
        """Embed patches (..., values) of a group, with the fill value at invalid pixels."""
        if self.fill is None:
            filled = patches.masked_fill(~valid, 0.0)
        else:
            # A list as an index would be copied to the device, for which the host waits.
            fill = torch.stack([self.fill[band] for band in self.groups[group]]).repeat(self.config.patch_size**2)
            filled = torch.where(valid, patches, fill.to(patches.dtype))
        embedded: Tensor = self.embeddings[group](filled.to(self.mask_token.dtype))
        return embedded

    def _encode(
        self, patches: list[Tensor], valid: list[Tensor], minutes: Tensor, grid: tuple[int, int], visible: Tensor | None
    ) -> Tensor:
        """Encode the visible tokens, or all: (batch, tokens, width)."""
        code = self._codes(minutes, grid, self.config.dimensions.embed_dim)
        flat = [(p.flatten(3), v.flatten(3)) for p, v in zip(patches, valid, strict=True)]
        if visible is None or len(flat) > 1:
            embedded = [self._embed(group, p, v) for group, (p, v) in enumerate(flat)]
            tokens = torch.stack(embedded, dim=2).flatten(1, 3) + code
            tokens = tokens if visible is None else _take(tokens, visible)
        else:  # one group: what is masked need not be embedded at all
            seen, usable = (_take(part.flatten(1, 2), visible) for part in flat[0])
            tokens = self._embed(0, seen, usable) + _take(code, visible)
        encoded: Tensor = self.trunk.encoder_norm(self._run(self.trunk.encoder, tokens))
        return encoded

    def _decode(self, latent: Tensor, minutes: Tensor, grid: tuple[int, int], visible: Tensor) -> list[Tensor]:
        """Predict every patch of every group."""
        width = self.config.dimensions.decoder_dim
        code = self._codes(minutes, grid, width)
        known = self.trunk.bridge(latent)
        tokens = self.mask_token.to(known.dtype).expand(code.shape)
        tokens = tokens.scatter(1, visible[..., None].expand(-1, -1, width), known) + code
        tokens = self.trunk.decoder_norm(self._run(self.trunk.decoder, tokens))
        per_group = tokens.reshape(len(tokens), self.config.frames, len(self.groups), -1, width).unbind(2)
        return [
            head(part).reshape(*part.shape[:3], -1, len(group))
            for head, part, group in zip(self.heads, per_group, self.groups, strict=True)
        ]

    def _codes(self, minutes: Tensor, grid: tuple[int, int], width: int) -> Tensor:
        """Codes of all tokens, (batch, tokens, width), in the type in which tokens are added up."""
        batch, frames = minutes.shape
        groups, places, device = len(self.groups), grid[0] * grid[1], minutes.device
        widths = CodeWidths.split(width, time=self.config.has_time_code, groups=groups > 1)
        shape = (batch, frames, groups, places, -1)
        position, group = self._fixed_codes(grid, widths, device)
        parts = [position.expand(shape)]
        if widths.time:
            parts.append(time_code(minutes, widths.time)[:, :, None, None].expand(shape))
        if widths.group:
            parts.append(group[:, None].expand(shape))
        # Under autocast sums stay in 32 bits; else they are of the type of the weights.
        kind = torch.float32 if torch.is_autocast_enabled(device.type) else self.mask_token.dtype
        return torch.cat(parts, dim=-1).flatten(1, 3).to(kind)

    def _fixed_codes(self, grid: tuple[int, int], widths: CodeWidths, device: torch.device) -> tuple[Tensor, Tensor]:
        """Codes of places and of groups, made once."""

        def kept(*key: object) -> Tensor:
            if key not in self._fixed:
                self._fixed[key] = _fixed_code(*key)  # type: ignore[arg-type]
            return self._fixed[key]

        make = _fixed_code if torch.compiler.is_compiling() else kept  # a compiler folds them by itself
        position = make("position", *grid, widths.position, *self.config.grid, device)
        return position, make("group", len(self.groups), widths.group, device)

    def _run(self, blocks: nn.ModuleList, tokens: Tensor) -> Tensor:
        return run_blocks(blocks, tokens, self.config.checkpointing if self.trunk.training else False)


def _fixed_code(kind: str, *numbers: Any) -> Tensor:
    if kind == "group":
        return group_code(*numbers)
    rows, columns, width, trained_rows, trained_columns, device = numbers
    return position_code(rows, columns, width, (trained_rows, trained_columns), device).flatten(0, 1)


def _block(width: int, heads: int, drop_path: float = 0.0) -> nn.Module:
    return Block(width, heads, mlp_ratio=4.0, qkv_bias=True, drop_path=drop_path)


def _take(tokens: Tensor, numbers: Tensor) -> Tensor:
    """Tokens of given numbers: (batch, all, width) and (batch, some) to (batch, some, width)."""
    return tokens.gather(1, numbers[..., None].expand(-1, -1, tokens.shape[-1]))
