"""How fast a run is, and where its time goes."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from training.compute import model_flops, peak_flops
from training.models import ModelConfig

__all__ = ["Meter", "sample_flops"]


def sample_flops(config: ModelConfig, shares: Mapping[str, float] | None = None) -> float:
    """Floating-point operations of one sample's forward and backward pass.

    Parameters
    ----------
    config
        The model.
    shares
        Of a model of several sources, by name: of the samples; the mean is told.
    """
    if shares:
        return sum(sample_flops(config.part(name)) * share for name, share in shares.items())
    size, groups = config.dimensions, config.group_indices
    pixels = config.patch_size**2 * len(config.bands) // len(groups)
    return model_flops(
        config.tokens,
        config.visible_tokens,
        (size.embed_dim, size.depth),
        (size.decoder_dim, size.decoder_depth),
        pixels,
    )


class Meter:
    """Counts samples, waiting and time between two rows of the log.

    Parameters
    ----------
    config
        The model.
    device
        Where it runs.
    peak_tflops
        Peak of the device, if it is not known by name.
    shares
        As of :func:`sample_flops`.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device,
        peak_tflops: float | None,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        self.device = device
        self.flops, self.peak = sample_flops(config, shares), peak_flops(device, peak_tflops)
        self._restart()

    def _restart(self) -> None:
        self.start = time.perf_counter()
        self.samples = self.steps = 0
        self.waited = 0.0
        self.paused = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time within as waiting for data."""
        since = time.perf_counter()
        yield
        self.waited += time.perf_counter() - since

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave out what is done within: validation, checkpoints. What the device had to do before is not theirs."""
        self.synchronise()
        since = time.perf_counter()
        yield
        self.synchronise()
        self.paused += time.perf_counter() - since

    def synchronise(self) -> None:
        """Wait until the device has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def count(self, samples: int) -> None:
        """Count one optimizer step of so many samples of this rank."""
        self.samples += samples
        self.steps += 1

    def row(self, ranks: int) -> dict[str, Any]:
        """Give the numbers since the last row, and start anew."""
        self.synchronise()
        seconds = max(time.perf_counter() - self.start - self.paused, 1e-9)
        rate = self.samples / seconds
        row = {
            "samples_per_s": rate * ranks,
            "step_s": seconds / max(1, self.steps),
            "data_wait": self.waited / seconds,
            "mfu": rate * self.flops / self.peak if self.peak else None,
            "memory_gib": self._memory() / 2**30,
        }
        self._restart()
        return row

    def _memory(self) -> float:
        """Peak memory in bytes: of the device, or of the process on a CPU."""
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return float(peak if sys.platform == "darwin" else peak * 1024)
