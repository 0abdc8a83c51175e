"""What a model is: its tokens, its width and depth, and how it is masked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from stratacube.settings import Settings, formerly

__all__ = ["SIZES", "ModelConfig", "Size", "TokenConfig"]


@dataclass(frozen=True)
class Size:
    """Width, depth and heads of the encoder and the decoder."""

    embed_dim: int
    depth: int
    heads: int
    decoder_dim: int
    decoder_depth: int
    decoder_heads: int


SIZES = {
    "nano": Size(96, 3, 3, 96, 2, 3),
    "tiny": Size(192, 12, 3, 128, 4, 4),
    "small": Size(384, 12, 6, 256, 4, 8),
    "base": Size(768, 12, 12, 512, 8, 16),
    "large": Size(1024, 24, 16, 512, 8, 16),
    "huge": Size(1280, 32, 16, 512, 8, 16),
}
"""ViT-Ti/S/B/L/H; the decoder of B, L and H is MAE's (512 wide, 8 blocks, 16 heads). ``nano`` is for tests."""


class TokenConfig(Settings):
    """What the samples of a source are, and its tokens: one stands for one patch of a group of bands in one frame."""

    kind: Literal["temporal", "group", "temporal_group"] = Field(
        description="temporal: a token per frame, all bands together; group: a token per group of bands, one frame;"
        " temporal_group: a token per frame and group"
    )
    bands: tuple[str, ...] = Field(description="names of the bands, in the order of the channels", min_length=1)
    groups: tuple[tuple[str, ...], ...] | None = Field(
        None, description="groups of band names (kinds group and temporal_group); every band in exactly one"
    )
    frames: int = Field(1, ge=1, description="frames of a sample")
    image_size: int | tuple[int, int] = Field(description="height and width of a sample, pixels")
    patch_size: int = Field(16, ge=1, description="side of a patch, pixels")
    mask_ratio: float = Field(0.75, gt=0, lt=1, description="share of the tokens hidden from the encoder")
    mask: Literal["independent", "consistent", "tube"] = Field(
        "independent",
        description="independent: any token; consistent: the same places in every frame and group;"
        " tube: the same places in every frame, each group its own",
    )
    norm_pix_loss: bool = Field(False, description="targets normalised by the mean and deviation of their own patch")
    invalid: Literal["learned", "neutral"] = Field(
        "learned", description="what stands at invalid pixels of the input: a learned value per band, or the band mean"
    )
    time_code: bool | None = Field(None, description="code of the date and time; as given by the kind if not set")

    @property
    def height_width(self) -> tuple[int, int]:
        """Height and width of a sample, pixels."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches down and across."""
        height, width = self.height_width
        return height // self.patch_size, width // self.patch_size

    @property
    def group_indices(self) -> tuple[tuple[int, ...], ...]:
        """Channel numbers of each group, in the order of the group's bands; one group of all for ``temporal``."""
        if self.groups is None:
            return (tuple(range(len(self.bands))),)
        return tuple(tuple(self.bands.index(band) for band in group) for group in self.groups)

    @property
    def has_time_code(self) -> bool:
        """Whether tokens carry a code of their date and time."""
        return self.kind != "group" if self.time_code is None else self.time_code

    @property
    def tokens(self) -> int:
        """Number of tokens of a sample."""
        rows, columns = self.grid
        return self.frames * len(self.group_indices) * rows * columns

    @property
    def visible_tokens(self) -> int:
        """Number of tokens the encoder sees: whole places where the mask repeats over frames or groups."""
        places = self.grid[0] * self.grid[1]
        drawn = self.tokens if self.mask == "independent" else places
        return self.tokens // drawn * max(1, round(drawn * (1 - self.mask_ratio)))

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if len(set(self.bands)) != len(self.bands):
            raise ValueError(f"bands {list(self.bands)} name one band twice; name each once")
        if self.kind == "temporal" and self.groups is not None:
            raise ValueError("groups are given but kind temporal has none; leave them out or take temporal_group")
        if self.kind != "temporal" and self.groups is None:
            raise ValueError(f"kind {self.kind} needs groups; give lists of band names")
        if self.kind == "group" and self.frames != 1:
            raise ValueError(f"kind group takes one frame, not {self.frames}; take temporal_group or frames: 1")
        if self.groups is not None and sorted(b for g in self.groups for b in g) != sorted(self.bands):
            raise ValueError(f"groups {self.groups} do not hold each of the bands {self.bands} exactly once")
        if any(side % self.patch_size for side in self.height_width):
            raise ValueError(f"image_size {self.height_width} is not a multiple of patch_size {self.patch_size}")
        return self


