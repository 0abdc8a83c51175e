from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    code: int
    lines: list[str]
    data: Any = None
