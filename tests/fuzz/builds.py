"""What builds keep and make: configurations, ledgers, plans, lists, and the metadata of their Zarr stores."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cube
from cube.config import AbiConfig
from cube.geostationary.plan_table import PlanTable
from cube.job.folder import BuildFolder
from cube.job.inspect import status, verify
from cube.job.ledger import Entry, Ledger, Problem
from cube.job.problems import errors
from cube.sentinel2.config import Sentinel2Config
from stratacube.files import Written, digest_of
from stratacube.plain_yaml import parse_yaml
from stratacube.settings import Settings
from tests.fuzz.containers import damaged_parquet
from tests.fuzz.parser import Parser
from tests.fuzz.plain import damaged_bytes, damaged_head, damaged_lines, damaged_text
from tests.fuzz.structured import damaged_csv, damaged_json, damaged_json_lines, damaged_yaml
from tests.loaders.tiny_store import write_store

__all__ = ["PARSERS"]

_OLD = Path(__file__).resolve().parents[1] / "old"
_SCRATCH = ("index", "previews", "references", "sources", "tmp", "logs")


def _unpacked(name: str, part: str, folder: Path) -> Path:
    """Lay down a folder that 0.1.0 built, without what is not read here."""
    with tarfile.open(_OLD / f"{name}.tar.xz") as tar:
        members = [m for m in tar.getmembers() if m.name.startswith(f"{part}/")]
        tar.extractall(
            folder, [m for m in members if m.name.split("/")[2:3] not in [[s] for s in _SCRATCH]], filter="data"
        )
    return folder / part


def _tiles(folder: Path) -> Path:
    """A build of tiles whose ledger has the digests of its files, as builds have now."""
    root = _unpacked("abi", "abi/convection", folder)
    entries = list(Ledger(root / "ledger.jsonl").entries.values())
    (root / "ledger.jsonl").unlink()
    ledger = Ledger(root / "ledger.jsonl")
    files = [p for p in sorted(root.rglob("*")) if p.is_file()]
    written = tuple(Written(p.relative_to(root).as_posix(), p.stat().st_size, digest_of(p)) for p in files)
    for i, entry in enumerate(entries):
        made = written if entry.key.startswith("shard-") and i == 0 else ()
        problem = Problem("source", "it is damaged", "t", "scan", "C13", "a.nc")
        ledger.record(Entry(entry.key, entry.status, (problem,), {"pixels": 7.0}, ("C01",), {"a": "b"}, made))
    ledger.record(Entry("planned", "done", facts={"tasks": "1", "words": "2 tiles in 1 shard"}))
    ledger.record(Entry("outcome", "done", figures={"source: it is damaged": 1.0}))
    ledger.record(Entry("publish", "done"))
    return root


def _part(name: str) -> Callable[[Path], list[Path]]:
    return lambda folder: sorted(p for p in _tiles(folder).glob(name) if p.is_file())


def _of_composites(name: str) -> Callable[[Path], list[Path]]:
    return lambda folder: sorted(_unpacked("sentinel2", "sentinel2/composites", folder).glob(name))


def _root(folder: Path) -> Path:
    return next(folder.glob("*/*/config.yaml")).parent


def _config(model: type[Settings], text: str) -> tuple[Callable[[Path], list[Path]], Callable[[Path, Path], Any]]:
    def lay(folder: Path) -> list[Path]:
        (folder / "config.yaml").write_text(text)
        return [folder / "config.yaml"]

    return lay, lambda _, path: model.load(path).digest()


_ABI = _config(
    AbiConfig,
    """output_dir: out