class ModelConfig(TokenConfig):
    """A masked autoencoder; its own tokens are those of its only source, or of the first of several."""

    size: Literal["nano", "tiny", "small", "base", "large", "huge"] = Field("base", description="width and depth")
    start: Literal["none", "regression"] = Field(
        "none",
        description="what predictions begin from: none, or with regression a linear one of each hidden pixel on the"
        " bands and frames seen there and on what is seen around, of which the network learns what it leaves",
        json_schema_extra=formerly("none"),
    )
    detail: int = Field(
        0,
        ge=0,
        description="with start: regression, channels of convolutions that add detail of single pixels; 0: none",
        json_schema_extra=formerly(0),
    )
    ridge: float = Field(
        1e-5,
        gt=0,
        description="of the regression of start: regression, in variances of the bands; more where scenes are few",
        json_schema_extra=formerly(1e-5),
    )
    drop_path: float = Field(0.0, ge=0, lt=1, description="stochastic depth of the encoder")
    embed_dim: int | None = Field(None, description="width of the encoder instead of the size's")
    depth: int | None = Field(None, description="blocks of the encoder instead of the size's")
    heads: int | None = Field(None, description="heads of the encoder instead of the size's")
    decoder_dim: int | None = Field(None, description="width of the decoder instead of the size's")
    decoder_depth: int | None = Field(None, description="blocks of the decoder instead of the size's")
    decoder_heads: int | None = Field(None, description="heads of the decoder instead of the size's")
    checkpointing: bool | Literal["selective"] = Field(
        False,
        description="recompute activations in the backward pass to save memory: all (a third more time), or with"
        " selective those that cost little",
    )
    others: dict[str, TokenConfig] = Field(
        {},
        description="by name, tokens of further sources of a mixture: they have embeddings and heads of their own, and"
        " share all blocks",
        json_schema_extra=formerly({}),
    )

    @property
    def dimensions(self) -> Size:
        """The size, with what is overridden."""
        size = SIZES[self.size]
        return Size(
            self.embed_dim or size.embed_dim,
            self.depth or size.depth,
            self.heads or size.heads,
            self.decoder_dim or size.decoder_dim,
            self.decoder_depth or size.decoder_depth,
            self.decoder_heads or size.decoder_heads,
        )

    def part(self, name: str) -> ModelConfig:
        """Model of one source of several alone; that of the first where no other has this name."""
        alone = {field: getattr(self, field) for field in type(self).model_fields if field != "others"}
        return type(self)(**(alone | (dict(self.others[name]) if name in self.others else {})))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.others and self.start != "none":
            raise ValueError(f"start: {self.start} is of one source, but others are given; leave one of both out")
        wrong = [name for name in self.others if not name.isidentifier()]
        if wrong:
            raise ValueError(f"others has {wrong[0]!r}, which is not a name; take letters, digits and _")
        if self.detail and self.start == "none":
            raise ValueError(
                f"detail {self.detail} adds to start: regression, but start is none; leave one of both out"
            )
        if self.start != "none" and self.norm_pix_loss:
            raise ValueError("norm_pix_loss normalises by patch and start: regression by pixel; take one of both")
        size = self.dimensions
        for name, width, heads in (
            ("embed_dim", size.embed_dim, size.heads),
            ("decoder_dim", size.decoder_dim, size.decoder_heads),
        ):
            if width % heads or width % 32:
                raise ValueError(f"{name} {width} must be a multiple of 32 and of the {heads} heads")
        return self
