"""Reducers against numpy and plain loops."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest

from cube.sentinel2.reduce import nan_median, nan_percentile, parse_reducer
from stratacube.errors import UsageError

Stack = npt.NDArray[np.float32]


def _stack(votes: int, seed: int = 0, bands: int = 3) -> Stack:
    rng = np.random.default_rng(seed)
    stack = rng.normal(0, 900, (bands, votes, 17, 23)).astype("f4").round()
    stack[:, rng.random(stack.shape[1:]) < 0.5] = np.nan
    stack[0, :, 3, 3], stack[:, :, 4, 4] = np.nan, np.nan
    return stack


def _quiet(function: object, *arguments: object, **options: object) -> Stack:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return function(*arguments, **options)  # type: ignore[operator, no-any-return]


@pytest.mark.parametrize("votes", [1, 2, 3, 8, 31])
def test_median_is_numpys_to_the_bit(votes: int) -> None:
    stack = _stack(votes)
    expected = _quiet(np.nanmedian, stack, axis=1)
    np.testing.assert_array_equal(parse_reducer("median").reduce(stack.copy()), expected)


@pytest.mark.parametrize("percent", [0, 10, 37.5, 50, 100])
def test_percentile_is_numpys(percent: float) -> None:
    stack = _stack(9)
    expected = _quiet(np.nanpercentile, stack, percent, axis=1)
    np.testing.assert_allclose(parse_reducer(f"p{percent}").reduce(stack.copy()), expected, rtol=1e-5, atol=1e-3)


def test_mean_and_count() -> None:
    stack = _stack(9)
    np.testing.assert_allclose(
        parse_reducer("mean").reduce(stack), _quiet(np.nanmean, stack, axis=1), rtol=1e-5, atol=1e-3
    )
    # sums are double: of many votes none is lost
    votes = np.full((1, 1001, 1, 1), 1.0, "f4")
    votes[0, 0] = 2.0**24
    assert parse_reducer("mean").reduce(votes)[0, 0, 0] == np.float32((2.0**24 + 1000) / 1001)
    count = (~np.isnan(stack)).sum(axis=1)
    np.testing.assert_array_equal(np.nan_to_num(parse_reducer("count").reduce(stack)), count)


def test_medoid_is_the_observation_nearest_to_the_median() -> None:
    stack = _stack(7)
    found = parse_reducer("medoid").reduce(stack.copy())
    middle = _quiet(np.nanmedian, stack, axis=1)
    for row in range(17):
        for col in range(23):
            seen = [v for v in range(7) if not np.isnan(stack[:, v, row, col]).any()]
            if not seen:
                assert np.isnan(found[:, row, col]).all()
                continue
            apart = [((stack[:, v, row, col].astype("f8") - middle[:, row, col]) ** 2).sum() for v in seen]
            assert found[:, row, col].tolist() == stack[:, seen[int(np.argmin(apart))], row, col].tolist()


def test_best_is_the_first_that_is_whole() -> None:
    stack = _stack(5)
    found = parse_reducer("best").reduce(stack.copy())
    whole = ~np.isnan(stack).any(axis=0)
    for row, col in np.ndindex(17, 23):
        seen = np.flatnonzero(whole[:, row, col])
        expected = stack[:, seen[0], row, col] if len(seen) else np.full(3, np.nan)
        np.testing.assert_array_equal(found[:, row, col], expected)


def test_what_no_vote_shows_in_all_bands_is_nothing_in_any() -> None:
    stack = np.array([[[[5.0]], [[np.nan]]], [[[np.nan]], [[7.0]]]], "f4")
    for name in ("best", "medoid"):
        assert np.isnan(parse_reducer(name).reduce(stack)).all()


def test_nothing_at_all_is_nothing() -> None:
    for name in ("median", "mean", "medoid", "best", "count", "p10"):
        assert np.isnan(parse_reducer(name).reduce(np.empty((2, 0, 3, 4), "f4"))).all()
        assert np.isnan(parse_reducer(name).reduce(np.full((2, 5, 3, 4), np.nan, "f4"))).all()
    assert np.isnan(nan_percentile(np.empty((0, 2), "f4"), 5)).all()


def test_unknown_reducer_names_the_known() -> None:
    with pytest.raises(UsageError, match="there are median, geomedian, mean, count, medoid, best"):
        parse_reducer("mode")
    with pytest.raises(UsageError, match="p101"):
        parse_reducer("p101")


@pytest.mark.parametrize("votes", [1, 2, 3, 5, 7, 8, 9, 16, 33, 70])
def test_any_number_of_votes_is_ranked_as_by_numpy(votes: int) -> None:
    rng = np.random.default_rng(votes)
    stack = rng.integers(-50, 50, (votes, 40, 500)).astype("f4")  # more pixels than are sorted at once
    stack[rng.random(stack.shape) < rng.random(stack.shape[1:])] = np.nan
    given = stack.copy()
    np.testing.assert_array_equal(nan_median(stack), _quiet(np.nanmedian, given, axis=0))
    # in double, as ours: numpy's float32 is off by more where votes cancel
    some = np.s_[..., ::9]  # numpy's goes pixel by pixel
    expected = _quiet(np.nanpercentile, given[some].astype("f8"), 37, axis=0)
    np.testing.assert_allclose(nan_percentile(stack, 37)[some], expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(stack, given)
