"""Writers of archives in the formats of the real ones, for the demo, for our tests and for those of others.

Pixels are computed and depend on the seed alone; each file says that it is synthetic. Nothing here is shared with what
reads the files: a wrong number on one side would be the same on the other, and no test would see it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cube.testing.abi.archive import write_abi_archive, write_abi_file, write_abi_full_disk
    from cube.testing.ami import write_ami_file, write_ami_scan
    from cube.testing.cloud_systems import label_systems, write_cloud_systems, write_monthly_cloud_systems
    from cube.testing.cloudsat import write_cloudsat_granule
    from cube.testing.landcover import write_mcd12c1
    from cube.testing.sentinel2.cogs import write_cog_item
    from cube.testing.sentinel2.eopf import write_eopf
    from cube.testing.sentinel2.landscape import DemoArchive, write_sentinel2_archive
    from cube.testing.sentinel2.safe import SafeSpec, write_safe

__all__ = [
    "DemoArchive",
    "SafeSpec",
    "label_systems",
    "write_abi_archive",
    "write_abi_file",
    "write_abi_full_disk",
    "write_ami_file",
    "write_ami_scan",
    "write_cloud_systems",
    "write_cloudsat_granule",
    "write_cog_item",
    "write_eopf",
    "write_mcd12c1",
    "write_monthly_cloud_systems",
    "write_safe",
    "write_sentinel2_archive",
]

_HOMES = {
    "DemoArchive": "sentinel2.landscape",
    "SafeSpec": "sentinel2.safe",
    "label_systems": "cloud_systems",
    "write_abi_archive": "abi.archive",
    "write_abi_file": "abi.archive",
    "write_abi_full_disk": "abi.archive",
    "write_ami_file": "ami",
    "write_ami_scan": "ami",
    "write_cloud_systems": "cloud_systems",
    "write_cloudsat_granule": "cloudsat",
    "write_cog_item": "sentinel2.cogs",
    "write_eopf": "sentinel2.eopf",
    "write_mcd12c1": "landcover",
    "write_monthly_cloud_systems": "cloud_systems",
    "write_safe": "sentinel2.safe",
    "write_sentinel2_archive": "sentinel2.landscape",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: who writes one format does not wait for the other's libraries."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cube.testing' has no attribute {name!r}")
    return getattr(import_module(f"cube.testing.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """All names, for tab completion, though most are not yet imported."""
    return sorted(__all__)
