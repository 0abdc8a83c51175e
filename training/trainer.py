"""The training loop: one optimizer step after another, resumable at each."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from lightning.fabric import Fabric
from lightning.fabric.wrappers import _FabricOptimizer
from torch import Tensor
from torch.distributed.tensor import DTensor

from loaders.order import Share
from stratacube.claim import claimed
from stratacube.errors import UsageError
from stratacube.files import remove_strays, write_text
from training.ahead import Ahead
from training.batches import Data
from training.checkpoint import Checkpoints
from training.compute import make_fabric, on_first_rank, raise_on_all, talk_beside
from training.config import PretrainConfig, print_config
from training.facts import RunFacts
from training.folders import refuse_no_run
from training.logs import Logs
from training.manifest import make_manifest, read_manifest, refuse_other_config, refuse_other_data
from training.meter import Meter
from training.mixed import masks_of
from training.models.joint import make_model
from training.models.weights import load_weights, read_weights
from training.opening import open_run_data
from training.optimizer import Average, adamw, step_if
from training.report import write_report
from training.saving import Writer, gather_state, load_state
from training.starting import fit_start
from training.stopping import StopRequest, stop_on_signals
from training.validate import validate_parts
from training.watch import Watch

__all__ = ["Trainer"]

_log = logging.getLogger(__name__)
T = TypeVar("T")


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
        If the output folder holds a run of another config or other data, or holds one and ``resume`` is off; or if the
        ranks do not share its steps evenly.
    """

    def __init__(
        self, config: PretrainConfig, fabric: Fabric | None = None, data: Data | None = None, *, resume: bool = True
    ) -> None:
        self.config = config
        self.fabric = fabric or make_fabric(config.run)
        self.fabric.seed_everything(config.seed, workers=False, verbose=False)
        rank, ranks, device = self.fabric.global_rank, self.fabric.world_size, self.fabric.device
        self.checkpoints = Checkpoints(
            config.output_dir / "checkpoints", config.checkpoints.keep_last, config.checkpoints.keep_best
        )
        refuse_no_run(config.output_dir)
        self.newest = self.checkpoints.latest()
        """Newest checkpoint: the state is as it was then, or has grown from it."""
        if self.newest is not None and not resume:
            raise UsageError(
                f"{config.output_dir} holds checkpoints up to {self.newest.name}; resume, or use another folder"
            )
        before = None if self.newest is None else self._read(self.newest, read_manifest)
        if before is not None:
            assert self.newest is not None
            refuse_other_config(before, config, self.newest)
        self.data = data or open_run_data(config, self.fabric, before)
        self.facts = RunFacts.begin(config, self.data.train.samples, ranks)
        if before is not None:
            assert self.newest is not None
            refuse_other_data(before, self.data, self.newest)
            self.facts = RunFacts.read(before, config, self.data.train.samples)
        self.share = Share.fit(self.facts.batch, config.data.batch_size, rank, ranks)
        self.model = make_model(config.model)
        if self.model.start is not None and before is None:
            alone = Share.fit(self.facts.batch, config.data.batch_size)
            fit_start(self.model, self.data.train, alone, self.facts.origin, config.seed)
        if config.init_from is not None:
            load_weights(self.model, *read_weights(config.init_from)[:2], config.init_from)
        if config.run.compile:
            self.model.compile()
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.wrapped = self.fabric.setup_module(self.model)
        self.schedule = self.facts.schedule
        scaled = getattr(self.fabric.strategy.precision, "scaler", None) is not None
        self.optimizer = adamw(self.model, config.optimizer, self.schedule.rate(0), scaled=scaled)
        self.stepper = cast(_FabricOptimizer, self.fabric.setup_optimizers(self.optimizer))
        decay = config.optimizer.ema
        self.average = Average(self.model, decay) if decay is not None else None
        self.watch = Watch(device, scaled=scaled)
        self.scaled = scaled
        self.talk = talk_beside(self.fabric)
        self.writer = Writer()
        self.step, self.stopped_by = 0, 0
        """Steps done, and the number of the signal that stopped the run, if one did."""
        self.losses: dict[int, float] = {}
        self.manifest = make_manifest(
            config, self.data, self.facts, ranks=ranks, device=str(device), parameters=self.parameters
        )
        if before is not None:
            assert self.newest is not None
            self._read(self.newest, partial(load_state, self))
            self.manifest["resumed"] = [*before.get("resumed", []), {"step": self.step, "ranks": ranks}]
            _log.info("going on from %s", self.newest)

    @property
    def batch(self) -> int:
        """How many samples one optimizer step takes over all ranks."""
        return self.facts.batch

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
        meter = Meter(config.model, self.fabric.device, config.logs.peak_tflops, self.data.shares)
        self.wrapped.train()
        with self.writer, stop_on_signals() as request:
            ahead = self._ahead()
            while not self.done:
                norm = self._step(ahead, meter)
                if self._due(config.logs.every_steps) or self.done:
                    self._log(logs, meter, norm)
                if self._due(self._epochs(config.validation.every_epochs)) or self.done:
                    with meter.pause():
                        self._validate(logs)
                stopped = self._agree(request, stop_at)
                last = bool(stopped) or self.done
                if last or self._due(self._save_interval):
                    with meter.pause():
                        self._save(last=last)
                if stopped:
                    self.stopped_by = stopped
                    break
        if logs is not None:
            logs.close()
            write_report(config.output_dir, self.manifest)
        return self.done

    def _ahead(self) -> Ahead:
        """Batches from where the run stands on, and the masks of each."""
        config, first = self.config, self.step * self.facts.batch

        def masks(number: int, batch: Any) -> Any:
            """Drawn from the places of the samples in all that the run sees: any number of ranks draws the same."""
            return masks_of(config.model, config.seed, (first + self.share.batch(number)[: len(batch)]).tolist(), batch)

        stream = self.data.train.stream(self.share, self.facts.origin + first)
        return Ahead(stream, masks, self.fabric.device)

    def _step(self, ahead: Ahead, meter: Meter) -> Tensor:
        """One optimizer step: the norm of its gradient."""
        rate, rounds = self.schedule.rate(self.step), self.share.rounds
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), device=self.fabric.device)
        for number in range(rounds):
            with meter.waiting():
                batch, mask = ahead.take()
            with self.fabric.no_backward_sync(self.wrapped, enabled=number < rounds - 1):
                loss = self.wrapped(*batch.inputs(mask))
                self.fabric.backward(loss / rounds)
            total += loss.detach() / rounds
            self.watch.batch(batch.valid_share())
            with meter.waiting():
                ahead.prepare()
        norm = self._clip()
        counts = self.watch.step(total, norm)
        if self.scaled:
            self.stepper.step()  # looks by itself, and sets the scale anew
        else:
            step_if(self.optimizer, counts, self.stepper.step)
        self.stepper.zero_grad()
        if self.average is not None:
            self.average.update(self.model, self.step)
        self.step += 1
        meter.count(rounds * self.share.batch_size)
        return norm

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
        return None if epochs is None else max(1, round(epochs * self.facts.steps_per_epoch))

    @property
    def _save_interval(self) -> int | None:
        settings = self.config.checkpoints
        return settings.every_steps or self._epochs(settings.every_epochs)

    def _agree(self, request: StopRequest, stop_at: int | None) -> int:
        """By which signal any rank was asked to stop, 0 if none was; all ranks must stop after the same step."""
        asked = request.number or (signal.SIGTERM if self.step == stop_at else 0)
        if self.fabric.world_size == 1:
            return asked
        flag = torch.tensor(asked)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=self.talk)
        return int(flag)

    def _log(self, logs: Logs | None, meter: Meter, norm: Tensor) -> None:
        watched = self.watch.row(self.fabric, last=self.done)
        size = float(norm)
        row = {
            "epoch": self.step / self.facts.steps_per_epoch,
            "loss": watched["loss"],
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": size if math.isfinite(size) else None,
            **meter.row(self.fabric.world_size),
            "valid_share": watched["valid_share"],
            "skipped": watched["skipped"],
        }
        self.watch.refuse_lost(self.step, self.checkpoints.latest())
        told = "not finite" if row["loss"] is None else f"{row['loss']:.4f}"

        def write() -> None:
            assert logs is not None
            logs.metrics(self.step, row)
            _log.info("step %d/%d: loss %s, rate %.2e", self.step, self.schedule.steps, told, row["lr"])

        on_first_rank(self.fabric, write)

    def _validate(self, logs: Logs | None) -> None:
        settings = self.config.validation
        if not self.data.judged or settings.every_epochs is None:
            return
        with self.average.applied(self.model) if self.average is not None else nullcontext():
            report = validate_parts(self.model, self.data, self.fabric, seed=settings.seed, batches=settings.batches)
        self.losses[self.step] = report.loss

        def write() -> None:
            assert logs is not None
            logs.validation(self.step, report.loss, report.of())
            _log.info("step %d: validation loss %.4f", self.step, report.loss)

        on_first_rank(self.fabric, write)

    def _save(self, *, last: bool) -> None:
        """Begin to write a checkpoint; the last is waited for."""
        self.watch.refuse_lost(self.step, self.checkpoints.latest())
        step, losses, fill = self.step, dict(self.losses), gather_state(self)

        def write() -> None:
            self.checkpoints.write(step, fill)
            self.checkpoints.drop_old(losses)

        def begin() -> None:
            self.writer.start(write)
            if last or not self.config.checkpoints.asynchronous:
                self.writer.wait()

        on_first_rank(self.fabric, begin)
        self.newest = self.checkpoints.path(step)

    def _read(self, path: Path, read: Callable[[Path], T]) -> T:
        try:
            return read(path)
        except OSError as error:
            if path.exists():
                raise
            raise UsageError(
                f"{path} was removed while it was read: another run is at work in {self.config.output_dir}; wait until"
                " it ends and run the same command again"
            ) from error
