from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from loaders.order import Dealer, Order, picks
from stratacube.errors import UsageError


def deal(order: Order, epoch: int, batch: int, ranks: int, tail: str = "even", position: int = 0) -> list[list[int]]:
    """Samples of each rank, in order."""
    sequence = order.epoch(epoch)
    dealers = [Dealer(batch, r, ranks, tail) for r in range(ranks)]  # type: ignore[arg-type]
    found = [
        [p.sample for _, at in d.rounds(sequence, position) for p in picks(order, sequence, epoch, at)] for d in dealers
    ]
    counts = {len(list(d.rounds(sequence, position))) for d in dealers}
    assert counts == {dealers[0].count(sequence, position)}
    return found


@pytest.mark.parametrize(("size", "batch", "ranks"), [(100, 4, 4), (101, 4, 4), (7, 3, 2), (5, 2, 1), (1000, 7, 9)])
def test_every_sample_exactly_once(size: int, batch: int, ranks: int) -> None:
    found = [s for rank in deal(Order((size,), seed=5), 3, batch, ranks) for s in rank]
    left = size % (batch * ranks)
    repeats = ranks - left if 0 < left < ranks else 0
    assert len(found) == size + repeats
    assert set(found) == set(range(size))


def test_tails() -> None:
    order = Order((10,))
    assert [len(r) for r in deal(order, 0, 2, 2, "drop")] == [4, 4]
    padded = deal(order, 0, 2, 2, "pad")
    assert [len(r) for r in padded] == [6, 6]
    assert set(chain.from_iterable(padded)) == set(range(10))
    assert [len(r) for r in deal(order, 0, 2, 2)] == [5, 5]
    with pytest.raises(UsageError, match="even, drop or pad"):
        Dealer(1, tail="none")  # type: ignore[arg-type]


def test_same_seed_same_order_other_epoch_other_order() -> None:
    assert np.array_equal(Order((50,), seed=1).epoch(4).samples, Order((50,), seed=1).epoch(4).samples)
    assert not np.array_equal(Order((50,), seed=1).epoch(4).samples, Order((50,), seed=1).epoch(5).samples)
    assert not np.array_equal(Order((50,), seed=1).epoch(4).samples, Order((50,), seed=2).epoch(4).samples)
    assert np.array_equal(Order((50,), shuffle=False).epoch(4).samples, np.arange(50))


def test_resumed_ranks_continue_the_global_sequence() -> None:
    order = Order((97,), seed=2)
    sequence = order.epoch(0).samples.tolist()
    first = Dealer(4, 0, 2)
    end = [e for e, _ in first.rounds(order.epoch(0))][4]
    rest = deal(order, 0, 5, 3, position=end)
    assert end == 40
    assert sorted(chain.from_iterable(rest)) == sorted(sequence[40:])
    rounds = list(zip(*[[rank[i : i + 5] for i in range(0, 15, 5)] for rank in rest], strict=True))
    assert list(chain.from_iterable(list(b) for r in rounds for b in r)) == sequence[40 : 40 + 45]


def test_weights_draw_each_sample_within_one_of_its_share() -> None:
    weights = np.array([0.0, 1, 2, 3, 4] * 20)
    order = Order((100,), weights=(weights,))
    for epoch in range(3):
        counts = np.bincount(order.epoch(epoch).samples, minlength=100)
        expected = weights / weights.sum() * 100
        assert (np.abs(counts - expected) < 1).all()
        assert counts.sum() == 100


def test_a_rare_sample_comes_in_its_share_of_the_epochs() -> None:
    order = Order((10,), weights=(np.array([0.3] + 9 * [1.0]),))
    drawn = np.concatenate([order.epoch(epoch).samples for epoch in range(400)])
    assert (drawn == 0).sum() == pytest.approx(400 * 3 / 9.3, abs=40)


def test_what_is_left_of_an_epoch_goes_to_the_largest_remainders() -> None:
    assert Order((5, 5, 5), shares=(0.5, 0.3, 0.2), length=4).quotas == (2, 1, 1)  # of 2, 1.2 and 0.8


def test_shares_of_sources() -> None:
    order = Order((10, 90), shares=(0.5, 0.5), length=40, seed=3)
    epochs = [order.epoch(e).samples for e in range(9)]
    assert all((e < 10).sum() == 20 for e in epochs)
    assert all((np.bincount(e[e < 10], minlength=10) == 2).all() for e in epochs)
    second = np.concatenate([e[e >= 10] for e in epochs])
    assert (np.bincount(second - 10) == 2).all(), "20 of 90 an epoch: 9 epochs are two whole passes"
    assert len(set(second[:80].tolist())) == 80, "nothing is seen twice before all is seen once"


def test_whole_batches_of_one_source() -> None:
    order = Order((30, 22), seed=1, block=8)
    for ranks, batch in ((2, 4), (1, 4), (1, 3)):
        sequence = order.epoch(0)
        for r in range(ranks):
            for _, at in Dealer(batch, r, ranks).rounds(sequence):
                assert len({int(s) >= 30 for s in sequence.samples[at]}) == 1
    assert sorted(chain.from_iterable(deal(order, 0, 4, 2))) == list(range(52))


def test_wrong_orders() -> None:
    with pytest.raises(UsageError, match="at least one"):
        Order((0,))
    with pytest.raises(UsageError, match="weights"):
        Order((2,), weights=(np.array([1.0, np.nan]),))
    with pytest.raises(UsageError, match="shares"):
        Order((2, 2), shares=(1,))
    with pytest.raises(UsageError, match="rank 2 of 2"):
        Dealer(1, 2, 2)
