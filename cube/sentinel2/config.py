"""What a Sentinel-2 build is: the predecessor's flags, and those that it lacked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from catalog.sentinel2.names import CDSE_STAC
from cube.engine_choice import Engine
from cube.job.codec import BEFORE, CodecName
from cube.job.parts import TOLD, Shard
from cube.registry import REDUCERS
from cube.sentinel2.vocabulary import BAND_RESOLUTIONS, MASK_CLASSES, SCL_NAMES, band_name, reducer_name
from stratacube.addresses import checked_address
from stratacube.settings import RUN_ONLY, End, LocalPath, Settings, Start, formerly, refuse_empty

if TYPE_CHECKING:
    from cube.sentinel2.lattice import Lattice

__all__ = ["BAND_RESOLUTIONS", "DEFAULT_STEP", "GridConfig", "Sentinel2Config"]

DEFAULT_STEP = 0.000179663056824
"""The predecessor's pixel in degrees: 20 m along a meridian."""

_PREDECESSOR_CORNER = (-180.0, 90.0)


def _band(value: Any) -> Any:
    return band_name(value) if isinstance(value, str) else value


Band = Annotated[str, BeforeValidator(_band)]


class GridConfig(Settings):
    """A grid of cells to make."""

    output: LocalPath = Field(description="file to write: .csv with the predecessor's columns, or .geojson")
    cell_size: float = Field(0.25, gt=0, description="side of a cell in units of the CRS")
    bounds: list[float] = Field(
        [-180.0, 60.0, 180.0, 90.0], min_length=4, max_length=4, description="xmin ymin xmax ymax in units of the CRS"
    )
    crs: str = Field("EPSG:4326", description="CRS of the cells")


