"""Where a run's samples come from: the data sections of a config."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["BlobsData", "StoreData", "TilesData"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoreData(_Section):
    """One store of a mixture."""

    path: str = Field(description="tile store or build folder; a path or a URL")
    weight: float = Field(1.0, gt=0, description="share of the samples relative to the other stores")


class TilesData(_Section):
    """Samples from tile stores, through ``loaders``."""

    source: Literal["tiles"]
    stores: tuple[StoreData, ...] = Field(description="training stores", min_length=1)
    validation_stores: tuple[StoreData, ...] = Field((), description="validation stores, of other days or places")
    statistics: str = Field(description="statistics file of python -m loaders.stats, or the preset satvision_pix4d")
    where: str | None = Field(None, description="which tiles to train on, a pandas query on the plan's columns")
    validation_where: str | None = Field(
        None, description="which tiles of the validation stores (or of the training stores, if there are none)"
    )
    time_indices: tuple[int, ...] | None = Field(None, description="stored time steps to take; the first ones if not given")
    batch_size: int = Field(1, ge=1, description="samples a device and micro-step")
    augment: bool = Field(True, description="random flips and quarter turns of training samples")
    workers: int = Field(4, ge=0, description="loading processes a device")
    prefetch: int = Field(2, ge=1, description="batches each worker reads ahead")


class BlobsData(_Section):
    """Moving blobs made in memory: a data set for smoke tests, with structure in space, time and across bands."""

    source: Literal["blobs"]
    samples: int = Field(64, ge=2, description="training samples")
    validation_samples: int = Field(16, ge=0, description="validation samples")
    invalid: float = Field(0.02, ge=0, lt=1, description="share of invalid pixels")
    shuffle_time: bool = Field(False, description="control: put the frames of each sample in random order")
    batch_size: int = Field(8, ge=1, description="samples a device and micro-step")
