"""Where a run's samples come from: the data sections of a config."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from stratacube.addresses import options_without_secrets
from stratacube.settings import RUN_ONLY, Settings, formerly

if TYPE_CHECKING:
    from catalog.splits import SplitRule

__all__ = ["BlobsData", "CubeData", "CubesData", "MixtureData", "SplitData", "StoreData", "TilesData"]

Numbers = str | dict[str, tuple[float, float]]
StorageOptions = dict[str, str | int | bool]


class _Stored(Settings):
    """Samples that lie somewhere."""

    @model_validator(mode="after")
    def _keyless(self) -> Self:
        options_without_secrets(getattr(self, "storage_options", {}), "data.storage_options")
        return self


class SplitData(Settings):
    """Splits by blocks of the Earth and of time, with a gap between them; see `catalog.splits`."""

    block_km: float | None = Field(3000.0, gt=0, description="about the side of a block; null: the whole Earth")
    block_hours: float | None = Field(168.0, gt=0, description="length of a block of time; null: all time")
    gap_km: float = Field(100.0, ge=0, description="samples of two splits are so far apart in space,")
    gap_hours: float = Field(24.0, ge=0, description="or so far in time; what is nearer is of none: gap")
    shares: dict[str, float] = Field({"train": 0.8, "val": 0.1, "test": 0.1}, description="of the blocks, by split")
    seed: int = Field(0, ge=0, description="of the assignment of blocks")

    def rule(self) -> SplitRule:
        """Make the rule; `UsageError` for blocks, gaps or shares that make none."""
        from catalog.splits import SplitRule  # noqa: PLC0415  (a configuration is checked without it)

        return SplitRule(**dict(self))

    @model_validator(mode="after")
    def _of_sense(self) -> Self:
        self.rule()
        return self


class StoreData(Settings):
    """One store of a mixture."""

    path: str = Field(description="tile store or build folder; a path or a URL")
    weight: float = Field(1.0, gt=0, description="share of the samples relative to the other stores")


class TilesData(_Stored):
    """Samples from tile stores, through ``loaders``. Steps and size of a sample are the model's."""

    source: Literal["tiles"]
    stores: tuple[StoreData, ...] = Field(description="stores to learn from", min_length=1)
    validation_stores: tuple[StoreData, ...] = Field(
        (), description="stores to be judged on; the same if not given", json_schema_extra=RUN_ONLY
    )
    where: str | None = Field(
        "split == 'train'", description="which tiles to learn from: a condition on the columns of the plan; null: all"
    )
    validation_where: str | None = Field(
        "split == 'val'",
        description="which tiles to be judged on; they must not be among those learned from",
        json_schema_extra=RUN_ONLY,
    )
    split: SplitData | None = Field(
        None,
        description="makes the column split anew, by footprints and times; else it is the plan's, or whole weeks",
        json_schema_extra=formerly(None),
    )
    weights: str | None = Field(None, description="how often a tile is drawn: an expression of the plan's columns")
    statistics: Numbers = Field(
        description="file of python -m loaders.stats, own: taken of the samples learned from when the run begins, the"
        " preset satvision_pix4d, or band: [mean, std]"
    )
    quantity: str = Field(
        "radiance",
        description="what counts are decoded to: a quantity of the stores' instrument, or mixed; the statistics must "
        "be of it",
    )
    label: str | None = Field(None, description="column of the plan that classes samples, for the probe")
    place: Literal["random", "centre"] = Field("random", description="where samples are cut from larger tiles")
    flips: bool = Field(True, description="mirror training samples at random")
    rotations: bool = Field(False, description="turn training samples at random by quarters")
    on_error: Literal["raise", "skip"] = Field("raise", description="what to do with a tile whose chunk is damaged")
    storage_options: StorageOptions = Field({}, description="for fsspec, such as {anon: true}; no keys")
    batch_size: int = Field(1, ge=1, description="samples a device and micro-step")
    workers: int = Field(4, ge=0, description="loading processes a device", json_schema_extra=RUN_ONLY)
    prefetch: int = Field(2, ge=1, description="batches each worker reads ahead", json_schema_extra=RUN_ONLY)
    cache_dir: str | None = Field(
        None,
        description="folder on each node's own disk where shards are kept, fetched once for all its processes",
        json_schema_extra=RUN_ONLY,
    )
    cache_gb: float = Field(100.0, gt=0, description="most that cache_dir holds", json_schema_extra=RUN_ONLY)


class CubeData(Settings):
    """One cube of a mixture."""

    path: str = Field(
        description="Zarr store of decoded or CF-packed values with a variable a band, or the folder of a build of"
        " composites; a path or a URL"
    )
    weight: float = Field(1.0, gt=0, description="share of the samples relative to the other cubes")


