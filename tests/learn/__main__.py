"""Seek evidence of learning, and write it to docs/benchmarks.md: ``python -m tests.learn [CASE ...]``, ``make learn``.

Of each case some seeds are trained and judged beside the baselines, on the same hidden pixels. ``--quick`` takes few
steps; the page says how many were taken. Needs the real samples of ``STRATACUBE_DATA``.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev

import torch

from tests.benchmarks.__main__ import machine, write_part
from tests.benchmarks.table import CHECKOUT
from tests.learn.runs import BATCH, OURS, PLAIN, Errors, Run, run
from tests.learn.scenes import CASES, Case

STEPS, QUICK = 400, 40
TARGET = 0.8
"""Share of the bands in which the best baseline is to be beaten."""
NOTE = f"""RMSE on hidden valid pixels of windows that keep a gap from all that is learned from, in reflectance or
kelvin; model, regression and statistics know the training part alone, and all see the same pixels. Six tenths of the
tokens of 8 x 8 pixels are hidden. The model has `start: regression` and `detail: {OURS["detail"]}` (0.8 M parameters,
size nano): "begun" is what it says before its first step, when it is a linear regression on other bands, frames and
surroundings; "plain" the same transformer without either, which has to predict pixels from tokens alone. Ratios are to
the best baseline of the band."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; exit code 1 if the best baseline is not beaten in enough bands of real scenes."""
    parser = argparse.ArgumentParser(prog="python -m tests.learn", description=str(__doc__).splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)} (default: all)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of the optimizer (default: {STEPS})")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each case (default: 3)")
    parser.add_argument("--no-scaling", action="store_true", help="leave out the curve in tiles and steps")
    parser.add_argument(
        "--quick", action="store_true", help=f"one seed, {QUICK} steps, no curve; the page is not written"
    )
    options = parser.parse_args(arguments)
    if unknown := sorted({*options.cases} - {*CASES}):
        parser.error(f"no case is called {unknown[0]}; there are {', '.join(CASES)}")
    folders = [os.environ.get("STRATACUBE_DATA"), CHECKOUT.parent / "shared" / "data"]
    data = next((Path(folder) for folder in folders if folder and Path(folder).is_dir()), None)
    if data is None:
        parser.error("real samples are not here; set STRATACUBE_DATA to their folder")
    logging.getLogger("lightning").setLevel(logging.ERROR)
    started, met, parts = time.monotonic(), True, []
    steps, seeds = (QUICK, 1) if options.quick else (options.steps, options.seeds)
    for name in options.cases or CASES:
        case = CASES[name](data)
        runs = [run(case, seed=seed, steps=steps, variant=OURS) for seed in range(seeds)]
        plain = run(case, seed=0, steps=steps, variant=PLAIN)
        lines, share = table(case, runs, plain)
        met &= share >= TARGET or name == "written"
        if not (options.quick or options.no_scaling):
            lines += scaling(case, runs[0])
        sys.stderr.write("\n".join(lines) + "\n")
        parts += lines
        if not options.quick:  # after each case: a run that is stopped leaves what it has
            facts = [*machine(), f"took {(time.monotonic() - started) / 60:.0f} minutes so far"]
            told = [f"- {fact}" for fact in facts]
            write_part("learn", "\n".join([*told, "", "## Evidence of learning", "", NOTE, *parts]))
    return 0 if met else 1


def table(case: Case, runs: Sequence[Run], plain: Run) -> tuple[list[str], float]:
    """Lines of a case's table, and the share of its bands in which the mean of the seeds beats the best baseline."""
    rows, wins = [], 0
    for key, errors in runs[0].errors.items():
        best, method = min((error, name) for name, error in errors.items() if name != "model")
        found = [one.errors[key]["model"] for one in runs]
        mean, spread = fmean(found), stdev(found) if len(found) > 1 else 0.0
        begun = fmean(one.begun[key]["model"] for one in runs)
        wins += mean < best
        told = [f"{key[0]}, {key[1]}", f"{mean:.4g} ± {spread:.2g}", method, f"{best:.4g}"]
        ratios = [f"{value / best:.2f}" for value in (mean, begun, plain.errors[key]["model"])]
        rows.append("| " + " | ".join([*told, *ratios]) + " |")
    share = wins / len(rows)
    head = [
        f"\n### {case.title}\n",
        f"{len(case.train)} windows to learn from, {runs[0].steps} steps of {BATCH}, {len(runs)} seeds;"
        f" the best baseline is beaten in {wins} of {len(rows)} bands ({share:.0%}; target {TARGET:.0%}).\n",
        "| part, band | model | best baseline | its RMSE | model / it | begun / it | plain / it |",
        "|---|--:|---|--:|--:|--:|--:|",
    ]
    return [*head, *rows], share


def scaling(case: Case, whole: Run) -> list[str]:
    """Lines of the curve in windows and steps, of the first seed."""
    rows = ["\n| windows | steps | mean of model / best baseline |", "|--:|--:|--:|"]
    for one in [*_smaller(case, whole), whole]:
        rows.append(f"| {one.tiles} | {one.steps} | {_ratio(one.errors):.3f} |")
    return rows


def _smaller(case: Case, whole: Run) -> Iterator[Run]:
    for share in (16, 4):
        yield run(case, seed=0, steps=whole.steps, variant=OURS, tiles=max(BATCH, whole.tiles // share))
    for share in (8, 2):
        yield run(case, seed=0, steps=max(1, whole.steps // share), variant=OURS)


def _ratio(errors: Errors) -> float:
    return fmean(e["model"] / min(v for name, v in e.items() if name != "model") for e in errors.values())


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())
