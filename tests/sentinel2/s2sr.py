"""A work dir as S2SR leaves it: its folders, lists and logs, by its own code's names and columns."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.sentinel2.scenery import Scene

GRID = ("tile_id_rc", "tile_id_geo", "xmin", "ymin", "xmax", "ymax", "row", "col")
MANIFEST = ("Id", "Name", "ContentDate", "queried_utc")
SCENES = (
    *("scene_id", "product_name", "epsg", "xmin", "ymin", "xmax", "ymax", "xres", "yres", "ncols", "nrows"),
    *("tile_xml_path", "added_utc"),
)
PHASE1, PHASE2 = ("scene", "error"), ("cell", "band", "error")


def write_work_dir(root: Path, scenes: Sequence[Scene], grid: Path) -> Path:
    """Write one; its downloads are named as they came, and none has a manifest.safe."""
    names = []
    for scene in scenes:
        safe = scene.write(root / "imagery_raw")
        (safe / "manifest.safe").unlink(missing_ok=True)
        names.append(safe.name)
    for name in ("indices", "logs", "tmp/rank_0/wgs84_vrt", "composites"):
        (root / name).mkdir(parents=True)
    shutil.copy(grid, root / "indices" / "selected_gridcells.csv")
    rows = [f"0000-{n},{name},\"{{'Start': 'x', 'End': 'x'}}\",2023-01-01T00:00:00Z" for n, name in enumerate(names)]
    (root / "indices" / "query_manifest.csv").write_text("\n".join([",".join(MANIFEST), *rows]) + "\n")
    (root / "indices" / "scene_index.csv").write_text(",".join(SCENES) + "\n")
    (root / "logs" / "pipeline_rank0.log").write_text("[phase2] all ranks completed with no errors.\n")
    return root
