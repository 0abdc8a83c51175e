"""Where a run's samples come from: the data sections of a config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from stratacube.addresses import options_without_secrets
from stratacube.settings import RUN_ONLY, Settings, formerly

if TYPE_CHECKING:
    from catalog.splits import SplitRule

__all__ = ["BlobsData", "CubeData", "CubesData", "SplitData", "StoreData", "TilesData"]

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
    split: SplitData | None = Field(
        None,
        description="windows of one cube to learn from (train) and to be judged on (val), by blocks of the Earth",
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
    flips: bool = Field(True, description="mirror training samples at random")
    rotations: bool = Field(True, description="turn training samples at random by quarters")
    storage_options: StorageOptions = Field({}, description="for fsspec, such as {anon: true}; no keys")
    batch_size: int = Field(1, ge=1, description="samples a device and micro-step")
    workers: int = Field(4, ge=0, description="loading processes a device", json_schema_extra=RUN_ONLY)
    prefetch: int = Field(2, ge=1, description="batches each worker reads ahead", json_schema_extra=RUN_ONLY)


class BlobsData(Settings):
    """Moving blobs made in memory: a data set for smoke tests, with structure in space, time and across bands."""

    source: Literal["blobs"]
    samples: int = Field(64, ge=2, description="training samples")
    validation_samples: int = Field(16, ge=0, description="validation samples", json_schema_extra=RUN_ONLY)
    invalid: float = Field(0.02, ge=0, lt=1, description="share of invalid pixels")
    shuffle_time: bool = Field(False, description="control: put the frames of each sample in random order")
    batch_size: int = Field(8, ge=1, description="samples a device and micro-step")
