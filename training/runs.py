"""Finding and opening what a run has made."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fsspec.core import split_protocol

from stratacube.addresses import plain_url
from stratacube.errors import UsageError
from stratacube.guard import guarded
from training.checkpoint import Checkpoints, read_state
from training.config import PretrainConfig, validate
from training.manifest import read_manifest
from training.models import MaskedAutoencoder, load_model
from training.settings_data import CubesData

__all__ = ["Opened", "judged_on", "open_run", "with_changes"]

_log = logging.getLogger(__name__)

_PROTOCOLS = (None, "file", "local", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "http", "https")
"""Of stores that a manifest may name: fsspec knows others, which start programs, ask workers, or write copies."""


@dataclass(frozen=True)
class Opened:
    """A trained model and where it comes from."""

    model: MaskedAutoencoder
    config: PretrainConfig
    manifest: dict[str, Any]
    folder: Path
    """Folder of the checkpoint."""
    weights: Path
    """File of the weights: the averaged ones, if the run averaged."""
    step: int
    part: str = ""
    """Name of the source, where the run was on a mixture."""
    elsewhere: bool = False
    """Whether it is judged on other data than its run's, while what it learned from is here too."""

    def named(self, what: str) -> str:
        """Name of a file or folder of what is told of the model; those of several sources lie side by side."""
        return f"{what}-{self.part}" if self.part else what


def open_run(path: Path, changes: dict[str, Any] | None = None, *, which: str = "last", part: str = "") -> Opened:
    """Open a checkpoint.

    Parameters
    ----------
    path
        Folder of a run, of a checkpoint, or of a published model.
    changes
        Keys of the config to replace, by section: ``{"data": {"batch_size": 2}}``.
    which
        Of a run: the ``last`` checkpoint, or the ``best`` by validation loss.
    part
        Of a run on a mixture: the source whose model, data and statistics are opened, as of a run on it alone; the
        first by default.

    Raises
    ------
    UsageError
        If there is no checkpoint, or no such source.
    """
    folder = path
    if (path / "checkpoints").is_dir():
        folder = _choose(Checkpoints(path / "checkpoints", 1, 0), which, path)
    weights = next((folder / n for n in ("ema.safetensors", "weights.safetensors") if (folder / n).exists()), None)
    if weights is None or not (folder / "manifest.json").exists():
        raise UsageError(f"{path} holds no checkpoint; give a run's folder, or one of its checkpoints")
    manifest = read_manifest(folder)
    config = validate(manifest["config"], str(path))
    name = part or next(iter(config.parts), "")
    config = config.part(name) if name else config
    model = load_model(weights, name)
    if name:
        parameters = sum(p.numel() for p in model.parameters())
        manifest = {**_told_of(manifest, name), "config": config.model_dump(mode="json"), "parameters": parameters}
    values = with_changes(manifest["config"], changes or {})
    step = int(manifest.get("step", folder.name.removeprefix("step_") if folder.name.startswith("step_") else 0))
    return Opened(model, validate(values, str(path)), manifest, folder, weights, step, name)


def _told_of(manifest: dict[str, Any], part: str) -> dict[str, Any]:
    """What a manifest tells of one source of a mixture."""
    with guarded("the manifest does not tell the parts of its mixture", "restore it from a copy"):
        return {**{key: value for key, value in manifest.items() if key != "parts"}, **manifest["parts"][part]}


def judged_on(opened: Opened, stores: Sequence[str] | None, *, fitted: bool = False) -> Opened:
    """Return a model that is judged on the data of other stores than its run's; on the run's for None.

    What it learned from stays where it is there, for nothing that it is judged on may share pixels with that.

    Parameters
    ----------
    opened
        The model.
    stores
        Paths or URLs.
    fitted
        Whether something is fitted on a part of the stores, as a probe is, and judged on another.

    Raises
    ------
    UsageError
        If the run did not learn from stores, nothing tells which part of them is to be fitted on, or its own are wanted
        and are not there, or named by other than a path or an address of the web or of an object store.
    """
    kind = {"tiles": "stores", "cubes": "cubes"}.get(opened.config.data.source)
    if not stores:
        if kind is not None:
            _require_there(opened, kind)
        return opened
    if kind is None:
        raise UsageError(
            f"{opened.config.name} learned from {opened.config.data.source}, of no store; leave out `data`"
        )
    places = [{"path": path} for path in stores]
    data: dict[str, Any] = {f"validation_{kind}": places}
    learned = [store.path for store in getattr(opened.config.data, kind)]
    lost = [*_gone(learned), *_odd(learned)]
    if fitted:
        if isinstance(opened.config.data, CubesData) and opened.config.data.split is None:
            raise UsageError(
                f"{opened.config.name} was trained without `data.split`, so nothing tells which windows of other cubes"
                " are fitted on and which judged on; leave out `data`, or take a run whose config has a `split`"
            )
        data = {kind: places, f"validation_{kind}": []}
    elif lost:  # of a published model, which names them only
        _log.warning(
            "%s learned from %s, not to be had here: whether it is judged on pixels of that cannot be told",
            opened.config.name,
            ", ".join(map(plain_url, lost)),
        )
        data[kind] = places
    values = with_changes(opened.config.model_dump(mode="json"), {"data": data})
    return replace(opened, config=validate(values, str(opened.folder)), elsewhere=not fitted and not lost)


def _require_there(opened: Opened, kind: str) -> None:
    """Refuse a model whose stores do not lie where it says, such as a published one, which names no folder."""
    data = opened.config.data
    paths = [store.path for name in (kind, f"validation_{kind}") for store in getattr(data, name)]
    _refuse_odd(opened, paths)
    gone = _gone(paths)
    if gone:
        raise UsageError(
            f"{opened.config.name} learned from {', '.join(gone)}, which {'are' if len(gone) > 1 else 'is'} not here"
            f" (a published model names its {kind} only); give `data`: paths or URLs of these {kind}, or of others with"
            f" the bands {', '.join(opened.config.model.bands)}"
        )


def _refuse_odd(opened: Opened, paths: Sequence[str]) -> None:
    """Refuse stores by other than a path or a well-known address: somebody else's manifest says what is opened here."""
    for path in _odd(paths)[:1]:
        raise UsageError(
            f"{opened.folder / 'manifest.json'} names the store {plain_url(path)}, which is neither a path "
            "nor an address of S3, Google Cloud, Azure or the web; give `data`"
        )


def _odd(paths: Sequence[str]) -> list[str]:
    """Paths that are neither on disk nor well-known addresses."""
    return [path for path in dict.fromkeys(paths) if "::" in path or split_protocol(path)[0] not in _PROTOCOLS]


def _gone(paths: Sequence[str]) -> list[str]:
    """Paths on disk at which there is nothing."""
    return [path for path in dict.fromkeys(paths) if "://" not in path and not Path(path).exists()]


def with_changes(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Replace keys, going into sections."""
    merged = dict(values)
    for key, change in changes.items():
        inner = merged.get(key)
        merged[key] = with_changes(inner, change) if isinstance(inner, dict) and isinstance(change, dict) else change
    return merged


def _choose(checkpoints: Checkpoints, which: str, path: Path) -> Path:
    latest = checkpoints.latest()
    if latest is None:
        raise UsageError(f"{path} holds no complete checkpoint yet")
    if which == "last":
        return latest
    losses = read_state(latest)["losses"]
    judged = [step for step in checkpoints.steps() if step in losses]
    if not judged:
        raise UsageError(f"{path} was never validated, so no checkpoint is the best; take the last")
    return checkpoints.path(min(judged, key=lambda step: losses[step]))
