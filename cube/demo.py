"""``make demo``: both jobs end to end, offline, on small archives written here in the real formats."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

import cube
from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import Scan, SourceFile, group_scans
from cube.config import AbiConfig
from cube.geostationary.folder import AbiFolder
from cube.geostationary.run import run_abi
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.run import run_sentinel2
from cube.testing import DemoArchive, write_abi_archive, write_cloud_systems, write_sentinel2_archive
from stratacube.errors import UsageError
from stratacube.files import write_text

__all__ = ["run_demo", "write_demo_archive"]

START = datetime(2020, 7, 1, 16)
_SPLITS: dict[str, Any] = {
    "split_km": 500.0,
    "split_hours": 0.0,
    "split_gap_km": 20.0,
    "split_gap_hours": 0.1,
    "split_shares": [0.5, 0.5, 0.0],
}
"""The sector is a thousand kilometres wide, and seen for three hours: places alone split it."""
_MOST_TILES = 96
MISSING, TRUNCATED = (5, 6), (8, 13)
"""Scan and channel that the demo's archive lacks, and that it holds cut short: both on purpose."""


def _say(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def write_demo_archive(root: Path) -> None:
    """Write the synthetic archives into a folder: ABI files with their cloud-system masks, ``sentinel2`` below it."""
    _write_abi(root)
    _write_sentinel2(root / "sentinel2")


def _write_abi(root: Path) -> None:
    """Write ABI files and masks, unless they are there."""
    done = root / "complete"
    if done.exists():
        return
    _say(f"writing a synthetic GOES-16 archive (mesoscale sector M1, 16 bands, 3 hours) into {root}")
    write_abi_archive(
        root, platform="goes16", sector="M1", start=START, hours=3, missing=[MISSING], truncated=[TRUNCATED]
    )
    write_cloud_systems(root / "masks" / f"{START:%Y%m%d}_cloudsystems.nc", date=START.date())
    write_text(done, "This archive is synthetic: its pixels were computed, not observed.\n")


def _write_sentinel2(root: Path) -> DemoArchive:
    """Write SAFE products; the same bytes every time."""
    _say(f"writing a synthetic Sentinel-2 archive (two tiles, six datatakes, four bands) into {root}")
    return write_sentinel2_archive(root)


def run_demo(output: Path, archive: Path | None) -> int:
    """Find, plan, build and publish, open the result, and say where to look.

    Parameters
    ----------
    output
        Folder for everything.
    archive
        A folder of real ABI files; None for synthetic archives.

    Returns
    -------
    int
        0 if everything went as it should.
    """
    if archive is not None:
        return _real(output, archive)
    codes = [_abi(output), _sentinel2(output)]
    return 0 if set(codes) <= {0, 1} else max(codes)


def _abi(output: Path) -> int:
    """Random and convection tiles."""
    source = output / "archive"
    _write_abi(source)
    _say("The archive is SYNTHETIC: computed clouds in NOAA's file format, not observations.")
    _say("On purpose it lacks one channel of one scan and holds one truncated file;")
    _say("the builds below name the truncated file and end with exit code 1 where they needed it, as they should.\n")
    asked: dict[str, dict[str, Any]] = {
        "random": {"num_tiles": 24},
        "convection": {
            "stratification": "convection",
            "convection_regex": str(source / "masks" / "*.nc"),
            "systems": "all",
            "num_tiles": 16,
        },
    }
    codes = []
    for name, flags in asked.items():
        _say(f"--- {name} tiles")
        config = AbiConfig(
            output_dir=output / name,
            local_data_dir=source,
            satellite="goes16",
            domain="M1",
            tile_size=256,
            steps=7,
            step_minutes=10,
            **_SPLITS,
            **flags,
        )
        codes.append(_grown_until_split(config) if name == "random" else run_abi(config).code)
        _tell(output / name)
    return max(codes)


def _grown_until_split(config: AbiConfig) -> int:
    """Build, and append tiles until some lie on both sides of the gap."""
    code = run_abi(config).code
    while True:
        splits = pd.read_parquet(AbiFolder(config.output_dir).plan, columns=["split"])["split"].value_counts()
        if {"train", "val"} <= set(splits.index) or len(splits) == 0 or splits.sum() >= _MOST_TILES:
            _say("splits: " + ", ".join(f"{name} {tiles}" for name, tiles in splits.items()))
            return code
        config = config.model_copy(update={"num_tiles": int(splits.sum()) + 12})
        code = run_abi(config).code


def _sentinel2(output: Path) -> int:
    """Composites of a landscape; what is left out of them must be the product that is corrupt on purpose."""
    archive = _write_sentinel2(output / "archive-sentinel2")
    _say("The archive is SYNTHETIC: a computed landscape in ESA's SAFE format, not observations.")
    _say("It has processing baselines on both sides of 04.00, a scene in two processings, a tile in two halves,")
    _say(f"a cloud bank, and on purpose one JPEG2000 file that is cut short, in {archive.corrupt};")
    _say("the build below leaves that product out, names it and ends with exit code 1, as it should.\n")
    _say("--- median composites")
    folder = Sentinel2Folder(output / "composites")
    code = run_sentinel2(Sentinel2Config.load(None, {**archive.options(), "work_dir": folder.root})).code
    named = set(pd.read_csv(folder.errors)["product"]) if folder.errors.exists() else set()
    _tell_composites(folder)
    if named == {archive.corrupt}:
        return code
    _say(f"The build should have left out {archive.corrupt} and nothing else, but left out: {sorted(named)}")
    return 2


def _real(output: Path, archive: Path) -> int:
    """Cut tiles from the platform and sector that a folder has most files of."""
    scans = _first_view(archive)
    steps, minutes = _steps(scans)
    size = {"F": 512, "C": 512}.get(scans[0].sector, 256)
    channels = sorted({c for scan in scans for c in scan.files})
    _say(f"{archive}: {len(scans)} scans of {scans[0].platform} {scans[0].sector}, {len(channels)} bands\n")
    config = AbiConfig(
        output_dir=output / "real",
        local_data_dir=archive,
        satellite=scans[0].platform,
        domain=scans[0].sector,
        channels=channels,
        tile_size=size,
        num_tiles=16,
        steps=steps,
        step_minutes=minutes,
        tolerance_minutes=minutes / 2,
    )
    code = run_abi(config).code
    _tell(output / "real")
    return code


def _first_view(archive: Path) -> list[Scan]:
    """Scans of the platform and sector that the folder has most files of."""
    views: dict[tuple[str, str], list[SourceFile]] = defaultdict(list)
    for file in LocalArchive(archive).files(None, None, None, None):
        views[file.platform, file.sector].append(file)
    if not views:
        raise UsageError(f"{archive} holds no ABI L1b file; give a folder of files named OR_ABI-L1b-Rad*.nc")
    return group_scans(views[max(views, key=lambda view: len(views[view]))])


def _steps(scans: list[Scan]) -> tuple[int, int]:
    """Seven steps where the archive has them, else single scans."""
    starts = [scan.start for scan in scans]
    gaps = sorted(b - a for a, b in pairwise(starts))
    if len(starts) < 7 or gaps[len(gaps) // 2] > timedelta(minutes=30):
        return 1, 20
    return 7, max(1, round(gaps[len(gaps) // 2] / timedelta(minutes=1)))


def _tell_composites(folder: Sentinel2Folder) -> None:
    """Open what was built and say where its parts are."""
    composites = cube.open_composites(folder.root)
    mean = float(composites["B8A"].mean())
    _say(f"opened {folder.store}: {dict(composites.sizes)}; mean B8A reflectance {mean:.4g}")
    items = [json.loads(path.read_text()) for path in sorted(folder.root.glob("items/*.json"))]
    fullest = max(items, key=lambda item: float(item["properties"]["stratacube:valid_share"]))
    _say(f"picture  {folder.composites / fullest['properties']['stratacube:cell_id'] / 'preview.png'}")
    _say(f"catalog  {folder.catalog}")
    _say(f"report   {folder.page}")
    _say(f"errors   {folder.errors}\n")


def _tell(root: Path) -> None:
    """Open what was built and say where its parts are."""
    folder = AbiFolder(root)
    tiles = cube.open_tiles(root, "radiance")
    band = next(name for name in tiles.data_vars if str(name).startswith("C") and str(name)[1:].isdigit())
    mean = float(tiles[band].isel(tile=0).mean())
    _say(f"opened {folder.tiles}: {dict(tiles.sizes)}; mean {band} radiance of the first tile {mean:.4g}")
    _say(f"picture  {folder.previews / 'contact_sheet.png'}")
    _say(f"catalog  {folder.catalog}")
    _say(f"report   {folder.page}\n")
