"""How help tells the settings of a build of tiles: in which order, under which titles, with which examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["EXAMPLES", "GROUPS"]

EXAMPLES: Sequence[tuple[str, str]] = (
    (
        "--local-data-dir archive --channels C02 C13 --num-tiles 8",
        "eight random tiles of two bands of what lies in a folder",
    ),
    (
        "--satellite goes16 --start-dt 2020-07-01 --end-dt 2020-07-07 --channels 8-10 --dry-run",
        "what a build from NOAA's bucket would read, write and take",
    ),
    ("--stratification convection --convection-regex 'masks/*.nc' --output-dir storms", "tiles of cloud systems"),
    ("--config build.yaml --workers 16", "a build that a file describes, and here or there a flag"),
)
"""Flags, and what they are for."""

GROUPS: Mapping[str, Sequence[str]] = {
    "what is cut, and where it goes": (
        *("output_dir", "satellite", "product", "domain", "channels", "start_dt", "end_dt", "num_tiles", "tile_size"),
        *("grid", "store", "half_km", "plan"),
    ),
    "where files come from": ("local_data_dir", "download", "s3_endpoint", "archive", "allow_missing"),
    "how places and times are chosen": (
        *("stratification", "strata", "quotas", "seed", "latitudes", "light", "surface", "margin", "max_view_zenith"),
        *("max_solar_zenith", "min_solar_zenith", "min_spacing_km", "min_spacing_minutes"),
    ),
    "time windows": (
        "steps",
        "step_minutes",
        "candidates",
        "score_pixels",
        "offsets",
        "event_index",
        "tolerance_minutes",
    ),
    "which pixels are good": ("screen", "good_dqf", "min_valid"),
    "splits": ("splits", "split_km", "split_hours", "split_gap_km", "split_gap_hours", "split_shares"),
    "how it is stored": ("shard_mb", "codec", "previews"),
    "how it runs": (
        *("dry_run", "plan_only", "overwrite", "workers", "engine", "shard", "publish_only", "retries", "task_minutes"),
    ),
}
"""Parameters by title; options of strata follow, each under its stratum."""
