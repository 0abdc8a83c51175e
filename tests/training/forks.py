"""Processes that train, forked from a server that has imported PyTorch and the trainer: each would take ten seconds."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

__all__ = ["begin", "begin_ranks", "end"]

PATIENCE = 240.0
"""Seconds for anything to end, on a machine that does much else."""


def begin(said: Path, function: Callable[..., int | None], *arguments: Any, **environment: str) -> BaseProcess:
    """Run a function of a module in a process of its own, whose words go to a file."""
    process = get_context("forkserver").Process(target=_run, args=(said, environment, function, arguments))
    process.start()
    return process


def _run(
    said: Path, environment: dict[str, str], function: Callable[..., int | None], arguments: Sequence[Any]
) -> None:
    os.environ.update(environment)
    handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(handle, stream)
    torch.set_num_threads(1)
    sys.exit(function(*arguments))


def begin_ranks(folder: Path, ranks: int, function: Callable[..., int | None], *arguments: Any) -> list[BaseProcess]:
    """Run a function in processes that know of one another as those of torchrun do; the words of each go to a file."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    return [
        begin(folder / f"said-{rank}", function, *arguments, **shared, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(ranks)
    ]


def end(processes: Sequence[BaseProcess]) -> list[int | None]:
    """Wait for the end of processes, each by itself, and tell their exit codes; None of those that had to be killed."""
    for process in processes:
        process.join(PATIENCE)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes
