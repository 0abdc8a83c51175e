"""Devices and strategies: what Lightning Fabric is told, and whole state out of and into sharded models."""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from stratacube.errors import StratacubeError, UsageError
from training.config import RunConfig
from training.precision import precision_of

__all__ = [
    "gather",
    "load_whole_state",
    "make_fabric",
    "model_flops",
    "on_first_rank",
    "peak_flops",
    "raise_on_all",
    "shards",
    "talk_beside",
    "whole_state",
]

_LETTING_GO = 0.5
"""Seconds before a rank ends in which gloo's threads let go of the last tensors that they sent: one that does so after
the interpreter's end aborts the process, whose work was done (pytorch/pytorch#179291). Leaving the process group, as is
right for NCCL, would wait for ever where another rank has failed."""

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_PEAK_BF16 = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "GH200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A40": 150e12,
    "V100": 125e12,
}
"""Dense matrix throughput without sparsity, FLOP/s, from NVIDIA's data sheets."""


def make_fabric(run: RunConfig) -> Fabric:
    """Fabric for a run; nodes and ranks come from Slurm or torchrun where one of them starts the processes."""
    torch.set_float32_matmul_precision(run.matmul)
    torch.use_deterministic_algorithms(run.deterministic)
    strategy: Any = run.strategy
    if shards(run):
        strategy = _Sharded(parallelize_fn=_Sharding(run), data_parallel_size=1, tensor_parallel_size=1)
    devices = 1 if run.devices == "auto" and not torch.cuda.is_available() else run.devices
    kind = run.accelerator if run.accelerator != "auto" else _kind()
    try:
        fabric = Fabric(
            accelerator=kind,
            devices=devices,
            num_nodes=run.nodes,
            strategy=strategy,
            plugins=[precision_of(run.precision, kind)],
        )
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:  # of Fabric, as it likes
        reason = " ".join(str(error).split())
        raise UsageError(f"{devices} devices of kind {kind} cannot be used ({reason}); see the config's run") from error
    fabric.launch()
    if fabric.world_size > 1 and torch.distributed.get_backend() == "gloo":
        atexit.register(time.sleep, _LETTING_GO)
    return fabric


def _kind() -> str:
    """Kind of the device that is there."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def shards(run: RunConfig) -> bool:
    """Whether weights are spread over the ranks."""
    return run.strategy in ("fsdp", "zero2")


class _Sharded(ModelParallelStrategy):
    """All ranks share one set of weights; their number is known when the processes are set up."""

    def setup_environment(self) -> None:
        """Set up the processes and their mesh."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


class _Sharding:
    """Shard every block, then the rest (FSDP2)."""

    def __init__(self, run: RunConfig) -> None:
        self.run = run

    def __call__(self, model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        low = torch.bfloat16 if self.run.precision.startswith("bf16") else None
        settings: dict[str, Any] = {
            "mesh": mesh["data_parallel"],
            "reshard_after_forward": self.run.strategy == "fsdp",
            "mp_policy": MixedPrecisionPolicy(
                param_dtype=low,
                reduce_dtype=torch.float32 if low else None,
                cast_forward_inputs=False,  # targets stay as they are; the model casts what it computes with
            ),
        }
        for name in ("encoder", "decoder"):
            for block in getattr(model, name):
                fully_shard(block, **settings)
        fully_shard(model, **settings)
        for method in ("reconstruct", "encode"):
            register_fsdp_forward_method(model, method)
        return model


def whole_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Whole weights and optimizer state on the CPU, by name of parameter; collective, complete on rank 0."""
    weights = get_model_state_dict(model, options=_WHOLE)
    return dict(weights), dict(get_optimizer_state_dict(model, optimizer, options=_WHOLE))


def load_whole_state(
    model: nn.Module, optimizer: torch.optim.Optimizer | None, weights: dict[str, Any], moments: dict[str, Any] | None
) -> None:
    """Put `whole_state` back, from one process into any number or the reverse."""
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, weights, options=options)
    if optimizer is not None and moments is not None:
        set_optimizer_state_dict(model, optimizer, moments, options=options)


def gather(fabric: Fabric, value: Any) -> list[Any]:
    """A plain value of every rank, on every rank."""
    if fabric.world_size == 1:
        return [value]
    parts: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(parts, value)
    return parts


def talk_beside(fabric: Fabric) -> Any:
    """Group of all ranks that talks between their CPUs: whether to stop is asked in every step, and no device waits."""
    if fabric.world_size == 1 or torch.distributed.get_backend() == "gloo":
        return None  # the usual one
    return torch.distributed.new_group(backend="gloo")


def on_first_rank(fabric: Fabric, function: Callable[[], None]) -> None:
    """Do something on the first rank; a fault of it is raised on all, so that none waits for one that has gone.

    Parameters
    ----------
    fabric
        The ranks; all must call this.
    function
        What only the first rank does.
    """
    fault: Exception | None = None
    if fabric.is_global_zero:
        try:
            function()
        except Exception as error:  # noqa: BLE001  (raised again below, on all ranks)
            fault = error
    raise_on_all(fabric, fault)


def raise_on_all(fabric: Fabric, fault: Exception | None) -> None:
    """Raise on every rank the first fault that any has met, for one of them to say; return on all where none has."""
    told = fault
    if fault is not None and not isinstance(fault, StratacubeError):  # others' errors cannot always be sent
        told = StratacubeError(f"another rank failed ({type(fault).__name__}: {' '.join(str(fault).split())[:300]})")
    faults = {rank: found for rank, found in enumerate(gather(fabric, told)) if found is not None}
    if not faults:
        return
    first = min(faults)
    error: Exception = faults[first] if fault is None else fault
    if isinstance(error, StratacubeError):
        error.silent = fabric.global_rank != first
    raise error


def peak_flops(device: torch.device, given: float | None) -> float | None:
    """Peak of one device in FLOP/s for 16-bit products; None if it is not known."""
    if given is not None:
        return given * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in _PEAK_BF16.items() if key in name), None)


def model_flops(tokens: int, visible: int, encoder: tuple[int, int], decoder: tuple[int, int], pixels: int) -> float:
    """Floating-point operations of one sample's forward and backward pass, recomputation not counted.

    A multiply-add is two; backward is twice forward. A block of width d on n tokens takes 24 n d^2 for its matrices and
    4 n^2 d for attention.

    Parameters
    ----------
    tokens, visible
        Tokens of a sample, and how many the encoder sees.
    encoder, decoder
        Width and depth.
    pixels
        Values of one token's patch.
    """
    forward = 2.0 * visible * pixels * encoder[0] + 2.0 * tokens * pixels * decoder[0]
    forward += 2.0 * visible * encoder[0] * decoder[0]
    for (width, depth), count in ((encoder, visible), (decoder, tokens)):
        forward += depth * (24.0 * count * width**2 + 4.0 * count**2 * width)
    return 3 * forward
