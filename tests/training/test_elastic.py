"""A run goes on with another number of ranks: what a step is, and the schedule, are facts of the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from loaders.order import Endless, Order, Share
from stratacube.errors import SourceError, UsageError
from tests.training.small import small_run
from training.checkpoint import own_part
from training.facts import RunFacts
from training.saving import _origin
from training.trainer import Trainer

ROOT = Path(__file__).parents[2]
LEGS = ((1, 130, 4096), (2, 71, 1024), (4, 155, 300), (8, 60, 512), (1, 200, 2048))
"""Ranks, steps and the largest batch of a rank."""


def test_no_sample_is_lost_or_repeated_however_the_ranks_change() -> None:
    step, order = 4096, Order((700_001, 400_002), seed=3)
    stream, reference = Endless(order), Endless(order)
    number, seen = 0, np.zeros(len(order), "i8")
    for ranks, steps, most in LEGS:
        shares = [Share.fit(step, most, rank, ranks) for rank in range(ranks)]
        assert len({share.rounds for share in shares}) == 1
        batches = [share.batches(number) for share in shares]
        for _ in range(steps):
            numbers = [next(rank) for _ in range(shares[0].rounds) for rank in batches]
            assert max(map(len, numbers)) <= most
            assert np.array_equal(np.concatenate(numbers), np.arange(number, number + step))
            samples = stream.samples(np.concatenate(numbers))
            assert np.array_equal(samples, reference.samples(np.arange(number, number + step)))
            np.add.at(seen, samples, 1)
            number += step
    assert number > 2 * len(order)
    whole, rest = divmod(number, len(order))
    assert set(seen.tolist()) == {whole, whole + 1}
    assert (seen == whole + 1).sum() == rest
    assert np.array_equal(np.sort(reference.samples(np.arange(len(order), 2 * len(order)))), np.arange(len(order)))


def test_draws_across_the_end_of_an_epoch_are_of_both() -> None:
    order = Order((5,), seed=1)
    drawn = Endless(order).picks(np.arange(3, 8))
    assert [(pick.epoch, pick.position) for pick in drawn] == [(0, 3), (0, 4), (1, 0), (1, 1), (1, 2)]
    expected = [order.epoch(0).samples[3:], order.epoch(1).samples[:3]]
    assert [pick.sample for pick in drawn] == np.concatenate(expected).tolist()


@pytest.mark.parametrize(("most", "ranks", "batch", "rounds"), [(4, 1, 4, 3), (4, 2, 3, 2), (5, 3, 4, 1), (8, 4, 3, 1)])
def test_a_step_is_shared_in_as_few_rounds_as_fit(most: int, ranks: int, batch: int, rounds: int) -> None:
    share = Share.fit(12, most, 0, ranks)
    assert (share.batch_size, share.rounds) == (batch, rounds)


def test_ranks_that_do_not_divide_a_step_are_refused_with_those_that_do() -> None:
    with pytest.raises(
        UsageError, match="takes 12 samples, which 5 ranks do not share evenly; take 1, 2, 3, 4, 6 or 12 r"
    ):
        Share.fit(12, 4, 0, 5)


@pytest.mark.slow
def test_a_run_goes_on_with_other_batches_as_the_same_run(tmp_path: Path) -> None:
    """The right way to go on with twice the ranks is half the batch; here one rank takes twice the rounds."""

    def config(folder: str, batch: int, accumulate: int):
        sections = {"data": {"samples": 20, "batch_size": batch}, "optimizer": {"accumulate": accumulate, "clip": None}}
        return small_run(tmp_path / folder, **sections)

    def losses(folder: str) -> list[float]:
        lines = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    Trainer(config("whole", 4, 2)).fit()
    Trainer(config("parts", 4, 2)).fit(3)
    second = Trainer(config("parts", 2, 2))
    assert (second.share.batch_size, second.share.rounds, second.batch) == (2, 4, 8)
    second.fit(6)
    last = Trainer(config("parts", 8, 1))
    assert last.facts == second.facts == RunFacts.begin(config("", 4, 2), 20, 1)
    assert last.fit()
    assert losses("parts") == pytest.approx(losses("whole"), rel=1e-5)


def test_steps_and_rates_are_those_the_run_began_with(tmp_path: Path) -> None:
    """Twice the ranks have half the steps of an epoch: what follows from that is not worked out anew."""
    epochs = {"lr": None, "base_lr": 0.1, "steps": None, "warmup_steps": None, "epochs": 6, "warmup_epochs": 1}
    config = small_run(tmp_path, optimizer=epochs)
    Trainer(config).fit(2)
    manifest = json.loads((tmp_path / "checkpoints/step_00000002/manifest.json").read_text())
    begun = RunFacts.begin(config, 24, 1)
    assert (begun.schedule.steps, begun.schedule.warmup, begun.batch) == (36, 6, 4)
    assert RunFacts.read(manifest, config, 24) == begun
    assert RunFacts.begin(config, 24, 2) != begun
    del manifest["facts"]
    assert RunFacts.read(manifest, config, 24) == begun  # of a version that did not write them
    of_before = RunFacts.read(manifest, config, 27)  # which left out the rest of each epoch
    assert (of_before.schedule.steps, of_before.schedule.warmup, of_before.steps_per_epoch) == (36, 6, 6)
    manifest["facts"] = {"batch": 4}
    with pytest.raises(SourceError, match="does not tell the batch and schedule"):
        RunFacts.read(manifest, config, 24)


@pytest.mark.parametrize(("position", "step", "origin"), [(1, 1, 0), (2, 2, 2), (0, 2, 2)])
def test_runs_that_left_out_the_rest_of_an_epoch_go_on_behind_it(position: int, step: int, origin: int) -> None:
    """Of 10 samples in batches of 4: two batches an epoch, whose last is followed by sample 10 of the stream."""
    config = small_run(Path("nowhere"))
    run: Any = SimpleNamespace(facts=RunFacts.begin(config, 10, 1), config=config)
    before = {"epoch": int(position == 0), "position": position}
    assert _origin(before, run, step) == origin
    assert _origin({**before, "version": 1, "position": 4 * position}, run, step) == 10 * before["epoch"] + 4 * (
        position - step
    )


def test_each_rank_has_its_own_part_of_a_state_where_there_are_as_many() -> None:
    assert [own_part("ab", rank, 2) for rank in range(2)] == ["a", "b"]
    assert [own_part("ab", rank, 3) for rank in range(3)] == ["a", "a", "a"]


def test_the_rate_follows_ranks_and_accumulation(tmp_path: Path) -> None:
    config = small_run(tmp_path, optimizer={"lr": None, "base_lr": 0.1, "accumulate": 3})
    assert Trainer(config).schedule.peak == pytest.approx(0.1 * 4 * 3 / 256)
    assert RunFacts.begin(config, 24, 5).schedule.peak == pytest.approx(0.1 * 4 * 3 * 5 / 256)


def test_gradients_are_those_of_the_whole_step(tmp_path: Path) -> None:
    """In size too: AdamW and a limit hide it."""
    norms = []
    for name, batch, accumulate in (("one", 8, 1), ("two", 2, 4)):
        optimizer = {"accumulate": accumulate, "clip": None, "steps": 1}
        Trainer(small_run(tmp_path / name, data={"batch_size": batch}, optimizer=optimizer)).fit()
        norms.append(json.loads((tmp_path / name / "metrics.jsonl").read_text())["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def leg(folder: Path, ranks: int, stop: int) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [*launch, "-m", "tests.training.ranks", str(folder), "ddp" if ranks > 1 else "auto", "8", str(stop), "64"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.long
def test_one_two_four_one_ranks_learn_what_one_learns(tmp_path: Path) -> None:
    leg(tmp_path / "whole", 1, 0)
    for ranks, stop in ((1, 15), (2, 30), (4, 47), (1, 0)):
        leg(tmp_path / "parts", ranks, stop)
    whole, parts = (
        [json.loads(line)["loss"] for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("whole", "parts")
    )
    assert len(parts) == 64
    assert parts == pytest.approx(whole, abs=1e-5)
    resumed = json.loads((tmp_path / "parts/checkpoints/step_00000064/manifest.json").read_text())["resumed"]
    assert resumed == [{"step": 15, "ranks": 2}, {"step": 30, "ranks": 4}, {"step": 47, "ranks": 1}]
