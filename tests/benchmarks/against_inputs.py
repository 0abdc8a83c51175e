"""What both sides of a comparison are given: archives, a tile store, and the commands that are timed on them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tests.benchmarks.bench_sentinel2 import BANDS, CELLS, SIDE, START
from tests.benchmarks.bench_sentinel2 import _write as write_scenes
from tests.benchmarks.table import CHECKOUT

__all__ = ["Inputs", "help_of"]

Command = Callable[..., None]
CHANNELS = tuple(c for c in range(1, 17) if c != 2)
"""Of both real scans: one of them lacks C02."""
SHARD_MB = 0.2
"""Small, so that 64 small tiles are four tasks."""
COPIES = 3
"""Names that each file of the archive gets, so that indexing all of them takes long enough to be timed."""
EXETER = (460000, 5623000, 400)
"""North-western corner (UTM 30N) and side in pixels of 20 m of a square around the real Sentinel-2 samples."""
EXETER_CELLS = (-3.555, 50.69, -3.465, 50.75)
"""Two rows of three cells of 0.03 degrees on them."""
SCENES = 2


def samples() -> Path | None:
    """Folder of real samples, where the tests look for it; None if they are not here."""
    folders = (os.environ.get("STRATACUBE_DATA"), CHECKOUT.parent / "shared" / "data")
    needed = ("abi", "sentinel2/exeter_20m_2024")
    return next((Path(f) for f in folders if f and all((Path(f) / name).is_dir() for name in needed)), None)


def help_of(text: str) -> list[str]:
    """Commands that ``python -m cube.build --help`` names: argparse indents them by four."""
    return re.findall(r"^ {4}([a-z][a-z0-9-]*)", text, re.MULTILINE)


@dataclass(frozen=True)
class Inputs:
    """Inputs that are there."""

    folder: Path
    archive: Path
    """ABI files: two scans of one mesoscale sector on other days, of 15 channels and 1000 x 1000 pixels of 1 km."""
    period: tuple[str, str]
    real: bool

    MANY: ClassVar[int] = 64

    @classmethod
    def prepare(cls, folder: Path, old: Command) -> Inputs:
        """Make what is not there from an earlier run.

        Parameters
        ----------
        folder
            Where, of one old commit.
        old
            Runs a command of ``cube.build`` of the old code.
        """
        data = samples()
        folder = folder / ("real" if data else "synthetic")
        if data:
            inputs = cls(folder, data / "abi", ("2019-10-01", "2019-12-31"), True)
        else:
            inputs = cls(folder, folder / "archive", ("2020-07-01", "2020-07-04"), False)
        whole = folder / "whole"
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            inputs._make(data, old)
            whole.touch()
        return inputs

    def _make(self, data: Path | None, old: Command) -> None:
        if data is None:
            _write_scans(self.archive)
        else:
            _write_exeter(data / "sentinel2" / "exeter_20m_2024", self.folder / "exeter")
            bounds = ("--bounds", *EXETER_CELLS)
            old("make-grid", "--output", self.folder / "exeter.csv", "--cell-size", 0.03, *bounds)
        write_scenes(self.folder / "scenes", SCENES, 1, SIDE)
        for copy in range(COPIES):
            folder = self.folder / "copies" / str(copy)
            folder.mkdir(parents=True)
            for path in self.archive.rglob("*ABI-L1b-*.nc"):
                (folder / path.name).symlink_to(path)
        # A tile of 240 is 340 from corner to corner: tiles so far apart share no pixel, wherever they lie.
        old(*self._tiles(self.folder / "loader", 10, 240, spacing=480))

    @property
    def told(self) -> str:
        """What the pixels are."""
        tiles = "two real mesoscale scans" if self.real else "two synthetic mesoscale scans (the samples are not here)"
        return (
            f"Tiles are of {tiles} of {len(CHANNELS)} bands: one of 512 x 512, {self.MANY} of 80 x 80, for the loader "
            "10 of 240 x 240, of one step each; those of one build share no pixel."
        )

    def _tiles(self, out: Path, tiles: int, size: int, spacing: int = 0, seed: int = 1, workers: int = 1) -> list[str]:
        given: list[Any] = ["abi", "--output-dir", out, "--local-data-dir", self.archive, "--satellite", "goes17"]
        given += ["--domain", "M1", "--channels", *CHANNELS, "--start-dt", self.period[0], "--end-dt", self.period[1]]
        given += ["--steps", 1, "--num-tiles", tiles, "--tile-size", size, "--min-spacing-km", spacing]
        given += ["--seed", seed, "--workers", workers, "--shard-mb", SHARD_MB]
        return [str(value) for value in given]

    def many(self, out: Path, workers: int = 1) -> list[str]:
        """The command that builds 64 tiles.

        80 pixels are 113 from corner to corner, and under 1.4 km wide where these sectors lie.
        """
        return self._tiles(out / "many", self.MANY, 80, spacing=160, workers=workers)

    def tile_runs(self, out: Path, *, screens: bool) -> list[tuple[str, Path, list[str]]]:
        """One tile first, then two of other places, the same two without a look at their scans, then 64.

        Parameters
        ----------
        out
            Where they go.
        screens
            Whether the code knows ``--screen``: what looks at no scans has nothing to leave out.
        """
        ones = [self._tiles(out / f"one{seed}", 1, 512, seed=seed) for seed in (1, 2, 3)]
        rows = ("start", "one", "one")
        runs = [(row, out / f"one{i}", command) for i, (row, command) in enumerate(zip(rows, ones, strict=True), 1)]
        unscreened = ["--screen", "off"] * screens
        runs += [("cut", out / f"cut{seed}", self._tiles(out / f"cut{seed}", 1, 512, seed=seed)) for seed in (2, 3)]
        runs = [(row, to, [*command, *unscreened * (row == "cut")]) for row, to, command in runs]
        return [*runs, ("many", out / "many", self.many(out))]

    def index(self, out: Path) -> dict[str, Any]:
        """Arguments of the timed function."""
        copies = [self.folder / "copies" / str(copy) for copy in range(COPIES)]
        return {"archive": self.archive, "copies": copies, "cache": out / "index"}

    @property
    def loader(self) -> dict[str, Any]:
        """Arguments of the timed function."""
        return {"store": self.folder / "loader" / "tiles.zarr", "batch": 2, "epochs": 10}

    def _cells(self, scenes: str, out: Path, bands: tuple[str, ...], *area: Any) -> list[str]:
        given = ["sentinel2", "--work-dir", out, "--safe-dir", self.folder / scenes, "--bands", *bands, "--workers", 1]
        return [str(value) for value in (*given, *area)]

    @property
    def cell_rows(self) -> dict[str, str]:
        """What is timed of composites."""
        large = f"6 cells of 0.25 degrees, {SCENES} synthetic scenes of one band, work alone"
        real = "6 cells of 0.03 degrees, five real dates of 3 bands, work alone"
        return ({"real": real} if self.real else {}) | {"large": large}

    def cell_runs(self, out: Path) -> list[tuple[str | None, Path, list[str]]]:
        """One cell that warms up, then six of each kind."""
        summer = ("--start", f"{START:%Y-%m-%d}", "--end", f"{START.year}-08-31")
        large, warm = (
            self._cells("scenes", out / name, BANDS[:1], "--cells", *cells, *summer)
            for name, cells in (("large", CELLS), ("warm", CELLS[:1]))
        )
        runs: list[tuple[str | None, Path, list[str]]] = [(None, out / "warm", warm), ("large", out / "large", large)]
        if self.real:
            summer = ("--start", "2024-06-01", "--end", "2024-09-01")
            grid = ("--grid-csv", self.folder / "exeter.csv")
            real = self._cells("exeter", out / "real", BANDS[:3], *grid, *summer)
            runs.append(("real", out / "real", real))
        return runs


def _write_scans(archive: Path) -> None:
    """Stand-ins for the two real scans."""
    from cube.testing import write_abi_file

    for day in (1, 3):
        for channel in CHANNELS:
            write_abi_file(archive, platform="goes17", channel=channel, start=datetime(2020, 7, day, 20), noise=1)


def _write_exeter(source: Path, folder: Path) -> None:
    """The real dates, each on one grid of 20 m as its SAFE product has it."""
    import rasterio
    from rasterio.warp import Resampling, reproject

    from cube.testing import SafeSpec, write_safe

    left, top, side = EXETER
    transform = rasterio.Affine(20, 0, left, 0, -20, top)
    for path in sorted(source.glob("*.tif")):
        images = {}
        with rasterio.open(path) as file:
            for index, name in enumerate(file.descriptions, 1):
                image = np.zeros((side, side), "u1" if name == "SCL" else "u2")
                near = Resampling.nearest
                reproject(
                    rasterio.band(file, index), image, dst_crs="EPSG:32630", dst_transform=transform, resampling=near
                )
                images[f"{name}_20m"] = image
        when = datetime.strptime(path.stem[4:23], "%Y-%m-%d_%H-%M-%S")
        spec = SafeSpec(
            tile="30UVB", epsg=32630, ulx=left, uly=top, datatake_start=when, processing_time=datetime(2024, 12, 1),
            images=images,
        )  # fmt: skip
        write_safe(spec, folder)
