"""What a Sentinel-2 build is: the predecessor's flags, and those that it lacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from catalog.sentinel2.names import CDSE_STAC
from cube.engine_choice import Engine
from cube.job.codec import BEFORE, CodecName
from cube.job.parts import TOLD, Shard
from cube.registry import REDUCERS
from cube.sentinel2.help import EXAMPLES, GROUPS
from cube.sentinel2.periods import Period, periods_of, refuse_odd_periods
from cube.sentinel2.split_settings import CellSplitSettings
from cube.sentinel2.vocabulary import (
    BAND_RESOLUTIONS,
    LAYERS,
    MASK_CLASSES,
    SCL_NAMES,
    band_name,
    reducer_name,
    refuse_unknown_band,
)
from stratacube.addresses import checked_address
from stratacube.own import OWN_ONLY
from stratacube.settings import RUN_ONLY, End, LocalPath, Settings, Start, formerly, refuse_empty

if TYPE_CHECKING:
    from cube.sentinel2.lattice import Lattice

__all__ = ["BAND_RESOLUTIONS", "DEFAULT_STEP", "AdoptConfig", "GridConfig", "Sentinel2Config"]

DEFAULT_STEP = 0.000179663056824
"""The predecessor's pixel in degrees: 20 m along a meridian."""

PRESETS = {"s2sr": {"resampling": "nearest", "negatives": "zero", "origin": "cell"}}
"""Parameters that a name stands for."""

_PREDECESSOR_CORNER = (-180.0, 90.0)


def _band(value: Any) -> Any:
    return band_name(value) if isinstance(value, str) else value


Band = Annotated[str, BeforeValidator(_band)]


class GridConfig(Settings):
    """A grid of cells to make."""

    output: LocalPath = Field(description="file to write: .csv with the predecessor's columns, or .geojson")
    cell_size: float | None = Field(
        None, gt=0, description="side of a cell in units of the CRS (default: 0.25 degrees; of a preset 20000 m)"
    )
    bounds: list[float] | None = Field(
        None,
        min_length=4,
        max_length=4,
        description="xmin ymin xmax ymax in units of the CRS (default: -180 60 180 90)",
    )
    crs: str | None = Field(None, description="CRS of the cells (default: EPSG:4326)")
    preset: Literal["arctic", "arctic-laea", "utm"] | None = Field(
        None,
        description="a grid in metres: polar stereographic (EPSG:3413), equal-area about the pole (EPSG:3571 to 3576), "
        "or the UTM zone of `bbox`",
    )
    bbox: list[float] | None = Field(
        None,
        min_length=4,
        max_length=4,
        description="of a preset: west south east north, degrees; west > east crosses 180 (default: north of 60 N)",
    )

    @model_validator(mode="after")
    def _agree(self) -> GridConfig:
        given = [name for name in ("bounds", "crs") if getattr(self, name) is not None]
        if self.preset is not None and given:
            raise ValueError(f"`preset` {self.preset} tells `{given[0]}` itself; leave one out")
        if self.preset is None and self.bbox is not None:
            raise ValueError("`bbox` is of a preset, in degrees; give `preset` too, or `bounds` in units of the CRS")
        return self


class AdoptConfig(Settings):
    """A work dir of S2SR to take over."""

    old: LocalPath = Field(description="work dir of S2SR; it is only read")
    work_dir: LocalPath = Field(description="folder of the build that goes on from it")
    imagery_dir: LocalPath | None = Field(
        None, description="folder of SAFE products to link into (default: imagery_raw in `work_dir`)"
    )
    items: LocalPath | None = Field(
        None, description="saved search that lists sizes and digests (default: that of the build in `work_dir`)"
    )
    workers: int | None = Field(None, ge=1, description="files checked at once (default: one per core)")


