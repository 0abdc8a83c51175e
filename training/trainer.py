"""The training loop: one optimizer step after another, resumable at each."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import cast

import torch
from lightning.fabric import Fabric
from lightning.fabric.wrappers import _FabricOptimizer
from torch import Tensor
from torch.distributed.tensor import DTensor

from stratacube.claim import claimed
from stratacube.errors import StratacubeError, UsageError
from stratacube.files import remove_strays, write_text
from training.batches import Batch, BatchLoader, Data
from training.checkpoint import Checkpoints, own_part, random_state, read_state, set_random_state
from training.compute import gather, load_whole_state, make_fabric, on_first_rank, raise_on_all, whole_state
from training.config import PretrainConfig, print_config
from training.data import open_data
from training.logs import Logs
from training.manifest import make_manifest, read_manifest, refuse_other_run
from training.meter import Meter
from training.models import MaskedAutoencoder, draw_masks, save_model
from training.models.weights import load_weights, read_weights
from training.optimizer import Average, Schedule, adamw
from training.stopping import StopRequest, stop_on_signals
from training.validate import validate

__all__ = ["Trainer"]

_log = logging.getLogger(__name__)


class Trainer:
    """A run: model, data, optimizer and where it stands.

    Parameters
    ----------
    config
        What to run.
    fabric
        Devices; made from the config if not given.
    data
        What to read; opened from the config if not given.
    resume
        Go on from the newest checkpoint in the output folder, if there is one.

    Raises
    ------
    UsageError
        If the output folder holds a run of another config or other data, or holds one and ``resume`` is off.
    """

    def __init__(
        self, config: PretrainConfig, fabric: Fabric | None = None, data: Data | None = None, *, resume: bool = True
    ) -> None:
        self.config = config
        self.fabric = fabric or make_fabric(config.run)
        self.fabric.seed_everything(config.seed, workers=False, verbose=False)
        self.data = data or open_data(config, self.fabric.global_rank, self.fabric.world_size, self.fabric.device)
        self.model = MaskedAutoencoder(config.model)
        if config.init_from is not None:
            load_weights(self.model, read_weights(config.init_from)[1], config.init_from)
        if config.run.compile:
            self.model.compile()
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.wrapped = self.fabric.setup_module(self.model)
        self.schedule = Schedule.of(config.optimizer, self.batch, self.steps_per_epoch)
        self.optimizer = adamw(self.model, config.optimizer, self.schedule.rate(0))
        self.stepper = cast(_FabricOptimizer, self.fabric.setup_optimizers(self.optimizer))
        decay = config.optimizer.ema
        self.average = Average(self.model, decay) if decay is not None else None
        self.step = 0
        self.losses: dict[int, float] = {}
        folder = config.output_dir / "checkpoints"
        self.checkpoints = Checkpoints(folder, config.checkpoints.keep_last, config.checkpoints.keep_best)
        self.manifest = make_manifest(
            config,
            self.data,
            ranks=self.fabric.world_size,
            device=str(self.fabric.device),
            parameters=self.parameters,
        )
        self.newest = self.checkpoints.latest()
        """Newest checkpoint: the state is as it was then, or has grown from it."""
        if self.newest is not None and not resume:
            raise UsageError(
                f"{config.output_dir} holds checkpoints up to {self.newest.name}; resume, or use another folder"
            )
        if self.newest is not None:
            self._load(self.newest)

    @property
    def batch(self) -> int:
        """How many samples one optimizer step takes over all ranks."""
        return self.config.data.batch_size * self.fabric.world_size * self.config.optimizer.accumulate

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps of an epoch."""
        return len(self.data.train) / self.config.optimizer.accumulate

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.schedule.steps

    def fit(self, stop_at: int | None = None) -> bool:
        """Train to the end of the schedule.

        Parameters
        ----------
        stop_at
            Stop as if asked by a signal after this step.

        Returns
        -------
        bool
            True if the schedule is done; False if a signal stopped the run, which is then saved.

        Raises
        ------
        UsageError
            If another run is at work in the output folder, or has been since this one was made.
        ClaimLostError
            If another run has taken the folder over, because this one was stopped for long.
        """
        with self._claimed():
            return self._train(stop_at)

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        """Own the run's folder: the first rank takes the claim, and all hear what came of it."""
        folder = self.config.output_dir
        with ExitStack() as claims:

            def claim() -> None:
                folder.mkdir(parents=True, exist_ok=True)
                claims.enter_context(claimed(folder))
                remove_strays(folder)

            on_first_rank(self.fabric, claim)
            latest, fault = self.checkpoints.latest(), None
            if latest != self.newest:
                fault = UsageError(
                    f"{folder} was trained on by another run in between (its newest checkpoint is"
                    f" {latest and latest.name}, not {self.newest and self.newest.name}); run the same command again"
                )
            raise_on_all(self.fabric, fault)
            yield

    def _train(self, stop_at: int | None) -> bool:
        config = self.config
        logs: Logs | None = None

        def open_logs() -> None:
            nonlocal logs
            write_text(config.output_dir / "config.yaml", print_config(config))
            logs = Logs(config.output_dir, config.logs, config.name, self.step, self.manifest["config"])

        on_first_rank(self.fabric, open_logs)
        meter = Meter(config.model, self.fabric.device, config.logs.peak_tflops)
        batches = _endless(self.data.train)
        total = torch.zeros((), device=self.fabric.device)
        counted = 0
        self.wrapped.train()
        with stop_on_signals() as request:
            while not self.done:
                loss, norm = self._step(batches, meter)
                total, counted = total + loss, counted + 1
                if self._due(config.logs.every_steps) or self.done:
                    self._log(logs, meter, total / counted, norm)
                    total, counted = torch.zeros_like(total), 0
                since = time.perf_counter()
                if self._due(self._epochs(config.validation.every_epochs)) or self.done:
                    self._validate(logs)
                stop = self._agree(request, stop_at)
                if stop or self.done or self._due(self._save_interval):
                    self._save()
                meter.pause(since)
                if stop:
                    break
        if logs is not None:
            logs.close()
        return self.done

    def _step(self, batches: Iterator[Batch], meter: Meter) -> tuple[Tensor, Tensor]:
        """One optimizer step: its loss on this rank and the norm of its gradient."""
        config = self.config
        rate, micros = self.schedule.rate(self.step), config.optimizer.accumulate
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), device=self.fabric.device)
        samples = 0
        for micro in range(micros):
            since = time.perf_counter()
            batch = next(batches).to(self.fabric.device)
            meter.wait(since)
            mask = draw_masks(config.model, config.seed, self._numbers(micro, len(batch))).to(self.fabric.device)
            with self.fabric.no_backward_sync(self.wrapped, enabled=micro < micros - 1):
                loss = self.wrapped(batch.pixels, batch.valid, batch.minutes, mask)
                self.fabric.backward(loss / micros)
            total += loss.detach() / micros
            samples += len(batch)
        norm = self._clip()
        self.stepper.step()
        self.stepper.zero_grad()
        if self.average is not None:
            self.average.update(self.model, self.step)
        self.step += 1
        meter.count(samples)
        return total, norm

    def _numbers(self, micro: int, count: int) -> range:
        """Places of this rank's samples in the stream of all samples of the run: each mask is drawn from one."""
        before = (self.step * self.config.optimizer.accumulate + micro) * self.fabric.world_size
        start = (before + self.fabric.global_rank) * self.config.data.batch_size
        return range(start, start + count)

    def _clip(self) -> Tensor:
        limit = self.config.optimizer.clip
        norm = self.fabric.clip_gradients(
            self.wrapped, self.stepper, max_norm=float("inf") if limit is None else limit, error_if_nonfinite=False
        )
        assert norm is not None
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _due(self, every: int | None) -> bool:
        return every is not None and self.step % every == 0

    def _epochs(self, epochs: float | None) -> int | None:
        return None if epochs is None else max(1, round(epochs * self.steps_per_epoch))

    @property
    def _save_interval(self) -> int | None:
        settings = self.config.checkpoints
        return settings.every_steps or self._epochs(settings.every_epochs)

    def _agree(self, request: StopRequest, stop_at: int | None) -> bool:
        """Whether any rank was asked to stop; all ranks must stop after the same step."""
        asked = bool(request) or self.step == stop_at
        if self.fabric.world_size == 1:
            return asked
        flag = torch.tensor(int(asked), device=self.fabric.device)
        return bool(torch.as_tensor(self.fabric.all_reduce(flag, reduce_op="max")).item())

    def _log(self, logs: Logs | None, meter: Meter, loss: Tensor, norm: Tensor) -> None:
        mean = float(torch.as_tensor(self.fabric.all_reduce(loss, reduce_op="mean")))
        row = {
            "epoch": self.step / self.steps_per_epoch,
            "loss": mean,
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": float(norm),
            **meter.row(self.fabric.world_size),
        }
        if not torch.isfinite(torch.tensor([mean, row["grad_norm"]])).all():
            raise StratacubeError(
                f"loss {mean} or gradient norm {row['grad_norm']} is not finite at step {self.step};"
                f" lower the rate, set optimizer.clip, or check the data, and go on from {self.checkpoints.latest()}"
            )

        def write() -> None:
            assert logs is not None
            logs.metrics(self.step, row)
            _log.info("step %d/%d: loss %.4f, rate %.2e", self.step, self.schedule.steps, mean, row["lr"])

        on_first_rank(self.fabric, write)

    def _validate(self, logs: Logs | None) -> None:
        if self.data.validation is None or self.config.validation.every_epochs is None:
            return
        settings = self.config.validation
        with self.average.applied(self.model) if self.average is not None else nullcontext():
            report = validate(
                self.model,
                self.data.validation,
                self.data.statistics,
                self.fabric,
                seed=settings.seed,
                batches=settings.batches,
            )
        self.losses[self.step] = report.loss

        def write() -> None:
            assert logs is not None
            logs.validation(self.step, report.loss, report.of())
            _log.info("step %d: validation loss %.4f", self.step, report.loss)

        on_first_rank(self.fabric, write)

    def _save(self) -> None:
        weights, moments = whole_state(self.model, self.optimizer)
        ranks = gather(self.fabric, {"random": random_state(), "loader": dict(self.data.train.state_dict())})
        state = {"step": self.step, "optimizer": moments, "ranks": ranks, "losses": self.losses}

        def fill(folder: Path) -> None:
            save_model(self.config.model, weights, folder / "weights.safetensors", step=str(self.step))
            if self.average is not None:
                values = {name: value.cpu() for name, value in self.average.values.items()}
                save_model(self.config.model, values, folder / "ema.safetensors", step=str(self.step))
            torch.save(state, folder / "state.pt")
            (folder / "manifest.json").write_text(json.dumps(self.manifest, indent=1) + "\n")

        def write() -> None:
            self.checkpoints.write(self.step, fill)
            self.checkpoints.drop_old(self.losses)

        on_first_rank(self.fabric, write)  # the others wait until it is there
        self.newest = self.checkpoints.path(self.step)

    def _load(self, path: Path) -> None:
        try:
            self._load_state(path)
        except OSError as error:
            if path.exists():
                raise
            raise UsageError(
                f"{path} was removed while it was read: another run is at work in {self.config.output_dir}; wait until"
                " it ends and run the same command again"
            ) from error

    def _load_state(self, path: Path) -> None:
        manifest = read_manifest(path)
        refuse_other_run(manifest, self.config, self.data, path)
        state = read_state(path)
        load_whole_state(self.model, self.optimizer, read_weights(path / "weights.safetensors")[1], state["optimizer"])
        if self.average is not None:
            self.average.load(read_weights(path / "ema.safetensors")[1])
        own = own_part(state["ranks"], self.fabric.global_rank, self.fabric.world_size)
        self.data.train.load_state_dict(own["loader"])
        set_random_state(own["random"])
        self.step, self.losses = state["step"], state["losses"]
        self.manifest["resumed"] = [*manifest.get("resumed", []), {"step": self.step, "ranks": self.fabric.world_size}]
        _log.info("going on from %s", path)


def _endless(loader: BatchLoader) -> Iterator[Batch]:
    """Batches of one epoch after another."""
    empty = 0
    while empty < 2:  # a loader that stands at the end of its epoch gives one empty round
        empty += 1
        for batch in loader:
            empty = 0
            yield batch
    raise StratacubeError("the training loader gives no batches; check the filter and the batch size")
