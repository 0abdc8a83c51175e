"""The run's manifest: what was run, on what, with which versions."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stratacube.errors import UsageError
from stratacube.guard import guarded
from training.batches import Data
from training.config import PretrainConfig
from training.facts import RunFacts

__all__ = ["config_hash", "make_manifest", "read_manifest", "refuse_other_config", "refuse_other_data"]

_PACKAGES = ("stratacube", "torch", "lightning", "timm", "numpy", "zarr", "safetensors", "pydantic")


def config_hash(config: PretrainConfig) -> str:
    """Digest of the keys that decide what is learned."""
    return config.digest(64)


_SHARED_OUT = (("data", "batch_size"), ("optimizer", "accumulate"))
"""Keys by which a step is shared out: what it takes in all is a fact of the run, and no matter of them."""


def make_manifest(
    config: PretrainConfig, data: Data, facts: RunFacts, *, ranks: int, device: str, parameters: int
) -> dict[str, Any]:
    """Gather what is needed to run again and to trust the result."""
    parts = {
        name: {"statistics": part.statistics.as_dict(), "data_fingerprint": part.fingerprint}
        for name, part in data.parts.items()
    }
    return {
        **({"parts": parts} if parts else {}),
        "config": config.model_dump(mode="json"),
        "config_hash": config_hash(config),
        "facts": facts.as_dict(),
        "data_fingerprint": data.fingerprint,
        "statistics": data.statistics.as_dict(),
        "versions": {name: _version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "git": _git_commit(),
        "ranks": ranks,
        "device": device,
        "parameters": parameters,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z",
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read ``manifest.json`` of a checkpoint's folder, or of a published model's.

    Raises
    ------
    SourceError
        If it is not a manifest.
    """
    path = folder / "manifest.json"
    with guarded(f"{path} is not the manifest of a run", "restore it from a copy, or go on from another checkpoint"):
        manifest: dict[str, Any] = json.loads(path.read_text())
        if not isinstance(manifest, dict) or not isinstance(manifest["config"], dict):
            raise ValueError("it holds no config")
        if not isinstance(manifest.get("step", 0), int):
            raise ValueError(f"its step is {manifest['step']!r}")
        if not isinstance(manifest["data_fingerprint"], str) or not isinstance(manifest.get("resumed", []), list):
            raise ValueError("it does not tell its data, or when it was gone on with")
        return manifest


def refuse_other_config(manifest: dict[str, Any], config: PretrainConfig, source: Path) -> None:
    """Refuse to go on from a checkpoint of another config; before the data are opened, which it may not fit."""
    before, now = config.deciding(manifest["config"]), config.described()
    differing = [
        f"{section}.{key} {old!r} -> {new!r}"
        for section in now
        for key, old, new in _differences(before.get(section), now[section])
        if (section, key) not in _SHARED_OUT
    ]
    if differing:
        raise UsageError(
            f"{source} was made with another config ({'; '.join(differing)}); use another output_dir, or start from its"
            " weights with init_from"
        )


def refuse_other_data(manifest: dict[str, Any], data: Data, source: Path) -> None:
    """Refuse to go on from a checkpoint of other data."""
    if manifest["data_fingerprint"] != data.fingerprint:
        raise UsageError(
            f"{source} was made from data {manifest['data_fingerprint']}, the config's data are {data.fingerprint};"
            " use another output_dir, or start from its weights with init_from"
        )


def _differences(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [] if old == new else [("", old, new)]
    return [(key, old.get(key), new.get(key)) for key in sorted({*old, *new}) if old.get(key) != new.get(key)]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _git_commit() -> str:
    """Commit of the code that runs, if it runs from a checkout, with ``+`` where files are changed."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit.stdout.strip()