class Sentinel2Config(Settings):
    """A build of Sentinel-2 composites."""

    work_dir: LocalPath = Field(description="folder of the build", json_schema_extra=RUN_ONLY)
    bbox: list[float] | None = Field(
        None, min_length=4, max_length=4, description="west south east north, degrees; west > east crosses 180"
    )
    polygon: LocalPath | None = Field(
        None, description="GeoJSON whose area selects cells, instead of or besides `bbox`"
    )
    cells: list[str] | None = Field(None, description="ids of the cells to make", min_length=1)
    grid_csv: LocalPath | None = Field(
        None, description="grid of cells: CSV of make-grid, or a GeoJSON of polygons (default: the 0.25 degree grid)"
    )
    start: Start = Field(description="start of the period, ISO 8601 UTC")
    end: End = Field(description="end of the period, exclusive; a date alone means that whole day")
    bands: list[Band] = Field(
        ["B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B11", "B12"], description="bands, such as B04", min_length=1
    )
    bands_res: int = Field(
        20, description="pixel size in metres of the files to read, where a band has it; else the band's own"
    )
    mask_classes: list[int] = Field(list(MASK_CLASSES), description="scene classes (SCL) to mask")
    mask_dilation: int = Field(0, ge=0, le=100, description="pixels of 20 m by which masked areas grow")
    tr: list[float] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="pixel size in units of the CRS (default: 0.000179663056824 degrees, or `bands_res` metres)",
    )
    tap: bool = Field(False, description="pixel edges at multiples of `tr` from 0 (else counted from 180 W 90 N)")
    crs: str | None = Field(
        None, description="CRS to lay the cells of a GeoJSON in (default EPSG:4326); a CSV names its own"
    )
    resampling: Literal["nearest", "bilinear", "cubic", "average"] = Field(
        "bilinear", description="the one resample, from the tile's grid to the lattice"
    )
    reducer: str = Field("median", description=f"{', '.join(REDUCERS.names())}, or a percentile such as p25")
    values: Literal["dn", "reflectance", "int16"] = Field(
        "dn", description="stored as harmonised DN in float32, reflectance in float32, or harmonised DN in int16"
    )
    products: list[Literal["cog", "zarr"]] = Field(["cog"], description="what to write", min_length=1)
    compress: Literal["ZSTD", "DEFLATE"] = Field("ZSTD", description="compression of GeoTIFFs")
    codec: CodecName = Field(
        "zstd",
        description="compression of the Zarr store: fast to read, fast to write, smallest, or as it was first",
        json_schema_extra=formerly(BEFORE),
    )
    items: LocalPath | None = Field(
        None, description="saved search (ItemCollection or GeoParquet) to take instead of asking"
    )
    safe_dir: LocalPath | None = Field(None, description="folder of SAFE products, any depth, instead of a search")
    stac_url: str = Field(CDSE_STAC, description="STAC API to search")
    access: Literal["https", "s3", "local"] = Field(
        "https", description="how files come; local means they are on disk already", json_schema_extra=RUN_ONLY
    )
    connections: int = Field(
        3, ge=1, le=4, description="downloads at once, shared by the whole run", json_schema_extra=RUN_ONLY
    )
    max_cloud_cover: float | None = Field(None, ge=0, le=100, description="largest cloud cover of a product, per cent")
    min_sun_elevation: float | None = Field(None, ge=-90, le=90, description="lowest sun of a product, degrees")
    orbits: list[int] | None = Field(None, description="relative orbits to use")
    platforms: list[str] | None = Field(None, description="platforms to use: sentinel-2a, sentinel-2b, sentinel-2c")
    months: list[int] | None = Field(None, description="months of the year to use, 1 to 12")
    baselines: list[str] | None = Field(None, description="processing baselines to use, such as 05.10")
    verify_digests: Literal["once", "never"] = Field(
        "once",
        description="hold files against the digests that manifest.safe or the catalogue lists, once, or never",
        json_schema_extra=RUN_ONLY,
    )
    odd_scenes: Literal["refuse", "mark"] = Field(
        "refuse",
        description="scenes whose pixels contradict what is said of them: leave them out, or use and mark them",
        json_schema_extra=formerly("mark"),
    )
    keep_tmp: bool = Field(False, description="keep tmp/, the scenes on the lattice", json_schema_extra=RUN_ONLY)
    tmp_gb: float = Field(
        200.0,
        gt=0,
        description="room for tmp/: cells are made in as many turns as that needs",
        json_schema_extra=RUN_ONLY,
    )
    engine: Engine = Field(
        None, description="where tasks run (default: local, or mpi of several ranks)", json_schema_extra=RUN_ONLY
    )
    workers: int | None = Field(None, ge=1, description="processes (default: one per core)", json_schema_extra=RUN_ONLY)
    retries: int = Field(2, ge=0, description="tries again after an error of the machine", json_schema_extra=RUN_ONLY)
    task_minutes: float = Field(
        60.0,
        gt=0,
        description="minutes after which a task that does not end is given up",
        json_schema_extra=RUN_ONLY,
    )
    overwrite: bool = Field(False, description="remove the build in the folder first", json_schema_extra=RUN_ONLY)
    plan_only: bool = Field(
        False, description="stop after the plan and the metadata of the arrays", json_schema_extra=RUN_ONLY
    )
    shard: Shard | None = Field(None, description=TOLD, json_schema_extra=RUN_ONLY)
    publish_only: bool = Field(
        False, description="build nothing; describe what jobs of `shard` have made", json_schema_extra=RUN_ONLY
    )
    dry_run: bool = Field(
        False, description="say what would be read and written; move no bytes", json_schema_extra=RUN_ONLY
    )

    @field_validator("reducer")
    @classmethod
    def _short(cls, name: str) -> str:
        """Names files: ``percentile:25`` is ``p25`` there."""
        return reducer_name(name)

    @model_validator(mode="after")
    def _agree(self) -> Sentinel2Config:
        checked_address(self.stac_url, "stac_url")  # here, where what is refused is not repeated
        unknown = [b for b in self.bands if b not in BAND_RESOLUTIONS]
        if unknown:
            raise ValueError(f"band {unknown[0]!r} is unknown; level 2A has {', '.join(BAND_RESOLUTIONS)}")
        if len(set(self.bands)) != len(self.bands):
            raise ValueError(f"`bands` {' '.join(self.bands)} name one twice; name each once")
        if self.bands_res not in (10, 20, 60):
            raise ValueError(f"`bands_res` is {self.bands_res}; files come at 10, 20 and 60 m")
        if self.tap and self.tr is None:
            raise ValueError("`tap` aligns pixels to `tr`, which is not given; give `tr=DX DY` too")
        if self.tr is not None and min(self.tr) <= 0:
            raise ValueError(f"`tr` needs two positive numbers, got {self.tr[0]:g} {self.tr[1]:g}")
        wrong = [c for c in self.mask_classes if not 0 <= c < len(SCL_NAMES)]
        if wrong:
            raise ValueError(f"scene class {wrong[0]} is unknown; SCL has classes 0 to {len(SCL_NAMES) - 1}")
        refuse_empty(self.start, self.end, ("start", "end"))
        if self.bbox is not None and self.bbox[1] >= self.bbox[3]:
            raise ValueError(
                f"`bbox` has south {self.bbox[1]} and north {self.bbox[3]}; "
                "give west south east north with south < north"
            )
        if self.bbox is None and self.polygon is None and self.cells is None and self.grid_csv is None:
            raise ValueError("no area is given; give `bbox`, `polygon`, `cells`, or a `grid_csv` of the cells to make")
        if self.months is not None and not all(1 <= m <= 12 for m in self.months):
            raise ValueError(f"`months` are {self.months}; months run from 1 to 12")
        if self.items is not None and self.safe_dir is not None:
            raise ValueError("`items` and `safe_dir` are both given; give one source of products")
        return self

    def asset_keys(self) -> tuple[tuple[str, str], ...]:
        """Return each band and the key of the file to read it from, e.g. ``("B02", "B02_20m")``."""
        keys = []
        for band in self.bands:
            sizes = BAND_RESOLUTIONS[band]
            size = self.bands_res if self.bands_res in sizes else min(sizes)
            keys.append((band, f"{band}_{size}m"))
        return tuple(keys)

    def lattice(self, crs: str, *, metres: bool) -> Lattice:
        """Return the lattice of a build whose cells are in a CRS.

        Parameters
        ----------
        crs
            CRS of the cells.
        metres
            Whether its unit is a length rather than degrees.
        """
        from cube.sentinel2.lattice import Lattice  # noqa: PLC0415  (numpy; a command line needs none)

        step = self.bands_res if metres else DEFAULT_STEP
        dx, dy = self.tr if self.tr is not None else (step, step)
        corner = (0.0, 0.0) if self.tap or metres else _PREDECESSOR_CORNER
        return Lattice(crs, float(dx), float(dy), *corner)
