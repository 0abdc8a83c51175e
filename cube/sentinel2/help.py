"""How help tells the settings of a build of composites: in which order, under which titles, with which examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["EXAMPLES", "GROUPS"]

EXAMPLES: Sequence[tuple[str, str]] = (
    (
        "--work-dir toolik --bbox -149.725 68.505 -149.475 68.755 --start 2019-06-01 --end 2019-08-31 --dry-run",
        "what a summer's median of the default cells in a box would fetch, write and take",
    ),
    (
        "--work-dir out --safe-dir safe --grid-csv grid.csv --start 2022-06-01 --end 2022-06-30 --bands red nir swir16",
        "composites of three bands from products that lie in a folder",
    ),
    (
        "--config summer.yaml --products cog zarr --reducer p25",
        "a build that a file describes, and here or there a flag",
    ),
)
"""Flags, and what they are for."""

GROUPS: Mapping[str, Sequence[str]] = {
    "where it goes, and which cells are made": ("work_dir", "bbox", "polygon", "cells", "grid_csv", "crs", "tr", "tap"),
    "which products are used": (
        *(
            "start",
            "end",
            "periods",
            "months",
            "max_cloud_cover",
            "min_sun_elevation",
            "orbits",
            "platforms",
            "baselines",
        ),
        "odd_scenes",
    ),
    "where products come from": (
        *("safe_dir", "items", "stac_url", "access", "imagery_dir", "connections", "verify_digests"),
        *("cdse_token_url", "cdse_hosts", "cdse_s3_endpoint"),
    ),
    "bands and masks": ("bands", "bands_res", "mask_classes", "mask_dilation"),
    "how a composite is made": (
        *("resampling", "reducer", "also", "negatives", "origin", "preset", "values", "products", "zarr_stores"),
        *("compress", "codec"),
    ),
    "splits": ("splits", "split_km", "split_hours", "split_gap_km", "split_gap_hours", "split_shares"),
    "how it runs": (
        *("dry_run", "plan_only", "overwrite", "workers", "engine", "shard", "publish_only", "retries", "task_minutes"),
        *("keep_tmp", "tmp_gb"),
    ),
}
"""Parameters by title."""