stratification: convection
convection-regex: masks/*.nc
satellite: goes16
channels: [1, C02, 13]
start_dt: 2020-07-01T16:00
end_dt: 2020-07-02
num_tiles: 5
tile_size: 64
tolerance_minutes: 5.5
good_dqf: [0, 1]
local_data_dir: archive
domain: M1
""",
)
_SENTINEL2 = _config(
    Sentinel2Config,
    """work_dir: out
bands: [B02, b3]
start: 2021-06-01
end: 2021-07-01
bbox: [-150, 68, -149, 69]
reducer: median
max_cloud_cover: 50
items: items.json
products: [cog, zarr]
""",
)


def _looked(folder: Path, _: Path) -> Any:
    root = _root(folder)
    told = BuildFolder(root)
    found = [status(root), errors(root), told.source(), told.created(), told.holds("x")]
    with contextlib.suppress(FileNotFoundError):
        found.append(list(Ledger(told.ledger).files_of(["config", "planned", "outcome"])))
    return found


def _few(name: str) -> Callable[[Path], list[Path]]:
    """The parts of a build that tell a run how far it is."""

    def lay(folder: Path) -> list[Path]:
        root = _tiles(folder)
        for path in root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        asked = {
            "build": BuildFolder(root).described(),
            "digest": parse_yaml((root / "config.yaml").read_text(), "")["digest"],
        }
        (folder / "asked.json").write_text(json.dumps(asked))
        return [root / name]

    return lay


def _begun(folder: Path, _: Path) -> Any:
    """A run begins in the folder, as far as that it may write there."""
    asked = json.loads((folder / "asked.json").read_text())
    copy = Path(shutil.copytree(_root(folder), folder / "copy"))
    try:
        for digest in (asked["digest"], "0" * 16):
            with BuildFolder(copy).opened(asked["build"], digest, overwrite=digest != asked["digest"]):
                pass
    finally:
        shutil.rmtree(copy)


def _ledger(_: Path, path: Path) -> Any:
    ledger = Ledger(path)
    return [asdict(p) for p in ledger.problems()], list(ledger.files_of([*ledger.entries]))


def _plan(_: Path, path: Path) -> Any:
    table = PlanTable(path)
    read = len(table.frame()), [len(rows) for _, rows in table.shards()], table.framed, table.named
    return read, table.projections, table.words


def _errors(folder: Path) -> list[Path]:
    root = _tiles(folder)
    with (root / "errors.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(Problem("", ""))))
        writer.writeheader()
        writer.writerows([asdict(Problem("source", "it is damaged", "t", "scan", "C13", "a.nc"))] * 3)
    return [root / "errors.csv"]


def _verified(folder: Path, _: Path) -> Any:
    answer = verify(_root(folder))
    assert answer.data is not None
    return answer.data["faults"]


def _others(found: Any, whole: Any) -> bool:
    """Whether verify finds what it does not find of the whole build, which lacks some of its files."""
    return not {*found} <= {*whole}


def _store(*patterns: str) -> Callable[[Path], list[Path]]:
    def lay(folder: Path) -> list[Path]:
        write_store(folder, tiles=3, steps=2, size=16, channels=(1, 13))
        return [p for pattern in patterns for p in folder.glob(pattern)]

    return lay


def _streamed(folder: Path, _: Path) -> Any:
    from loaders import tile_loader  # late, as all of torch
    from loaders.store import TileStore

    store = TileStore.open(folder)
    batch = next(iter(tile_loader(store, bands=[store.bands[0].name], batch_size=1, seed=1)))
    return store.fingerprint, len(store.table), store.times(), batch


def _opened(folder: Path, _: Path) -> Any:
    return sorted(map(str, cube.open_tiles(folder).data_vars))


def _composites(folder: Path, _: Path) -> Any:
    return sorted(map(str, cube.open_composites(_root(folder)).data_vars))


def _statistics(folder: Path) -> list[Path]:
    with tarfile.open(_OLD / "training.tar.xz") as tar:
        tar.extract("training/statistics.json", folder, filter="data")
    path = folder / "training" / "statistics.json"
    told = json.loads(path.read_text())
    for split in told["splits"].values():
        for band in split.values():  # the same in short
            band["edges"], band["histogram"] = band["edges"][:3], band["histogram"][:2]
    path.write_text(json.dumps(told))
    return [path]


def _decoder(_: Path, path: Path) -> Any:
    from loaders.statistics import Statistics, make_decoder

    statistics = Statistics.load(path)
    return make_decoder(statistics, statistics.quantity)


_YAML = (damaged_yaml, damaged_yaml, damaged_lines, damaged_text, damaged_bytes)
_LINES = (damaged_json_lines, damaged_json_lines, damaged_lines, damaged_text, damaged_bytes)
_JSON = (damaged_json, damaged_json, damaged_text, damaged_bytes)
_PARQUET = (damaged_parquet, damaged_parquet, damaged_head, damaged_bytes)
_CSV = (damaged_csv, damaged_csv, damaged_lines, damaged_text, damaged_bytes)

PARSERS = (
    Parser("config-tiles", *_ABI, _YAML, is_told=False),
    Parser("config-composites", *_SENTINEL2, _YAML, is_told=False),
    Parser("config-of-build", _part("config.yaml"), _looked, _YAML, share=0.5),
    Parser("config-begun", _few("config.yaml"), _begun, _YAML),
    Parser("ledger", _part("ledger.jsonl"), _ledger, _LINES),
    Parser("ledger-of-build", _part("ledger.jsonl"), _looked, _LINES),
    Parser("ledger-begun", _few("ledger.jsonl"), _begun, _LINES),
    Parser("plan", _part("plan.parquet"), _plan, _PARQUET),
    Parser("plan-of-composites", _of_composites("plan.parquet"), _looked, _PARQUET),
    Parser("errors", _errors, _looked, _CSV),
    Parser("verify", _part("**/*.*"), _verified, (damaged_bytes,), same=_others, share=0.2),
    Parser("zarr-tiles", _store("tiles.zarr/zarr.json"), _opened, _JSON, share=0.5),
    Parser(
        "zarr-loader",
        _store("tiles.zarr/zarr.json", "tiles.zarr/*/zarr.json"),
        _streamed,
        _JSON,
        share=0.3,
        imports="loaders.tiles",
    ),
    Parser("zarr-plan", _store("plan.parquet"), _streamed, _PARQUET, share=0.3, imports="loaders.tiles"),
    Parser("zarr-composites", _of_composites("composites.zarr/zarr.json"), _composites, _JSON, share=0.5),
    Parser("statistics", _statistics, _decoder, _JSON, imports="loaders.statistics"),
)