class CubesData(_Stored):
    """Windows of cubes, such as Sentinel-2 composites, through ``loaders``. Their size is the model's."""

    source: Literal["cubes"]
    cubes: tuple[CubeData, ...] = Field(description="cubes to learn from", min_length=1)
    validation_cubes: tuple[CubeData, ...] = Field(
        (), description="cubes to be judged on: other places or years", json_schema_extra=RUN_ONLY
    )
    split: SplitData | Literal["plan"] | None = Field(
        None,
        description="windows of one cube to learn from (train) and to be judged on (val), by blocks of the Earth, or"
        " plan: by the splits of a build's cells",
        json_schema_extra=formerly(None),
    )
    statistics: Numbers = Field(
        description="file of python -m loaders.stats, own: taken when the run begins, or band: [mean, std]"
    )
    quantity: str = Field("reflectance", description="what the cubes hold; the statistics must be of it")
    sampling: Literal["grid", "stratified", "random"] = Field(
        "stratified", description="places of training windows: a grid, at random near each of its places, or anywhere"
    )
    overlap: int = Field(0, ge=0, description="overlap of neighbouring windows, pixels")
    min_valid: float = Field(
        0.0,
        ge=0,
        le=1,
        description="least share of a window's pixels that are valid in every band, where the grid has it; to tell, all"
        " is read once",
        json_schema_extra=formerly(0.0),
    )
    landcover: str | None = Field(
        None,
        description="raster of classes, or a glob of some: windows have their commonest class as label, for the probe",
        json_schema_extra=RUN_ONLY,
    )
    flips: bool = Field(True, description="mirror training samples at random")
    rotations: bool = Field(True, description="turn training samples at random by quarters")
    storage_options: StorageOptions = Field({}, description="for fsspec, such as {anon: true}; no keys")
    batch_size: int = Field(1, ge=1, description="samples a device and micro-step")
    workers: int = Field(4, ge=0, description="loading processes a device", json_schema_extra=RUN_ONLY)
    prefetch: int = Field(2, ge=1, description="batches each worker reads ahead", json_schema_extra=RUN_ONLY)


class MixtureData(Settings):
    """Samples of several sources, such as tiles of an imager and windows of composites, in one run.

    Each has its own bands, frames and sizes: those of the first part are the model's, those of the others stand in
    ``model.others`` by the same names.
    """

    source: Literal["mixture"]
    parts: dict[str, Annotated[TilesData | CubesData, Field(discriminator="source")]] = Field(
        description="by name, what to learn from and to be judged on; batch_size, workers and prefetch of a part are of"
        " its validation",
        min_length=2,
    )
    shares: dict[str, float] | None = Field(
        None, description="by name, shares of the samples of an epoch; null: every sample of every part once"
    )
    batch_size: int = Field(1, ge=1, description="samples a device and micro-step, of all parts together")
    workers: int = Field(4, ge=0, description="loading processes a device", json_schema_extra=RUN_ONLY)
    prefetch: int = Field(2, ge=1, description="batches each worker reads ahead", json_schema_extra=RUN_ONLY)

    @model_validator(mode="after")
    def _named(self) -> Self:
        """Names become keys of PyTorch's, which has some for itself, and parts of file names."""
        from torch.nn import ModuleDict  # noqa: PLC0415  (a configuration of one source is checked without it)

        own = ModuleDict()
        wrong = [name for name in self.parts if not re.fullmatch(r"[\w-]+", name) or hasattr(own, name)]
        if wrong:
            raise ValueError(
                f"parts has {wrong[0]!r}, which cannot be the name of a source; take letters, digits, _ and -, and no"
                " word that PyTorch has for itself, such as values or training"
            )
        return self

    @model_validator(mode="after")
    def _shared_out(self) -> Self:
        if self.shares is not None and (self.shares.keys() != self.parts.keys() or min(self.shares.values()) <= 0):
            raise ValueError(
                f"shares {self.shares} do not go with the parts {', '.join(self.parts)}; give each one above 0"
            )
        return self


class BlobsData(Settings):
    """Moving blobs made in memory: a data set for smoke tests, with structure in space, time and across bands."""

    source: Literal["blobs"]
    samples: int = Field(64, ge=2, description="training samples")
    validation_samples: int = Field(16, ge=0, description="validation samples", json_schema_extra=RUN_ONLY)
    invalid: float = Field(0.02, ge=0, lt=1, description="share of invalid pixels")
    shuffle_time: bool = Field(False, description="control: put the frames of each sample in random order")
    batch_size: int = Field(8, ge=1, description="samples a device and micro-step")
