"""Make the folders of version 0.1.0 that the tests beside this file open, finish and go on from.

``python tests/old/make.py CHECKOUT`` takes a checkout of commit f44231c, runs its code and packs what it leaves into
``abi.tar.xz``, ``sentinel2.tar.xz`` and ``training.tar.xz``. The libraries are those of the Python that runs this.

A build's configuration holds absolute paths, and its digest stands in file names, stores and GeoTIFFs. So that the
folders may be laid down anywhere as they were made, bit by bit, every path below is given as ``/proc/self/cwd/...``:
on Linux that is the folder that a command is run in, whichever it is. Source files have whole seconds as their times,
which a tar keeps exactly: by them cached indexes are known.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import h5py

HERE = "/proc/self/cwd"
"""The folder that holds ``abi``, ``sentinel2`` and ``training``."""
SAME = [f"--local-data-dir={HERE}/abi/archive", "--domain=M1", "--channels", "1", "2", "13", "--workers=1"]
RANDOM = [*SAME, "--tile-size=32", "--steps=2", "--step-minutes=10", "--num-tiles=8", "--shard-mb=0.008"]
CONVECTION = [
    *(*SAME, "--tile-size=32", "--steps=3", "--step-minutes=20", "--shard-mb=0.02"),
    *("--stratification=convection", f"--convection-regex={HERE}/abi/masks/*.nc", "--systems=all"),
]
COMPOSITES = [
    *(f"--safe-dir={HERE}/sentinel2/archive", f"--grid-csv={HERE}/sentinel2/grid.csv", "--workers=1"),
    *("--start=2021-06-01", "--end=2021-06-30", "--bands", "B02", "B03", "--tr", "20", "20", "--tap"),
    *("--products", "cog", "zarr"),
]
COMMANDS = {
    "random": ["abi", f"--output-dir={HERE}/abi/random", *RANDOM],
    "killed": ["abi", f"--output-dir={HERE}/abi/killed", *RANDOM],
    "planned": ["abi", f"--output-dir={HERE}/abi/planned", *RANDOM],
    "partial": [
        *("abi", f"--output-dir={HERE}/abi/partial", *RANDOM),
        f"--local-data-dir={HERE}/abi/damaged",  # the last of two counts
    ],
    "convection": ["abi", f"--output-dir={HERE}/abi/convection", *CONVECTION],
    "composites": ["sentinel2", f"--work-dir={HERE}/sentinel2/composites", *COMPOSITES],
    "composites-killed": ["sentinel2", f"--work-dir={HERE}/sentinel2/killed", *COMPOSITES],
}
"""Arguments of ``python -m cube.build`` by the folder they make."""
RUN = f"""
name: old
output_dir: {HERE}/training/run
model:
  kind: temporal
  size: nano
  bands: [C01, C02, C13]
  frames: 2
  image_size: 16
  patch_size: 4
  embed_dim: 32
  depth: 1
  heads: 2
  decoder_dim: 32
  decoder_depth: 1
  decoder_heads: 2
data:
  source: tiles
  stores: [{{path: {HERE}/abi/random}}]
  where: tile < 6
  validation_where: tile >= 6
  statistics: {HERE}/training/statistics.json
  batch_size: 2
  workers: 0
optimizer: {{lr: 0.001, steps: 4, warmup_steps: 1, clip: 1.0, accumulate: 1, ema: 0.9}}
run: {{accelerator: cpu, devices: 1}}
logs: {{every_steps: 1}}
checkpoints: {{every_steps: 1, keep_last: 1, keep_best: 0}}
"""
DAMAGED = "noaa-goes16/ABI-L1b-RadM/2020/183/16/OR_ABI-L1b-RadM1-M6C02_G16_s202018316200*"
"""The file of which the only chunk of pixels is damaged: channel 2 of the scan of 16:20."""
LIBRARIES = ("h5py", "numcodecs", "numpy", "rasterio", "torch", "zarr")
"""Those that decide about bits; their versions are kept beside the digests."""

ARCHIVES = """
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np

