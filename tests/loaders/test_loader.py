from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import xarray as xr
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from loaders.augment import View
from loaders.batch import as_is, join
from loaders.cubes import CubeDataset
from loaders.loader import Loader, Stream
from loaders.mixture import Mixture
from loaders.statistics import make_decoder
from loaders.tiles import TileDataset, tile_loader
from stratacube.errors import SourceError, UsageError

Maker = Callable[..., Path]
VIEW = View(steps=2, crop=16, align=8, where="random", flips=True, rotations=True)
ROOT = Path(__file__).resolve().parents[2]


def tiles_of(batches: Any) -> list[list[int]]:
    return [b.meta["tile"].tolist() for b in batches]


def assert_same(found: list[Any], expected: list[Any]) -> None:
    assert tiles_of(found) == tiles_of(expected)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.valid, b.valid)
        assert torch.equal(a.meta["place"], b.meta["place"])


@pytest.mark.parametrize("consumed", [0, 1, 3, 4])
def test_resumed_stream_is_bit_equal(store: Path, consumed: int) -> None:
    options: dict[str, Any] = {"seed": 9, "view": VIEW}
    loader = tile_loader(store, 3, **options)
    drawn = torch.get_rng_state()
    whole = list(loader) + list(loader)
    assert tiles_of(whole[:4]) != tiles_of(whole[4:])
    assert torch.equal(torch.get_rng_state(), drawn)  # models drop paths by it, and go on with it

    first = tile_loader(store, 3, **options)
    stream = iter(first)
    for _ in range(consumed):
        next(stream)
    resumed = tile_loader(store, 3, **options)
    resumed.load_state_dict(first.state_dict())
    rest = list(resumed)
    if consumed < 4:
        rest += list(resumed)
    assert_same(rest, whole[consumed:])


def test_resume_with_other_ranks_workers_and_batches(store: Path) -> None:
    """Two ranks stop after one batch of 2 each; one rank with two workers goes on with the same samples."""
    whole = torch.cat([b.pixels for b in tile_loader(store, 1, seed=4, view=VIEW)])
    ranks = [tile_loader(store, 2, seed=4, view=VIEW, rank=r, ranks=2) for r in range(2)]
    seen = [next(iter(loader)) for loader in ranks]
    states = [loader.state_dict() for loader in ranks]
    assert states[0] == states[1]
    assert torch.equal(torch.cat([b.pixels for b in seen]), whole[:4])
    resumed = tile_loader(store, 3, seed=4, view=VIEW, workers=2)
    resumed.load_state_dict(states[0])
    assert torch.equal(torch.cat([b.pixels for b in resumed]), whole[4:])


def test_workers_change_nothing_and_state_ignores_prefetch(store: Path) -> None:
    expected = list(tile_loader(store, 2, seed=1, view=VIEW))
    loader = tile_loader(store, 2, seed=1, view=VIEW, workers=2, prefetch=3)
    stream = iter(loader)
    found = [next(stream), next(stream)]
    state = loader.state_dict()
    assert state["position"] == 4
    assert_same(found + list(stream), expected)
    loader.load_state_dict(state)
    assert_same(list(loader), expected[2:])
    stream = iter(loader)  # the next epoch, left in the middle: the one after starts anew
    next(stream)
    again = tile_loader(store, 2, seed=1, view=VIEW)
    again.set_epoch(2)
    assert_same(list(loader), list(again))


def test_large_batches_come_in_one_shared_file(make_store: Maker) -> None:
    dataset = TileDataset(make_store(tiles=4, steps=3, size=160))
    expected = list(Loader(dataset, 2, shuffle=False, device=None))
    for mine, other in zip(expected, Loader(dataset, 2, shuffle=False, device=None, workers=1), strict=True):
        values, mask = other.values.untyped_storage(), other.mask.untyped_storage()
        assert values.is_shared()
        assert values.data_ptr() == mask.data_ptr()
        assert not other.meta["time"].is_shared()
        assert torch.equal(mine.values.view(torch.int16), other.values.view(torch.int16))
        assert torch.equal(mine.mask.view(torch.int16), other.mask.view(torch.int16))
        assert mine.meta.keys() == other.meta.keys()
        assert all(torch.equal(value, other.meta[name]) for name, value in mine.meta.items())


def test_threads_change_nothing(store: Path) -> None:
    expected = list(tile_loader(store, 2, seed=1, view=VIEW))
    loader = tile_loader(store, 2, seed=1, view=VIEW, workers=3, workers_are="threads")
    stream = iter(loader)
    found = [next(stream), next(stream)]
    state = loader.state_dict()
    assert_same(found + list(stream), expected)
    loader.load_state_dict(state)
    assert_same(list(loader), expected[2:])
    with pytest.raises(UsageError, match="processes or threads"):
        tile_loader(store, 2, workers=1, workers_are="fibres")


