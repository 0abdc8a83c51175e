"""Cloud systems of many days: time and memory. `make long` runs them."""

from __future__ import annotations

import logging
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
import pytest

from cube.strata.table import read_systems
from cube.testing.cloud_systems import LATITUDES, LONGITUDES, label_systems

FIRST = datetime(2020, 6, 1)
MEASURED = """
import resource, sys
from pathlib import Path
from cube.strata.table import read_systems
table, problems = read_systems(sys.argv[1])
assert not problems
table.write_metadata_csv(Path(sys.argv[2]))
table.write_lifetimes_csv(Path(sys.argv[2]))
used = resource.getrusage(resource.RUSAGE_SELF)
# Linux carries ru_maxrss over from the parent; the status file tells of this program alone.
peak = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
print(len(table), int(peak) / 1024, used.ru_utime + used.ru_stime)
"""


def write_days(folder: Path, days: int) -> None:
    """Masks of 72 x 667 x 1751, packed as netCDF-4 packs them by itself: chunks of 21 x 192 x 504, shuffled."""
    for number in range(days):
        day = FIRST + timedelta(days=number)
        labels = np.stack([label_systems(day + timedelta(minutes=20 * step)) for step in range(72)])
        with h5py.File(folder / f"{day:%Y%m%d}_cloudsystems.nc", "w") as out:
            out["lat"], out["lon"], out["time"] = LATITUDES, LONGITUDES, np.arange(72) / 3
            packing = {"chunks": (21, 192, 504), "compression": "gzip", "compression_opts": 4, "shuffle": True}
            out.create_dataset("DCS_number", data=labels.astype("f8"), **packing)


def measured(pattern: str, out: Path) -> tuple[int, float, float]:
    """Systems, peak memory in MB, and CPU seconds of one process that reads masks and writes their tables."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, pattern, str(out)], check=True, capture_output=True, text=True
    )
    systems, peak, seconds = done.stdout.split()
    return int(systems), float(peak), float(seconds)


@pytest.mark.long
def test_memory_does_not_grow_with_the_days(tmp_path: Path) -> None:
    """Of 4, 12 and 36 days, and the time of those 36; a year is ten times as much."""
    write_days(tmp_path, 36)
    found = {}
    for days in (4, 12, 36):
        few = tmp_path / f"{days}"
        few.mkdir()
        for number in range(days):
            name = f"{FIRST + timedelta(days=number):%Y%m%d}_cloudsystems.nc"
            (few / name).symlink_to(tmp_path / name)
        found[days] = measured(str(few / "*.nc"), tmp_path)
        logging.info("%d days: %d systems, peak %.0f MB, %.1f s of CPU", days, *found[days])
    systems, peaks, seconds = zip(*found.values(), strict=True)
    assert systems[2] > 2 * systems[1] > 2 * systems[0]
    assert max(peaks) < 1.1 * min(peaks)
    assert max(peaks) < 1000
    assert seconds[2] < 60


@pytest.mark.long
def test_a_year_of_slots_is_read_in_full(tmp_path: Path) -> None:
    """17,568 files of a small grid, of half an hour each: nothing is lost, and the table is that of the arrays."""
    times = [FIRST + timedelta(minutes=30 * i) for i in range(17_568)]
    for number, time in enumerate(times):
        labels = np.full((1, 8, 10), -998, "i4")
        labels[0, number % 7, number % 9] = 1 + number // 6
        with h5py.File(tmp_path / f"ToocanCloudMask_{time:%Y%m%d_%H%M}.nc", "w") as out:
            out["DCS_number"], out["latitude"], out["longitude"] = labels, np.arange(8.0), np.arange(290.0, 300.0)
            out["time"] = np.array([(time - datetime(1970, 1, 1)).total_seconds()])
            out["time"].attrs["units"] = "seconds since 1970-01-01"
    table, problems = read_systems(str(tmp_path))
    assert not problems
    assert len(table.times) == len(table.file) == 17_568
    assert table.file.count.tolist() == [6] * 2928
    assert set(table.lifetimes()["duration_min"]) == {180}
