"""What a build of composites would read, by file: what is fetched, and which pixels of it are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.places import is_remote, lies_there, local_path, place, wanted_keys, with_grids
from cube.reads import FileRead, Part
from cube.sentinel2.acquisitions import Acquisition
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.extend import products_of
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.lattice import Lattice, Window
from cube.sentinel2.plan import choose_cells, make_plan
from cube.sentinel2.resample import SourceGrid, margin, source_map
from cube.sentinel2.scenes import PIECE
from stratacube.errors import SourceError
from stratacube.files import bytes_on_disk

__all__ = ["explain"]

_Place = tuple[Lattice, Window]
"""Where a cell lies: pixels of a lattice, which with `origin` cell is the cell's own."""


def explain(config: Sentinel2Config) -> Iterator[FileRead]:
    """Say which files a build would read, and how much of them is wanted; nothing is written, and no pixel is read.

    Parameters
    ----------
    config
        Of the build.

    Yields
    ------
    FileRead
        A file that is fetched is fetched whole. Of one on disk the bytes are those of the whole file, which a digest
        is made of; of its pixels at most those told are decoded, where its scene classes leave something valid.

    Raises
    ------
    UsageError
        If no product matches what is asked for.
    SourceError
        If the search fails.
    """
    config = config.model_copy(update={"dry_run": True})  # a search that is made for this is kept in no folder
    folder, cells = Sentinel2Folder(config.work_dir, imagery=config.imagery_dir), choose_cells(config)
    plan = make_plan(config, cells, products_of(config, folder, cells))
    reached: dict[str, dict[str, _Place]] = {}
    for cell in plan.cells:
        place = plan.lattice_of(cell.cell), cell.window
        for key in cell.acquisitions:
            reached.setdefault(key, {})[cell.cell.id] = place  # once, in however many periods
    keys = [key for _, key in config.asset_keys()]
    for name, places in reached.items():
        yield from _of_acquisition(config, folder, plan.acquisitions[name], keys, list(places.values()))


def _of_acquisition(
    config: Sentinel2Config,
    folder: Sentinel2Folder,
    acquisition: Acquisition,
    keys: Sequence[str],
    places: Sequence[_Place],
) -> Iterator[FileRead]:
    for product in acquisition.products:
        try:
            assets = with_grids(product).assets
        except SourceError as error:
            yield FileRead(product.id, None, (), str(error))
            continue
        known: dict[SourceGrid, str] = {}
        for key in wanted_keys(product, keys):
            if key in assets:
                yield _of_file(folder, product, key, assets[key], _pixels(config, assets[key], places, known))
            else:
                yield FileRead(product.id, None, (), f"{product.id} has no {key}; leave it out, or search again")


def _of_file(folder: Sentinel2Folder, product: Product, key: str, asset: Asset, note: str) -> FileRead:
    if is_remote(asset.href):
        there = folder.archive / place(product, key, asset)
        what = "on disk" if lies_there(there, asset) else "download"
        return FileRead(asset.href, asset.size, (Part(what, asset.size or 0, (), note),))
    path = local_path(asset.href)
    try:
        size = bytes_on_disk(path)
    except OSError as error:
        return FileRead(asset.href, asset.size, (), f"{path} cannot be read ({error.strerror}); fetch it again")
    return FileRead(asset.href, size, (Part("on disk", size, (), note),))


def _pixels(config: Sentinel2Config, asset: Asset, places: Sequence[_Place], known: dict[SourceGrid, str]) -> str:
    """Say how much of a raster lies under the cells."""
    if asset.shape is None or asset.transform is None or asset.proj_code is None:
        return ""
    grid = SourceGrid(asset.proj_code, asset.transform, *asset.shape)
    if grid in known:
        return known[grid]
    rows, cols = asset.shape
    most = 0
    for lattice, square in ((lattice, square) for lattice, window in places for square in window.split(PIECE)):
        mapped = source_map(lattice, square, grid)
        found = mapped.source_window(grid, max(margin(config.resampling, s) for s in mapped.stretch()))
        most += found.height * found.width
    known[grid] = f"at most {min(1.0, most / (rows * cols)):.0%} of {rows} x {cols} pixels"
    return known[grid]