def test_states_of_other_data_are_refused(store: Path, make_store: Maker) -> None:
    state = tile_loader(store, 2).state_dict()
    with pytest.raises(UsageError, match="resume with the same store"):
        tile_loader(make_store(tiles=11), 2).load_state_dict(state)
    with pytest.raises(UsageError, match="another seed"):
        tile_loader(store, 2, seed=5).load_state_dict(state)
    with pytest.raises(UsageError, match="version"):
        tile_loader(store, 2).load_state_dict({})


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 calls it; torch 2.13 warns
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_stateful_dataloader_resumes_a_stream(store: Path, workers: int) -> None:
    def make() -> StatefulDataLoader[Any]:
        stream = Stream(TileDataset(store, view=VIEW), 3, seed=6)
        context = "forkserver" if workers else None
        return StatefulDataLoader(stream, batch_size=None, num_workers=workers, multiprocessing_context=context)

    whole = tiles_of(make())
    assert sorted(chain.from_iterable(whole)) == list(range(12))
    assert whole == tiles_of(tile_loader(store, 3, seed=6))
    first = make()
    stream = iter(first)
    seen = tiles_of([next(stream)])
    resumed = make()
    resumed.load_state_dict(first.state_dict())
    assert seen + tiles_of(resumed) == whole


def test_plain_dataloader(store: Path) -> None:
    loader: Any = DataLoader(TileDataset(store), batch_size=5, collate_fn=as_is)
    assert tiles_of(loader) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]


def test_damage_in_a_worker_raises_here(make_store: Maker) -> None:
    path = make_store(tiles=8)
    (path / "C01" / "c" / "1" / "0" / "0" / "0").write_bytes(b"nothing")
    with pytest.raises(SourceError, match="C01"):
        list(tile_loader(path, 2, workers=1))


@pytest.mark.slow
def test_mixtures(make_store: Maker) -> None:
    a, b = TileDataset(make_store(tiles=6, seed=1)), TileDataset(make_store(tiles=30, seed=2))
    loader = Loader(Mixture([a, b], shares=[1, 1]), 6, length=24, seed=3)
    counts = [torch.bincount(x.meta["source"], minlength=2).tolist() for _ in range(5) for x in loader]
    assert sum(c[0] for c in counts) == sum(c[1] for c in counts) == 60
    every = Loader(Mixture([a, b]), 5)
    seen = [(s, t) for x in every for s, t in zip(x.meta["source"].tolist(), x.meta["tile"].tolist(), strict=True)]
    assert sorted(seen) == [(0, i) for i in range(6)] + [(1, i) for i in range(30)]
    half = iter(loader)
    next(half)
    resumed = Loader(Mixture([a, b], shares=[1, 1]), 6, length=24, seed=3)
    resumed.load_state_dict(loader.state_dict())
    assert tiles_of(resumed) == tiles_of(half)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_tiles_and_composites_together(make_store: Maker, workers: int) -> None:
    """ABI tiles and windows of Sentinel-2, one to three, each with its own bands, sizes and statistics."""
    tiles = TileDataset(make_store(tiles=12), view=VIEW)
    images = np.random.default_rng(0).normal(0.2, 0.1, (2, 48, 48)).astype("f4")
    composites = CubeDataset(xr.Dataset({n: (("y", "x"), v) for n, v in zip(("B02", "B8A"), images, strict=True)}),
                             {"y": 8, "x": 8}, flips=True)  # fmt: skip
    numbers = {"C01": (20.0, 9.0), "C03": (50.0, 20.0), "C08": (90.0, 40.0), "C13": (150.0, 60.0)}
    decoder = make_decoder({**numbers, "B02": (0.2, 0.1), "B8A": (0.2, 0.1)})

    def make(workers: int) -> Loader:
        mixture = Mixture([tiles, composites], shares=[1, 3])
        return Loader(mixture, 4, length=48, seed=5, whole_batches=True, decoder=decoder, workers=workers)

    loader = make(workers)
    batches: list[Any] = list(loader)
    by_source = [[b for b in batches if b.meta["source"][0] == k] for k in (0, 1)]
    assert [sum(map(len, part)) for part in by_source] == [12, 36]
    assert {(b.bands, tuple(b.pixels.shape[1:])) for b in by_source[0]} == {
        (("C01", "C03", "C08", "C13"), (2, 4, 16, 16))
    }
    assert {(b.bands, tuple(b.pixels.shape[1:])) for b in by_source[1]} == {(("B02", "B8A"), (1, 2, 8, 8))}
    assert len({s for b in by_source[1] for s in b.meta["sample"].tolist()}) == 36, "every window once"
    assert abs(float(torch.cat([b.pixels.flatten() for b in by_source[1]]).mean())) < 0.1
    first, other = make(workers), make(0)
    half = iter(first)
    seen = [next(half) for _ in range(5)]
    other.load_state_dict(first.state_dict())
    for found, expected in zip([*seen, *other], batches, strict=True):
        assert torch.equal(found.pixels, expected.pixels)
        assert torch.equal(found.meta["sample"], expected.meta["sample"])


