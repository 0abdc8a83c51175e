"""The state of a run as files, and back."""

from __future__ import annotations

import copy
import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from training.checkpoint import own_part, random_state, read_state, set_random_state
from training.compute import gather, load_whole_state, whole_state
from training.models import save_model
from training.models.weights import read_weights
from training.watch import refuse_non_finite

if TYPE_CHECKING:
    from training.trainer import Trainer

__all__ = ["Writer", "gather_state", "load_state"]

_log = logging.getLogger(__name__)


class Writer:
    """Writes checkpoints while the run goes on, one at a time; used as a context, it ends when all is written."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._fault: Exception | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Write, when what was begun before is written; a fault of that is raised here."""
        self.wait()

        def work() -> None:
            try:
                write()
            except Exception as error:  # noqa: BLE001  (raised again where the run waits for it)
                self._fault = error

        self._thread = threading.Thread(target=work, name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until all is written, and raise what went wrong."""
        if self._thread is not None:
            self._thread.join()
        self._thread, fault, self._fault = None, self._fault, None
        if fault is not None:
            raise fault

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, _error: object, _trace: object) -> None:
        try:
            self.wait()
        except Exception as error:
            if kind is None:
                raise
            _log.warning("a checkpoint was not written: %s", error)


def gather_state(run: Trainer) -> Callable[[Path], None]:
    """Gather the whole state on the first rank; collective. What is returned writes it into a folder there."""
    weights, moments = whole_state(run.model, run.optimizer)
    if run.fabric.device.type == "cpu":  # what is saved must not change while it is written
        weights = {name: value.clone() for name, value in weights.items()}
        moments = copy.deepcopy(moments)
    averages = {**run.average.values, **dict(run.model.named_buffers())} if run.average is not None else {}
    averages = {name: value.detach().cpu().clone() for name, value in averages.items()}
    state = {
        "step": run.step,
        "optimizer": moments,
        "ranks": gather(run.fabric, {"random": random_state()}),
        "data": run.data.train.identity(),
        "losses": dict(run.losses),
        "skipped": int(run.watch.skipped),
        "precision": run.fabric.strategy.precision.state_dict(),
    }
    manifest = json.dumps({**run.manifest, "step": run.step}, indent=1) + "\n"
    config, step, newest = run.config.model, run.step, run.checkpoints.latest()

    def fill(folder: Path) -> None:
        refuse_non_finite({"weights": weights, "averages": averages, "moments": _tensors(moments)}, step, newest)
        save_model(config, weights, folder / "weights.safetensors", step=str(step))
        if averages:
            save_model(config, averages, folder / "ema.safetensors", step=str(step))
        torch.save(state, folder / "state.pt")
        (folder / "manifest.json").write_text(manifest)

    return fill


def _origin(before: Mapping[str, Any], run: Trainer, step: int) -> int:
    """Where a run of a version stands that left out the rest of each epoch, against the stream of all samples."""
    samples, number = run.facts.samples, int(before["position"])
    if "version" not in before:  # of samples in memory: batches, not samples
        round_ = run.facts.batch // run.config.optimizer.accumulate
        number = number * round_ if (number + 1) * round_ <= samples else samples
    return int(before["epoch"]) * samples + number - step * run.facts.batch


def _tensors(moments: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{kind}": value
        for name, kinds in moments["state"].items()
        for kind, value in kinds.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }


def load_state(run: Trainer, path: Path) -> None:
    """Put the state of a checkpoint into a run of the same model and data, of any number of ranks."""
    state = read_state(path)
    load_whole_state(run.model, run.optimizer, read_weights(path / "weights.safetensors")[1], state["optimizer"])
    if run.average is not None:
        run.average.load(read_weights(path / "ema.safetensors")[1])
    rank, ranks = run.fabric.global_rank, run.fabric.world_size
    own = own_part(state["ranks"], rank, ranks)
    run.data.train.check(state.get("data") or own["loader"])
    if "data" not in state:
        run.facts = replace(run.facts, origin=_origin(own["loader"], run, state["step"]))
        run.manifest["facts"] = run.facts.as_dict()
    if len(state["ranks"]) == ranks:
        set_random_state(own["random"])
    else:  # what is dropped must not be the same on all ranks
        torch.manual_seed((run.config.seed << 24) + (state["step"] << 12) + rank)
    run.fabric.strategy.precision.load_state_dict(state.get("precision", {}))
    run.watch.skipped.fill_(state.get("skipped", 0))
    run.step, run.losses = state["step"], state["losses"]