from cube.abi.synthetic import write_archive
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.synthetic import SafeSpec, write_safe
from cube.strata.synthetic_masks import write_cloud_systems

# Over a system that grows all the time: five scans, so that there is one run of three at 20 minutes for any event.
centre = -75.76, -1.18
write_archive(
    "abi/archive",
    start=datetime(2020, 7, 1, 16),
    hours=40 / 60,
    channels=(1, 2, 13),
    centre=centre,
    shape_2km=(40, 40),
    workers=1,
)
write_cloud_systems(
    "abi/masks",
    date=date(2020, 7, 1),
    latitudes=np.round(centre[1] - 3 + 0.25 * np.arange(25), 2),
    longitudes=np.round(centre[0] + 360 - 3 + 0.25 * np.arange(25), 2),
    steps=range(46, 54),
)

side, ulx, uly, epsg = 100, 400000, 7600000, 32606
y, x = np.mgrid[:side, :side]
rng = np.random.default_rng(1)
for number, baseline in enumerate(("03.01", "05.10", "05.10")):
    offset = 0 if baseline < "04.00" else 1000
    scl = np.full((side, side), 4, "u1")
    scl[np.hypot(y - 30 * number - 20, x - 35 * number - 10) < 22] = 9
    images = {"SCL_20m": scl}
    for band, base in (("B02", 300), ("B03", 700)):
        values = base + 80 * np.sin(x / 17 + y / 29) + rng.integers(-15, 15, scl.shape)
        images[band + "_20m"] = (np.rint(values) + offset).astype("u2")
    spec = SafeSpec(
        tile="06WVC",
        epsg=epsg,
        ulx=ulx,
        uly=uly,
        datatake_start=datetime(2021, 6, 1, 21, 30, 1) + timedelta(days=5 * number),
        processing_time=datetime(2023, 1, 1),
        baseline=baseline,
        images=images,
    )
    write_safe(spec, Path("sentinel2/archive"), block=64)
write_grid(make_grid(1000, (ulx, uly - 2000, ulx + 2000, uly), f"EPSG:{epsg}"), Path("sentinel2/grid.csv"))
"""

BUILD = """
import os, signal, sys

from cube.build import main
from cube.job.ledger import Ledger

record = Ledger.record

def record_and_die(self, entry):
    record(self, entry)
    if entry.key.startswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1]:
    Ledger.record = record_and_die
sys.exit(main(sys.argv[2:]))
"""
"""A build that is killed the moment it has written the first line of such a key to its ledger; of none if "" ."""

NUMBERS = """
import numpy as np

import cube
from loaders import tile_loader

found = {}
for name, quantity in (
    *(("random", quantity) for quantity in ("counts", "radiance", "reflectance", "brightness_temperature")),
    ("partial", "radiance"),
    ("convection", "counts"),
):
    tiles = cube.open_tiles(f"abi/{name}", quantity)
    kept = tiles.variables if quantity == "counts" else [n for n in tiles.data_vars if n in ("C01", "C02", "C13")]
    found |= {f"{name}/{quantity}/{v}": tiles[v].values for v in kept}
composites = cube.open_composites("sentinel2/composites")
found |= {f"composites/{v}": composites[v].values for v in ("B02", "B03", "count", "x", "y")}
batches = list(tile_loader("abi/random", 3, seed=5, quantity="mixed", workers=0, tail="even"))
for at, batch in enumerate(batches):
    found |= {f"loader/{at}/{k}": np.asarray(v) for k, v in (
        ("pixels", batch.pixels), ("valid", batch.valid), ("time", batch.meta["time"]), ("tile", batch.meta["tile"]),
    )}
np.savez("numbers.npz", **found)
"""


def main(checkout: Path, target: Path) -> None:
    """Make everything in a scratch folder and pack it."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        maker = _Maker(checkout.resolve(), work)
        maker.make_all()
        for name in ("abi", "sentinel2", "training"):
            _pack(work / name, target / f"{name}.tar.xz")