def test_mixtures_of_different_shapes(make_store: Maker) -> None:
    small, large = TileDataset(make_store(size=16, tiles=7)), TileDataset(make_store(tiles=12))
    mixture = Mixture([small, large])
    kinds = r"counts of C01, C03, C08, C13 in 3 steps of {0} x {0} pixels"
    told = f"{kinds.format(16)}; and {kinds.format(32)}. Mix them with `whole_batches=True`"
    with pytest.raises(UsageError, match=told):
        list(Loader(mixture, 19))
    view = View(steps=1, crop=16)
    with pytest.raises(UsageError, match=f"{kinds.format(16)}; and counts of .* in 1 step of 16 x 16 pixels"):
        join([small[[0]], TileDataset(make_store(), view=view)[[0]]])
    batches = list(Loader(mixture, 4, whole_batches=True))
    assert sum(len(b) for b in batches) == 19
    assert {b.pixels.shape[-1] for b in batches} == {16, 32}


@pytest.mark.slow
def test_two_ranks_of_two_workers(store: Path, tmp_path: Path) -> None:
    """Real processes by torchrun: every sample once, ranks in step, the gathered state resumes both."""
    script = Path(__file__).parent / "ranks.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(store), str(tmp_path)], env=environment, capture_output=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    ranks = [torch.load(tmp_path / f"{r}.pt") for r in range(2)]
    assert sorted(ranks[0]["tiles"] + ranks[1]["tiles"]) == list(range(12))
    assert not set(ranks[0]["tiles"]) & set(ranks[1]["tiles"])
    assert ranks[0]["rest"] == ranks[0]["resumed"]
    assert ranks[1]["rest"] == ranks[1]["resumed"]


def test_worker_processes_come_from_a_server_that_imports_for_all(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []
    monkeypatch.setattr("multiprocessing.forkserver.set_forkserver_preload", told.append)
    tile_loader(store, 2, workers=1)
    assert ["loaders.tiles" in modules for modules in told] == [True]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_a_thousand_epochs_leak_nothing(make_store: Maker, kind: Any) -> None:
    loader = tile_loader(make_store(tiles=4, size=16, steps=1), 2, workers=1, workers_are=kind)
    process = psutil.Process()

    def run(epochs: int) -> tuple[int, int, int, int]:
        for _ in range(epochs):
            assert sum(len(b) for b in loader) == 4
        gc.collect()
        everyone = [process, *process.children(recursive=True)]
        memory = sum(p.memory_info().rss for p in everyone)
        return process.num_fds(), memory, len(everyone), process.num_threads()

    files, memory, processes, threads = run(100)
    files_after, memory_after, processes_after, threads_after = run(900)
    assert files_after <= files + 2
    assert memory_after < memory + 20e6
    assert processes_after == processes
    assert threads_after <= threads + 1, "a thread of the last epoch may be ending"


@pytest.mark.slow
def test_memory_of_a_worker_is_that_of_its_batches(make_store: Maker) -> None:
    """Neither a store eight times as large nor more epochs make a worker larger: tiles of 1.3 MB, batches of 2."""

    def largest(tiles: int, epochs: int) -> int:
        loader = tile_loader(make_store(tiles=tiles, size=256, steps=2), 2, workers=1, prefetch=2)
        before, most = set(psutil.Process().children(recursive=True)), 0
        for _ in range(epochs):
            for _ in loader:
                workers = set(psutil.Process().children(recursive=True)) - before
                most = max(most, *(p.memory_full_info().uss for p in workers))
        return most

    small, many_epochs, large = largest(8, 2), largest(8, 16), largest(64, 2)
    batch = 2 * 5 * 2 * 256 * 256 * 2
    assert many_epochs < small + 4 * batch
    assert large < small + 4 * batch, "the store holds 84 MB"
