"""Small Sentinel-2 archives with known pixels, and what a composite of them must be."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cube.testing import SafeSpec, write_safe

EPSG, ULX, ULY, SIDE = 32606, 400000, 7600000, 240
MASKED = (0, 1, 2, 3, 7, 8, 9, 10, 11)
FIRST = datetime(2021, 6, 1, 21, 30, 1)


@dataclass
class Scene:
    """One product: reflectance times 10000 as it should come out, scene classes, and how it is written."""

    values: dict[str, npt.NDArray[np.int64]]
    scl: npt.NDArray[np.uint8]
    when: datetime
    tile: str = "06WUA"
    ulx: int = ULX
    baseline: str = "05.10"
    strip: int = 3
    zero: npt.NDArray[np.bool_] | None = None
    spec: SafeSpec = field(init=False)

    def write(self, root: Path, block: int = 64) -> Path:
        """Write the SAFE folder."""
        offset = 0 if self.baseline < "04.00" else 1000
        images: dict[str, npt.NDArray[np.integer]] = {"SCL_20m": self.scl}
        for band, values in self.values.items():
            counts = np.clip(values + offset, 1, 65535).astype("u2")
            if self.zero is not None:
                counts[self.zero] = 0
            images[f"{band}_20m"] = counts
        self.spec = SafeSpec(
            tile=self.tile,
            epsg=EPSG,
            ulx=self.ulx,
            uly=ULY,
            datatake_start=self.when,
            datastrip_start=self.when + timedelta(seconds=self.strip),
            processing_time=datetime(2023, 1, 1) + timedelta(seconds=self.strip),
            baseline=self.baseline,
            images=images,
        )
        return write_safe(self.spec, root, block=block)

    def truth(self, band: str) -> npt.NDArray[np.float32]:
        """Return what an observer sees: NaN where masked or without data."""
        seen = ~np.isin(self.scl, MASKED)
        if self.zero is not None:
            seen &= ~self.zero
        return np.where(seen, self.values[band], np.nan).astype("f4")


def make_scene(seed: int, when: datetime, *, bands: tuple[str, ...] = ("B02", "B03"), **options: object) -> Scene:
    """Return a scene with a cloud, some negative reflectances and some snow."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    scl = np.full((SIDE, SIDE), 4, "u1")
    row, col = rng.integers(0, SIDE, 2)
    scl[np.hypot(y - row, x - col) < SIDE / 5] = 9
    scl[rng.random(scl.shape) < 0.02] = 11
    baseline = options.get("baseline", "05.10")
    low = 1 if str(baseline) < "04.00" else -150
    values = {b: rng.integers(low, 4000, scl.shape) for b in bands}
    return Scene(values, scl, when, **options)  # type: ignore[arg-type]


def small_archive(root: Path) -> list[Scene]:
    """Write two overlapping tiles over six datatakes, and return the scenes that count."""
    scenes = []
    for number in range(3):
        when = FIRST + timedelta(days=5 * number)
        baseline = ("02.12", "05.10", "03.01")[number]
        scenes.append(make_scene(number, when, baseline=baseline))
        scenes.append(make_scene(number + 50, when, baseline=baseline, tile="06WVA", ulx=ULX + 160 * 20))
    # one tile cut in two datastrips, overlapping in some rows
    when = FIRST + timedelta(days=15)
    north, south = make_scene(10, when), make_scene(11, when, strip=9)
    north.zero, south.zero = np.zeros((SIDE, SIDE), bool), np.zeros((SIDE, SIDE), bool)
    north.scl[130:], north.zero[130:] = 0, True
    south.scl[:100], south.zero[:100] = 0, True
    scenes += [north, south]
    # a cloud bank over all but a corner
    bank = make_scene(12, FIRST + timedelta(days=20))
    bank.scl[:] = 9
    bank.scl[:20, :20] = 4
    scenes.append(bank)
    for scene in scenes:
        scene.write(root)
    return scenes


def expected_stack(scenes: list[Scene], band: str, width: int, height: int = SIDE) -> npt.NDArray[np.float32]:
    """Return one layer a datatake over pixels eastward of the western tile's corner: the truth, by numpy alone."""
    layers = []
    for when in sorted({s.when for s in scenes}):
        layer = np.full((height, width), np.nan, "f4")
        # later processing counts first, then the name
        members = sorted((s for s in scenes if s.when == when), key=lambda s: (-s.strip, s.tile))
        for scene in members:
            at = (scene.ulx - ULX) // 20
            stop = min(width, at + SIDE)
            part, truth = layer[:SIDE, at:stop], scene.truth(band)[:height, : stop - at]
            np.copyto(part, truth, where=np.isnan(part))
        layers.append(layer)
    return np.stack(layers)
