"""Whether a command may write into a folder: a mistaken path costs nobody's files."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from stratacube.claim import CLAIM
from stratacube.errors import UsageError
from stratacube.settings import read_yaml

__all__ = ["refuse_foreign", "refuse_no_run"]


def refuse_foreign(folder: Path, ours: Set[str], command: str) -> None:
    """Refuse a folder that holds something, and nothing that a command leaves.

    Parameters
    ----------
    folder
        May be missing, or empty.
    ours
        Names of which what the command leaves has some, however early it was stopped.
    command
        What it is called.

    Raises
    ------
    UsageError
        If it is another's.
    """
    there = {path.name for path in folder.iterdir()} - {CLAIM} if folder.is_dir() else set()
    if (there and not there & ours) or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder} exists, and is not of {command}; give another folder, or remove it")


def refuse_no_run(folder: Path) -> None:
    """Refuse the folder of a build or of a published model, whose configuration a run would write over.

    Raises
    ------
    UsageError
        If it is one.
    """
    config = folder / "config.yaml"
    if (folder / "manifest.json").exists():
        what = "a checkpoint or a published model"
    elif config.exists() and "optimizer" not in read_yaml(config):
        what = "something else, such as a build: its config.yaml is not of a run"
    else:
        return
    raise UsageError(f"{folder} is the folder of {what}; give another `output_dir`")