class _Maker:
    def __init__(self, checkout: Path, work: Path) -> None:
        self.checkout, self.work = checkout, work

    def python(self, *arguments: str, code: int = 0) -> None:
        """Run the checkout's code in the scratch folder."""
        environment = {**os.environ, "PYTHONPATH": str(self.checkout), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([sys.executable, "-P", *arguments], cwd=self.work, env=environment, check=False)
        if done.returncode != code:
            raise SystemExit(f"{arguments} ended with {done.returncode}, not {code}")

    def build(self, name: str, *flags: str, dies_at: str = "", code: int = 0) -> None:
        self.python("-c", BUILD, dies_at, *COMMANDS[name], *flags, code=-9 if dies_at else code)

    def make_all(self) -> None:
        work = self.work
        self.python("-c", ARCHIVES)
        shutil.copytree(work / "abi/archive", work / "abi/damaged")
        (damaged,) = (work / "abi/damaged").glob(DAMAGED)
        with h5py.File(damaged) as file:
            chunk = file["Rad"].id.get_chunk_info(0)
        with damaged.open("r+b") as file:
            file.seek(chunk.byte_offset + chunk.size // 2)
            file.write(bytes(64))
        for path in work.rglob("*"):
            if path.is_file():
                os.utime(path, (1_700_000_000, 1_700_000_000))

        self.build("random")
        self.build("killed", dies_at="shard-")
        self.build("planned", "--plan-only")
        self.build("partial", code=1)
        self.build("convection")
        self.build("composites")
        self.build("composites-killed", dies_at="cell ")
        self.python("-c", NUMBERS)
        (work / "numbers.npz").rename(work / "abi/numbers.npz")
        self.train()
        mended = self.mended()
        self.note("abi", "random/tiles.zarr", "convection/tiles.zarr", **{"partial/tiles.zarr": mended})
        self.note("sentinel2", "composites/composites.zarr", "composites/composites")

    def train(self) -> None:
        """Keep the rows of a whole run, and the checkpoint of one that was stopped after two steps."""
        folder = self.work / "training"
        folder.mkdir()
        (folder / "config.yaml").write_text(RUN.lstrip())
        store = f"{HERE}/abi/random"
        self.python("-m", "loaders.stats", store, "--by", "stratum", f"--output={HERE}/training/statistics.json")
        (folder / "statistics.png").unlink()
        stop = "from training.config import load_config; from training.trainer import Trainer; import sys;"
        stop += "Trainer(load_config('training/config.yaml')).fit(stop_at=int(sys.argv[1]))"
        self.python("-c", stop, "4")
        (folder / "run").rename(folder / "whole")
        self.python("-c", stop, "2")
        for path in (folder / "whole").iterdir():
            if path.name != "metrics.jsonl":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def mended(self) -> dict[str, str]:
        """Finish the partial build after mending its archive, and then put both back as they were."""
        abi, kept = self.work / "abi", self.work / "kept"
        for name in ("partial", "damaged"):
            shutil.copytree(abi / name, kept / name)
        shutil.copytree(abi / "archive", abi / "damaged", dirs_exist_ok=True)
        self.build("partial")
        made = _digests(abi / "partial/tiles.zarr")
        for name in ("partial", "damaged"):
            shutil.rmtree(abi / name)
            (kept / name).rename(abi / name)
        return made

    def note(self, part: str, *folders: str, **more: dict[str, str]) -> None:
        """Write down what was made of the whole, and the versions of the libraries that made it."""
        made: dict[str, dict[str, str]] = {"versions": {name: version(name) for name in LIBRARIES}}
        made |= {folder: _digests(self.work / part / folder) for folder in folders}
        (self.work / part / "made.json").write_text(json.dumps(made | more, indent=1))


def _digests(folder: Path) -> dict[str, str]:
    """Digests of all files below a folder that hold pixels."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "zarr.json")
    return {str(p.relative_to(folder)): sha256(p.read_bytes()).hexdigest() for p in files}


def _pack(folder: Path, target: Path) -> None:
    """Write a tar that is the same whoever makes it."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = int(member.mtime)
        return member

    with tarfile.open(target, "w:xz", preset=9) as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, path.relative_to(folder.parent), recursive=False, filter=plain)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(__file__).parent)
