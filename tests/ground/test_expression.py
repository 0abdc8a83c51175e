"""Expressions give what pandas gives, and nothing else can be written in them."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stratacube.errors import UsageError
from stratacube.expression import evaluate


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    n = 40
    score = rng.normal(5, 4, n)
    score[::7] = np.nan
    return pd.DataFrame(
        {
            "tile": np.arange(n),
            "stratum": rng.choice(["random", "convection"], n),
            "split": pd.Categorical(rng.choice(["train", "val", "test"], n)),
            "genus": [None if i % 5 == 0 else f"Cb {i % 3}" for i in range(n)],
            "score": score,
            "probability": rng.uniform(0.01, 1, n).astype("f4"),
            "small": rng.integers(-5, 5, n).astype("i2"),
            "flags": rng.integers(0, 8, n).astype("u1"),
            "cloudy": rng.random(n) < 0.5,
            "view_zenith": rng.uniform(0, 80, n).astype("f4"),
            "event_time": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 400, n), "D"),
            "requested_time": pd.Timestamp("2020-01-02") + pd.to_timedelta(rng.integers(0, 400, n), "D"),
            "cloud cover": rng.uniform(0, 100, n),
            "in-sun": rng.random(n) < 0.3,
        }
    )


LEGITIMATE = [
    "split == 'train' and view_zenith < 65",
    "split == 'train' & view_zenith < 65 | score > 9",
    "not split == 'train'",
    "~(split == 'train') & ~cloudy",
    "not cloudy or stratum != 'random'",
    "cloudy",
    "True",
    "1 < 2",
    "tile >= 8",
    "tile in [1, 2, 30]",
    "tile not in (1, 2, 30)",
    "stratum in ['convection', 'other']",
    "tile == [3, 4]",
    "tile != [3, 4]",
    "0 < score <= 5 < view_zenith",
    "'random' == stratum",
    "genus == 'Cb 1'",
    "genus == \"Cb 1\" or genus == 'a & b'",
    "score > 5 or score < -1e0",
    "score != score",
    "event_time >= '2020-06-01' and event_time < '2020-09-01T12:00'",
    "event_time > requested_time",
    "event_time - requested_time > '3 days'",
    "1 / probability",
    "small / probability",
    "1 / (probability * small)",
    "small / flags",
    "small // 2 + tile % 7 - -score",
    "+score * 2.5e-1",
    "small ** 2",
    "2.0 ** small",
    "score ** 0.5",
    "flags * 10",
    "sqrt(abs(score)) + log1p(probability) - exp(-view_zenith)",
    "sin(view_zenith) + arctan2(score, small)",
    "log(small)",
    "view_zenith > 0.1",
    "probability == 0.1",
    "`cloud cover` < 20 and not `in-sun`",
    "score.isna()",
    "score.notna() and genus.isnull()",
    "stratum.isin(['random'])",
    "score.between(1, view_zenith)",
    "score.fillna(0) > 1",
    "score.abs() > 1",
    "genus.str.startswith('Cb') == True",
    "event_time.dt.year == 2020 and event_time.dt.month in [6, 7, 8]",
    "  cloudy  ",
    "2 + 3 * 4 == 14",
    "(-2) ** 3 == -8",
]


@pytest.mark.parametrize("text", LEGITIMATE)
def test_expressions_give_what_pandas_gives(table: pd.DataFrame, text: str) -> None:
    with np.errstate(all="ignore"):
        expected = np.broadcast_to(np.asarray(table.eval(text.strip(), engine="python")), len(table))
    before = table.copy()
    found = evaluate(table, text, "filter")
    assert found.dtype.kind == expected.dtype.kind
    np.testing.assert_array_equal(found, expected)
    pd.testing.assert_frame_equal(table, before)


def test_lines_of_one_expression_are_one(table: pd.DataFrame) -> None:
    found = evaluate(table, "split == 'train'\n  and cloudy\n", "filter")
    np.testing.assert_array_equal(found, (table["split"] == "train") & table["cloudy"])


RAN = "touch RAN"
FOREIGN = [
    f"@pd.io.common.os.system('{RAN}')",
    "@table",
    f"__import__('os').system('{RAN}')",
    f"eval(\"__import__('os').system('{RAN}')\")",
    "open('RAN', 'w')",
    "score.to_csv('RAN')",
    "score.to_pickle('RAN')",
    "score.map('{}'.format)",
    "score.apply(print)",
    "score.__class__",
    "score.__class__.__init__.__globals__",
    "score.values",
    "score.values.tofile('RAN')",
    "().__class__.__mro__",
    "'{0.__class__}'.format(score)",
    "event_time.dt.__class__",
    "event_time.dt.to_pydatetime()",
    "event_time.dt.strftime('%Y')",
    "genus.str.contains('(a+)+$')",
    "genus.str.repeat(1000000000)",
    "genus.str",
    "event_time.dt",
    "score.isna",
    "score[0]",
    "score[score > 1]",
    "[x for x in tile]",
    "{'a': 1}",
    "lambda: 1",
    "(lambda x: x)(score)",
    "f'{score}'",
    "f'{table}'",
    "b'a' == stratum",
    "1j * score",
    "... == score",
    "None",
    "score is None",
    "score if cloudy else tile",
    "(a := 1)",
    "a = 1",
    "score = 1",
    "score; tile",
    "import os",
    "del score",
    "await score",
    "yield score",
    "*score",
    "score @ score",
    "score << 8",
    "score ^ tile",
    "score # > 1",
    "add(score, 1)",  # of numpy, and not on the list
    "sqrt(score, tile)",
    "sqrt(x=score)",
    "sqrt(*[score])",
    "sqrt(stratum)",
    "max(score)",
    "score.isin(values=[1])",
    "score.fillna(0, inplace=True)",
    "tile in stratum",
    "'random' in stratum",
    "tile in 3",
    "[1] < tile",
    "[score] == tile",
    "[tile, 1]",
    "stratum * 1000000000",
    "'a' * 1000000000",
    "[1] * 1000000000",
    "stratum + genus",
    "-stratum",
    "9 ** 9 ** 9 ** 9",
    "9 ** 99999",
    "(9.0 ** 64) ** 64",
    "tile ** 1000",
    "1 / 0",
    "~1.5",
    "score > 'a'",
    "event_time > 'never'",
    "index > 1",
    "scor > 1",
    "`no such` > 1",
    "`score > 1",
    "pd",
    "np",
    "",
    " ",
    "(",
    "'",
    "score >",
    "\x00",
    "9" * 5000,
    "(" * 300 + "1" + ")" * 300,
    "-" * 300 + "1",
    "-" * 19_000 + "1",
    "+".join(["score"] * 200),
    "not " * 3000 + "cloudy",
    "score > 1 or " * 10_000 + "cloudy",
]


@pytest.mark.parametrize("text", FOREIGN, ids=[f"{i}-{t[:30]!r}" for i, t in enumerate(FOREIGN)])
def test_nothing_else_can_be_written(
    table: pd.DataFrame, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before, begin = table.copy(), time.monotonic()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UsageError, match=r"^filter .* cannot be evaluated \(.+\); columns are tile, stratum") as caught:
        evaluate(table, text, "filter")
    assert not os.listdir(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500
    assert time.monotonic() - begin < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 200_000
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scor > 1", r"no column 'scor' \(did you mean score\?\)"),
        ("@pd.x()", r"@ is not allowed; allowed are columns, numbers, text"),
        ("score.values > 1", r"score\.values is not allowed; allowed are columns"),
        ("score = 1", "write == to compare"),
        ("score.map(abs) > 1", r"score\.map\(abs\) is not allowed"),
        ("stratum * 2", "for numbers, not for text"),
        ("tile ** 65 > 1", "the power 65 is above 64"),
        ("sqrt(score, tile)", "sqrt takes 1, not 2"),
        ("genus.str.startswith(score)", "give one text"),
        ("(1).isna()", "that is asked of a column"),
        ("tile in [tile]", "a list holds numbers and text only"),
        ("-" * 100 + "1", "nested more than 60 deep"),
        ("score > 1 or " * 10_000 + "cloudy", "130006 characters, and 20000 are the most"),
    ],
)
def test_what_is_refused_is_named_with_the_remedy(table: pd.DataFrame, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        evaluate(table, text, "filter")


def test_columns_with_names_like_those_given_to_quoted_ones(table: pd.DataFrame) -> None:
    odd = table.assign(quoted_0=1, quoted__0=2)
    assert evaluate(odd, "quoted_0 + quoted__0 + `cloud cover` * 0", "filter").tolist() == [3.0] * len(odd)


def test_a_long_list_of_tiles_is_taken(table: pd.DataFrame) -> None:
    many = ", ".join(map(str, range(3000)))
    assert evaluate(table, f"tile in [{many}]", "filter").all()
