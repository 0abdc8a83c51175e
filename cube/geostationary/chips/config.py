"""What taking chips into a store, and out of it, is told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from cube.job.codec import CodecName
from stratacube.settings import RUN_ONLY, LocalPath, Settings, local_path

__all__ = ["ExportConfig", "ImportConfig"]


class ImportConfig(Settings):
    """Chips to take into one store."""

    chips: Annotated[str, BeforeValidator(local_path)] = Field(
        description="glob of chips: .zarr tiles, .npz of convection or CloudSat; all of one size"
    )
    output_dir: LocalPath = Field(description="folder of the store", json_schema_extra=RUN_ONLY)
    codec: CodecName = Field("lz4hc", description="compression of the store")
    workers: int | None = Field(None, ge=1, description="processes (default: one per core)", json_schema_extra=RUN_ONLY)
    overwrite: bool = Field(False, description="remove what is in the folder first", json_schema_extra=RUN_ONLY)


class ExportConfig(Settings):
    """Chips to give back."""

    store: LocalPath = Field(description="folder that import-chips, or a build of tiles, wrote")
    output_dir: LocalPath = Field(description="folder for the files, which are called as they were")
    like: Literal["tile", "satvision"] = Field(
        "tile",
        description="of a build: chips lie where its tiles do, or with the event's pixel in the centre as "
        "SatVision-Pix4D has it",
    )
    folders: str = Field(
        "",
        description="of a build: folders of the files, of {split}, {stratum}, {satellite} and codes of the event's "
        "time such as %Y%m",
    )
    split_lists: bool = Field(False, description="of a build: list the files of each split in SPLIT.txt")
    s3_endpoint: str | None = Field(None, description="S3 endpoint instead of AWS, of the build's archive")
