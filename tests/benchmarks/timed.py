"""What is timed of one version of the code, in a process of its own; run by path, with that version on the path.

Nothing of this checkout is imported here, and of the version only what both sides of a comparison have: its command
line, ``index_file`` and ``tile_loader``.

``python timed.py NAME`` reads the arguments of a function as JSON and writes what it measured as a last line of JSON:
``seconds`` of CPU by row, of this process and its children, and ``made``, which tells whether both sides did the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import runpy
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def spent() -> float:
    """CPU seconds of this process since it began, and of the children it has waited for, user and system."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def tree(command: Sequence[str]) -> dict[str, Any]:
    """A command and every process it leaves behind, start-up of Python included.

    The server that workers are forked from outlives the command by a moment, and would be waited for by init, which
    tells nobody what it used. As a subreaper this process inherits such orphans and waits for them, so that the usage
    of its children is that of the whole tree.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "this process cannot be made the parent of orphans (prctl)")
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": {"": used.ru_utime + used.ru_stime}, "made": ""}


def commands(runs: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Run commands of ``cube.build`` one after another in this process.

    Parameters
    ----------
    runs
        Of each: the row it counts for (those of one row are averaged, those of none only warm up; of ``start`` the time
        since this process began, its imports included), the folder it makes anew, and the arguments.
    """
    seconds: dict[str, list[float]] = {}
    made = hashlib.sha256()
    for row, folder, arguments in runs:
        shutil.rmtree(folder, ignore_errors=True)
        before = spent()
        _command(arguments)
        after = spent()
        if row is not None:
            seconds.setdefault(row, []).append(after if row == "start" else after - before)
            made.update("\n".join(_products(Path(folder))).encode())
    return {"seconds": {row: sum(s) / len(s) for row, s in seconds.items()}, "made": made.hexdigest()[:16]}


def _command(arguments: Sequence[str]) -> None:
    """``python -m cube.build ARGUMENTS``, but in this process: its imports are paid for once."""
    sys.argv = ["cube.build", *arguments]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*found in sys.modules.*")  # runpy's, of a module run twice
        try:
            runpy.run_module("cube.build", run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            if stop.code:
                raise RuntimeError(f"cube.build {' '.join(arguments)} ended with {stop.code}") from None


def _products(folder: Path) -> list[str]:
    """Names of what a build made: of tiles from its plan, of composites from its files."""
    plan = folder / "plan.parquet"
    if plan.exists() and not (folder / "composites").exists():
        import pandas as pd

        return sorted(pd.read_parquet(plan, columns=["tile_id"])["tile_id"])
    return sorted(str(path.relative_to(folder)) for path in folder.glob("composites/*/*.tif"))


def index(archive: str, copies: Sequence[str], cache: str) -> dict[str, Any]:
    """Index files that this process has not seen, with the index saved, and then from what was saved.

    The first time, of ``archive`` itself, is not counted: imports and the page cache.
    """
    room = "geostationary" if find_spec("cube.geostationary") else "abi"  # as older sides call it
    LocalArchive = import_module(f"catalog.{room}.archives").LocalArchive
    index_file = import_module(f"cube.{room}.index").index_file

    def files(folder: str) -> list[Any]:
        return sorted(LocalArchive(Path(folder)).files(None, None, None, None), key=lambda file: file.href)

    shutil.rmtree(cache, ignore_errors=True)
    for file in files(archive):
        index_file(file, Path(cache))
    listed = [file for folder in copies for file in files(folder)]
    seconds, chunks = {}, set()
    for row, times in (("made", 1), ("cached", 10)):  # what is saved loads in half a millisecond a file
        before = spent()
        chunks |= {sum(index_file(file, Path(cache)).rad.offsets.size for file in listed) for _ in range(times)}
        seconds[row] = (spent() - before) / times
    return {"seconds": seconds, "made": f"{len(listed)} files, {chunks} chunks"}


def loader(store: str, batch: int, epochs: int) -> dict[str, Any]:
    """Epochs of a tile store to float32 radiance in this process; the first one is not counted."""
    from loaders import tile_loader

    batches, samples = tile_loader(store, batch, workers=0), 0
    for _ in batches:
        pass
    before = spent()
    for _ in range(epochs):
        samples += sum(len(b) for b in batches)
    return {"seconds": {"": spent() - before}, "made": f"{samples} samples"}


def main(name: str) -> None:
    """Run one of these functions."""
    where = Path(os.environ["PYTHONPATH"])
    found = {"commands": commands, "index": index, "loader": loader, "tree": tree}[name](**json.loads(sys.stdin.read()))
    modules = [m for n, m in sys.modules.items() if n.partition(".")[0] in ("cube", "catalog", "loaders", "stratacube")]
    strange = [m.__file__ for m in modules if m.__file__ and where not in Path(m.__file__).parents]
    if strange:  # an installed version would be compared with itself
        raise RuntimeError(f"{strange[0]} was imported, which is not in {where}")
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
