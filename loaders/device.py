"""Where to compute, by name."""

from __future__ import annotations

import torch

from stratacube.errors import UsageError

__all__ = ["device_of"]


def device_of(name: str) -> torch.device:
    """Device of a name, such as ``cpu`` or ``cuda:1``.

    Raises
    ------
    UsageError
        If there is none, or this torch cannot use it.
    """
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError) as error:  # torch says by an assertion that it was built without CUDA
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UsageError(
            f"`device` is {name}, which cannot be used here ({reason}); give cpu, or a GPU as cuda"
        ) from error
    return torch.device(name)
