"""Runs commands one after another in one process, and tells what it holds after each: JSON in, JSON out."""

from __future__ import annotations

import gc
import json
import os
import sys

import psutil

import cube.job.folder as folders
from cube.build import main
from tests.job.starter import _Clock


def held() -> dict[str, float]:
    """What this process holds: memory of its own in MiB, open files, threads."""
    gc.collect()
    me = psutil.Process()
    return {"MiB": me.memory_full_info().uss / 2**20, "files": me.num_fds(), "threads": me.num_threads()}


def serve() -> None:
    """Answer orders until there are none."""
    folders.datetime = _Clock  # type: ignore[assignment,misc]
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        order = json.loads(line)
        handle = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(handle, stream)
        os.close(handle)
        try:
            code = main(order["arguments"])
        except SystemExit as end:
            code = int(end.code or 0)
        answers.write(json.dumps({"code": code, **held()}) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
