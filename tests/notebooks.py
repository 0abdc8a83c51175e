"""Runs notebooks in a real kernel, each in a process of its own, from a folder that holds the demo's data.

``python tests/notebooks.py docs/notebooks/*.ipynb --folder . --keep`` writes what they show back into them.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

COLOUR = "\033" + r"\[[0-9;]*m"
LIMIT, STARTUP = 600, 180
"""Seconds for one cell, and for a kernel to start."""


def run(path: Path, folder: Path) -> Any:
    """Run a notebook from a folder; raises CellExecutionError with the cell that fails."""
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=LIMIT, startup_timeout=STARTUP, record_timing=False, resources=place)
    client.execute()
    return notebook


def kept(notebook: Any, folder: Path) -> Any:
    """Leave out of what was shown what differs from run to run: warnings, and where it was run."""
    for cell in notebook.cells:
        outputs = [o for o in cell.get("outputs", ()) if o.get("name") != "stderr"]
        for output in outputs:
            if "text" in output:
                output["text"] = output["text"].replace(f"{folder.resolve()}/", "")
            output.get("metadata", {}).clear()
        if cell.cell_type == "code":
            cell["outputs"], cell["execution_count"] = outputs, None
            for output in outputs:
                if "execution_count" in output:
                    output["execution_count"] = None
    return notebook


def main() -> int:
    """Run those named; the exit code is the number of those that fail."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="where to run them: it holds demo/")
    parser.add_argument("--keep", action="store_true", help="write what they show back into them")
    options = parser.parse_args()
    failed = 0
    for path in options.notebooks:
        try:
            notebook = run(path, options.folder)
        except CellExecutionError as error:
            failed += 1
            sys.stderr.write(f"{path} fails:\n{re.sub(COLOUR, '', str(error))}\n")
            continue
        if options.keep:
            nbformat.write(kept(notebook, options.folder), path)
        sys.stdout.write(f"{path} runs\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