class Sentinel2Config(CellSplitSettings):
    """A build of Sentinel-2 composites."""

    GROUPS: ClassVar[Mapping[str, Sequence[str]]] = GROUPS
    EXAMPLES: ClassVar[Sequence[tuple[str, str]]] = EXAMPLES

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
    periods: Annotated[tuple[Period, ...] | None, BeforeValidator(periods_of)] = Field(
        None,
        description="CSV of period,start,end: a composite of each, instead of one; `start` and `end` are then theirs",
        json_schema_extra=formerly(None),
    )
    bands: list[Band] = Field(
        ["B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B11", "B12"],
        description="bands, such as B04, b8a or nir",
        min_length=1,
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
    negatives: Literal["keep", "zero"] = Field(
        "keep",
        description="reflectances below 0: kept, or set to 0, which makes medians of dark ground too bright",
        json_schema_extra=formerly("keep"),
    )
    origin: Literal["lattice", "cell"] = Field(
        "lattice",
        description="where pixels are counted from: one lattice for all cells, or each cell's north-western corner",
        json_schema_extra=formerly("lattice"),
    )
    preset: Literal["s2sr"] | None = Field(
        None,
        description="s2sr, to carry on a series of S2SR's: resampling nearest, negatives zero, origin cell",
        json_schema_extra=formerly(None),
    )
    reducer: str = Field(
        "median",
        description=f"{', '.join(n for n in REDUCERS.names() if n not in LAYERS)}, or a percentile such as p25",
    )
    also: list[str] = Field(
        [],
        description=f"layers to write beside the composite: {', '.join(LAYERS)} (observations by month)",
        json_schema_extra=formerly([]),
    )
    values: Literal["dn", "reflectance", "int16"] = Field(
        "dn", description="stored as harmonised DN in float32, reflectance in float32, or harmonised DN in int16"
    )
    products: list[Literal["cog", "zarr"]] = Field(["cog"], description="what to write", min_length=1)
    zarr_stores: Literal["one", "cell"] = Field(
        "one",
        description="what `products=zarr` writes: one store over the lattice, or one a cell beside its GeoTIFFs",
        json_schema_extra=formerly("one"),
    )
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
    imagery_dir: LocalPath | None = Field(
        None,
        description="folder of SAFE products to look into and fetch to, which any number of builds may share "
        "(default: imagery_raw in `work_dir`)",
        json_schema_extra=RUN_ONLY,
    )
    connections: int = Field(
        3, ge=1, le=4, description="downloads at once, shared by the whole run", json_schema_extra=RUN_ONLY
    )
    cdse_token_url: str | None = Field(
        None, description="where to log in instead of at CDSE; gets the password", json_schema_extra=OWN_ONLY
    )
    cdse_hosts: list[str] = Field(
        [], description="hosts, HOST or HOST:PORT, that get the token besides CDSE's", json_schema_extra=OWN_ONLY
    )
    cdse_s3_endpoint: str | None = Field(
        None, description="server of `access=s3` instead of CDSE's; gets signatures", json_schema_extra=OWN_ONLY
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

    @model_validator(mode="before")
    @classmethod
    def _span(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Take the period of all ``periods`` together, where none is given."""
        periods = values.get("periods") and periods_of(values["periods"])
        if not periods or not all(isinstance(p, Period) for p in periods):
            return values
        first, last = min(p.start for p in periods), max(p.end for p in periods)
        return {"start": first, "end": last, **values, "periods": periods}

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, values: Any) -> Any:
        """What a preset stands for; what contradicts it would be marked as what it is not."""
        if not isinstance(values, Mapping) or values.get("preset") not in PRESETS:
            return values
        name, meant = values["preset"], PRESETS[values["preset"]]
        for key, value in meant.items():
            if values.get(key, value) != value:
                raise ValueError(f"`preset` {name} means `{key}` {value}, and {values[key]} is given; leave one out")
        return {**values, **meant}

    @field_validator("reducer")
    @classmethod
    def _short(cls, name: str) -> str:
        """Names files: ``percentile:25`` is ``p25`` there."""
        return reducer_name(name)

    @model_validator(mode="after")
    def _agree(self) -> Sentinel2Config:
        for name in ("stac_url", "cdse_token_url", "cdse_s3_endpoint"):
            checked_address(getattr(self, name) or CDSE_STAC, name)  # here, where what is refused is not repeated
        refuse_unknown_band(self.bands)
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
        if self.periods is not None:
            refuse_odd_periods(self.periods, self.start, self.end)
        if self.bbox is not None and self.bbox[1] >= self.bbox[3]:
            raise ValueError(
                f"`bbox` has south {self.bbox[1]} and north {self.bbox[3]}; "
                "give west south east north with south < north"
            )
        if self.bbox is None and self.polygon is None and self.cells is None and self.grid_csv is None:
            raise ValueError("no area is given; give `bbox`, `polygon`, `cells`, or a `grid_csv` of the cells to make")
        if self.months is not None and not all(1 <= m <= 12 for m in self.months):
            raise ValueError(f"`months` are {self.months}; months run from 1 to 12")
        if self.origin == "cell" and self.one_store:
            raise ValueError(
                "with `origin` cell each cell has pixels of its own, which are no one array; give `zarr_stores` cell"
            )
        if self.items is not None and self.safe_dir is not None:
            raise ValueError("`items` and `safe_dir` are both given; give one source of products")
        return self

    @model_validator(mode="after")
    def _say_something(self) -> Sentinel2Config:
        """Refuse what would change nothing."""
        if self.zarr_stores == "cell" and "zarr" not in self.products:
            raise ValueError(
                f"`zarr_stores` cell says how `products` zarr is written, and `products` are "
                f"{' '.join(self.products)}; add zarr to them, or leave `zarr_stores` out"
            )
        for name, form in (("codec", "zarr"), ("compress", "cog")):
            if form not in self.products and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"`{name}` {getattr(self, name)} says how `products` {form} is compressed, and `products` are "
                    f"{' '.join(self.products)}; add {form} to them, or leave `{name}` out"
                )
        if len(set(self.also)) != len(self.also):
            raise ValueError(f"`also` {' '.join(self.also)} name one twice; name each once")
        return self

    @property
    def one_store(self) -> bool:
        """Whether a Zarr store over all cells is written."""
        return "zarr" in self.products and self.zarr_stores == "one"

    @property
    def cell_stores(self) -> bool:
        """Whether each cell has a Zarr store of its own."""
        return "zarr" in self.products and self.zarr_stores == "cell"

    def months_seen(self) -> tuple[int, ...]:
        """Return the months of the year that are counted, in order; whatever the period, for that may grow."""
        return tuple(sorted(set(self.months or range(1, 13))))

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
