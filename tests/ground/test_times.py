"""Times are naive UTC within."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from stratacube.times import format_time, naive_utc, parse_time, to_microseconds

NOON = datetime(2020, 1, 31, 12)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2020-01-31T12:00:00Z", NOON),
        ("2020-01-31T12:00:00", NOON),
        (" 2020-01-31T14:00:00.1+02:00\n", NOON.replace(microsecond=100_000)),
        ("2020-01-31", NOON.replace(hour=0)),
        ("2020-01-31T12:00:00.123456789Z", NOON.replace(microsecond=123_456)),
    ],
)
def test_text_becomes_naive_utc(text: str, time: datetime) -> None:
    assert parse_time(text) == time
    assert parse_time(text).tzinfo is None


@pytest.mark.parametrize("text", ["", "noon", "2020-02-30", "20200131T120000ZZ"])
def test_what_is_not_a_time_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"isoformat|day"):
        parse_time(text)


def test_offsets_are_converted_and_naive_times_taken_as_they_are() -> None:
    assert naive_utc(NOON) is NOON
    assert naive_utc(NOON.replace(tzinfo=UTC)) == NOON
    assert naive_utc(NOON.replace(tzinfo=timezone(timedelta(hours=-5)))) == NOON + timedelta(hours=5)


def test_fractions_are_written_as_asked() -> None:
    late = NOON.replace(microsecond=120_000)
    assert [format_time(NOON, f) for f in ("auto", "milliseconds", "shortest")] == [
        "2020-01-31T12:00:00Z",
        "2020-01-31T12:00:00.000Z",
        "2020-01-31T12:00:00Z",
    ]
    assert [format_time(late, f) for f in ("auto", "milliseconds", "shortest")] == [
        "2020-01-31T12:00:00.120000Z",
        "2020-01-31T12:00:00.120Z",
        "2020-01-31T12:00:00.12Z",
    ]
    assert parse_time(format_time(late, "shortest")) == late


def test_microseconds_are_those_of_the_stores() -> None:
    nanoseconds = np.datetime64("2020-01-31T12:00:00.123456789", "ns")
    assert to_microseconds(nanoseconds) == int(nanoseconds.astype("M8[us]").astype("i8"))
    assert to_microseconds(NOON) == 1_580_472_000_000_000
    assert to_microseconds(np.datetime64("1969-12-31T23:59:59.9999999", "ns")) == -1
