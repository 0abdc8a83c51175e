"""One guard a source: anything that is raised on one input is a sentence with its name."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from stratacube.errors import SourceError, UsageError
from stratacube.guard import guarded, named, reason_of


def _deep() -> None:
    json.loads("[" * 100_000)


def _broken_encoding() -> None:
    b"\xff".decode()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (lambda: {}["band_id"], "it lacks band_id"),
        (lambda: {}[7], "it lacks 7"),
        (lambda: int("abc"), "invalid literal"),
        (lambda: datetime(9999, 12, 31) + timedelta(3), "date value out of range"),
        (lambda: np.zeros((10**12, 8)), "more memory than there is"),
        (_deep, "recursion"),
        (_broken_encoding, "utf-8"),
        (lambda: Path("/nowhere/a.nc").read_bytes(), "file not found"),
        (lambda: Path("/").read_bytes(), "(Is a directory)"),
        (lambda: (_ for _ in ()).throw(AssertionError()), "AssertionError"),
    ],
)
def test_whatever_is_raised_on_one_input_is_one_sentence_with_its_name(fault: Callable[[], None], told: str) -> None:
    with pytest.raises(SourceError) as caught, guarded("a.nc is not readable", "fetch it again"):
        fault()
    sentence = str(caught.value)
    assert sentence.startswith("a.nc is not readable (")
    assert sentence.endswith("); fetch it again")
    assert told in sentence
    assert "\n" not in sentence
    assert caught.value.__cause__ is not None
    assert str(pickle.loads(pickle.dumps(caught.value))) == sentence


def test_our_own_sentences_and_interruptions_pass_as_they_are() -> None:
    for ours in (SourceError("b.nc ends early"), UsageError("give `x`"), KeyboardInterrupt()):
        with pytest.raises(type(ours)) as caught, guarded("a.nc is not readable"):
            raise ours
        assert caught.value is ours


def test_long_words_of_a_library_are_cut_and_laid_out_in_one_line() -> None:
    assert len(reason_of(ValueError("a\n  b " * 500))) == 160
    assert reason_of(ValueError("a\n  b")) == "a b"


def test_a_sentence_that_quotes_a_million_letters_keeps_both_its_ends() -> None:
    told = str(SourceError(f"a.csv has a cell {'x' * 10**6}; give it a name"))
    assert told.startswith("a.csv has a cell xx")
    assert told.endswith("xx; give it a name")
    assert len(told) < 1010


def test_an_input_is_named_once_before_our_own_sentences() -> None:
    for ours in (SourceError("it breaks off"), UsageError("it is a list")):
        with pytest.raises(type(ours), match=r"^a\.json: it ") as caught, named("a.json"):
            raise ours
        assert type(caught.value) is type(ours)
    with pytest.raises(UsageError, match=r"^a\.json is a list$"), named("a.json"):
        raise UsageError("a.json is a list")
    with pytest.raises(KeyError), named("a.json"):
        raise KeyError("x")
