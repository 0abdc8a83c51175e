"""What is particular to looking at a build of ABI tiles: see :mod:`cube.job.inspect`.

``status`` is to answer at once: what brings numpy, zarr or pandas is imported by what needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cube.geostationary.dialect import imager_of
from cube.geostationary.folder import AbiFolder
from cube.job.folder import BuildFolder
from cube.job.ledger import Entry, Ledger
from cube.job.source import Planned
from cube.registry import INSTRUMENTS
from stratacube.errors import UsageError

__all__ = ["ABI"]


class _Abi:
    """Builds of ABI tiles."""

    folder = AbiFolder
    tasks = "shard-"

    def title(self, config: Mapping[str, Any]) -> str:
        """Say what a configuration makes."""
        satellite = config["satellite"]
        try:
            title = imager_of(satellite.split()[0]).title
        except UsageError as error:
            raise UsageError(
                f"it is of the satellite {satellite!r}, and none of the instruments known here "
                f"({', '.join(INSTRUMENTS.names())}) flies on that; install the package that its instrument came from"
            ) from error
        return f"{title} tiles, {config['stratification']}, {satellite} {config['domain']}"

    def planned(self, folder: BuildFolder) -> Planned:
        """Read what was planned."""
        from cube.geostationary.plan_table import PlanTable  # noqa: PLC0415  (of 0.1.0 alone)

        plan = PlanTable(folder.plan)
        return Planned(len(plan.shard_numbers), plan.words)

    def keys(self, folder: BuildFolder) -> list[str]:
        """Keys of all shards, in order."""
        from cube.geostationary.plan_table import PlanTable  # noqa: PLC0415  (as above)
        from cube.geostationary.tiles import shard_key  # noqa: PLC0415

        return [shard_key(n) for n in PlanTable(folder.plan).shard_numbers]

    def joined(self, there: Entry, new: Entry) -> Entry:
        """No two parts tell of one shard."""
        return new

    def expected(self, folder: BuildFolder, config: Mapping[str, Any], entry: Entry) -> Iterator[str]:
        """Shards of an entry of 0.1.0."""
        from cube.geostationary.layout import TileLayout  # noqa: PLC0415  (as above)

        if entry.key.startswith(self.tasks):
            shard = int(entry.key.removeprefix(self.tasks))
            for name in TileLayout.of(dict(config)).images:
                if name not in entry.empty:
                    yield f"tiles.zarr/{name}/c/{shard}/0/0/0"

    def faults(self, folder: BuildFolder, config: Mapping[str, Any], ledger: Ledger) -> Iterator[str]:
        """Every shard of every image array is there and decodes, and no pixel is valid without a packing."""
        from cube.geostationary.store_faults import faults_of  # noqa: PLC0415  (zarr and pandas, which looking spares)

        yield from faults_of(AbiFolder(folder.root), dict(config), ledger)


ABI = _Abi()
