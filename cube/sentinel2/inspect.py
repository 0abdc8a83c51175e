"""What is particular to looking at a Sentinel-2 build: see :mod:`cube.job.inspect`.

``status`` is to answer at once: what brings numpy, zarr or pandas is imported by what needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cube.job.folder import BuildFolder
from cube.job.ledger import Entry, Ledger
from cube.job.source import Planned
from cube.sentinel2.folder import Sentinel2Folder
from stratacube.guard import guarded

__all__ = ["SENTINEL2"]


class _Sentinel2:
    """Builds of composites."""

    folder = Sentinel2Folder
    tasks = "cell "

    def title(self, config: Mapping[str, Any]) -> str:
        """Say what a configuration makes."""
        return f"Sentinel-2 {config['reducer']} composites, {' '.join(config['bands'])}"

    def planned(self, folder: BuildFolder) -> Planned:
        """Read what was planned."""
        from cube.sentinel2.plan import plan_words  # noqa: PLC0415  (of 0.1.0 alone)
        from stratacube.parquet import read_frame  # noqa: PLC0415  (as above)

        with guarded(f"{folder.plan} is not the plan of a build", "run the same command again to have it made anew"):
            plan = read_frame(folder.plan)
            return Planned(len(plan["cell"]), plan_words(plan))

    def keys(self, folder: BuildFolder) -> list[str]:
        """Keys of all cells, in order."""
        from stratacube.parquet import read_frame  # noqa: PLC0415  (pandas, which looking spares)

        with guarded(f"{folder.plan} is not the plan of a build", "run the same command again to have it made anew"):
            return [f"{self.tasks}{cell}" for cell in read_frame(folder.plan, ["cell"])["cell"]]

    def joined(self, there: Entry, new: Entry) -> Entry:
        """Of what parts found of a scene that several read, the gravest stands."""
        from cube.sentinel2.record import joined_scene  # noqa: PLC0415  (of a split build alone)

        return joined_scene(there, new)

    def expected(self, folder: BuildFolder, config: Mapping[str, Any], entry: Entry) -> Iterator[str]:
        """Products of an entry of 0.1.0."""
        from cube.sentinel2.composite import cell_file  # noqa: PLC0415  (rasterio, which looking spares)

        kind, _, name = entry.key.partition(" ")
        names = (*config["bands"], "count")
        if kind == "cell":
            yield f"indices/cells/{name}.json"
            if "cog" in config["products"]:
                yield from (f"composites/{name}/{cell_file(name, n, config['reducer'])}" for n in names)
        elif kind == "shard":
            yield from (f"composites.zarr/{n}/c/{name.replace(' ', '/')}" for n in names)

    def faults(self, folder: BuildFolder, config: Mapping[str, Any], ledger: Ledger) -> Iterator[str]:
        """Every product of every cell that was made is there, decodes, and holds the pixels that were counted."""
        from cube.sentinel2.product_faults import faults_of  # noqa: PLC0415  (rasterio and zarr, which looking spares)

        yield from faults_of(Sentinel2Folder(folder.root), config, ledger)


SENTINEL2 = _Sentinel2()
