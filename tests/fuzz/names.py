"""Names of files, products and cells, and expressions of the user's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from catalog.geostationary.abi import ABI_NAMES
from catalog.geostationary.ami import AMI_NAMES
from catalog.geostationary.naming import Naming
from catalog.sentinel2.names import (
    asset_key,
    normalise_baseline,
    normalise_tile,
    parse_datastrip,
    parse_datatake,
    parse_product_name,
)
from cube.sentinel2.grid import cell_from_id
from cube.strata.masks import find_masks
from stratacube.expression import evaluate
from tests.fuzz.parser import Parser
from tests.fuzz.plain import damaged_bytes, damaged_text

__all__ = ["PARSERS"]

_ABI = (
    "OR_ABI-L1b-RadF-M6C13_G16_s20201831600204_e20201831609524_c20201831609591.nc",
    "RP_ABI-L1b-RadM1-M3C01_G17_s20190012359579_e20190020000036_c20190020000084.nc",
    "OR_ABI-L1b-RadC-M6C02_G18_s20232002001170_e20232002003543_c20232002003584-118900_0.nc4",
)
_AMI = (
    "gk2a_ami_le1b_ir105_la020ge_202008260000.nc",
    "gk2a_ami_le1b_vi006_fd005ge_201907010010.nc",
    "gk2a_ami_le1b_sw038_ela020ge_202402292350.nc",
)
_SAFE = (
    "S2A_MSIL2A_20200703T103031_N0500_R108_T32TMT_20230502T040506.SAFE",
    "/eodata/Sentinel-2/S2B_MSIL2A_20210601T213529_N0300_R086_T06WVC_20210601T231015",
    "GS2A_20200703T103031_026274_N05.00",
    "S2A_OPER_MSI_L2A_DS_S2RP_20230502T040506_S20200703T103715_N05.00",
    "GRANULE/L2A_T32TMT/IMG_DATA/R20m/T32TMT_20200703T103031_B8A_20m.jp2",
    "MGRS-6VVN",
    "N0510",
)
_CELLS = ("Q025_R083_C0119", "Q025_W149_75_N68_50", "Q100_R030_C0031", "Q025_E179_75_N89_75")
_MASKS = ("20200801_cloudsystems.nc", "202008_DCS_number_monthly.nc")
_WHERE = (
    "stratum == 'convection' and latitude > -10.5",
    "1 / probability + (score ** 2) * log(latitude + 100)",
    "event_time >= '2020-01-01' or not (split in ['val', 'test'])",
)
_TABLE = pd.DataFrame(
    {
        "stratum": ["random", "convection"],
        "split": ["train", "val"],
        "latitude": [1.0, 2.0],
        "probability": [0.5, 0.1],
        "score": [1, 2],
        "event_time": pd.to_datetime(["2020-01-01", "2021-01-01"]),
    }
)


def _written(names: Sequence[str]) -> Callable[[Path], list[Path]]:
    def lay(folder: Path) -> list[Path]:
        paths = [folder / f"name{i}.txt" for i in range(len(names))]
        for path, name in zip(paths, names, strict=True):
            path.write_text(name)
        return paths

    return lay


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


def _geostationary(naming: Naming) -> Callable[[Path, Path], Any]:
    def read(_: Path, path: Path) -> Any:
        name = _text(path)
        return naming.parse_path(name), naming.parse(name), naming.nearly(name)

    return read


def _sentinel2(_: Path, path: Path) -> Any:
    name = _text(path)
    told = parse_datatake(name), parse_datastrip(name), asset_key(name), normalise_tile(name)
    return told, normalise_baseline(name) if len(name) < 7 else parse_product_name(name)


def _cell(_: Path, path: Path) -> Any:
    return cell_from_id(_text(path))


def _mask(folder: Path, path: Path) -> Any:
    name = _text(path).replace("/", "_").replace("\x00", "_")[:60]
    laid = folder / (name if name.strip(".") else "_")
    laid.touch()
    try:
        return find_masks(f"{folder}/*")
    finally:
        laid.unlink()


def _where(_: Path, path: Path) -> Any:
    return evaluate(_TABLE, _text(path), "filter")


_WAYS = (damaged_text, damaged_text, damaged_bytes)

PARSERS = (
    Parser("names-abi", _written(_ABI), _geostationary(ABI_NAMES), _WAYS, is_told=False),
    Parser("names-ami", _written(_AMI), _geostationary(AMI_NAMES), _WAYS, is_told=False),
    Parser("names-sentinel2", _written(_SAFE), _sentinel2, _WAYS, is_told=False),
    Parser("names-cells", _written(_CELLS), _cell, _WAYS, is_told=False),
    Parser("names-masks", _written(_MASKS), _mask, _WAYS, is_told=False),
    Parser("expressions", _written(_WHERE), _where, _WAYS, is_told=False),
)
