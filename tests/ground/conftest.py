"""Fixtures of the tests of the shared ground."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.ground.processes import Player


@pytest.fixture
def player() -> Iterator[Callable[..., Player]]:
    """Start processes that end with the test."""
    players: list[Player] = []

    def start(*before: str, **options: Any) -> Player:
        players.append(Player(*before, **options))
        return players[-1]

    yield start
    for one in players:
        one.end()
