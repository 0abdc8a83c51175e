"""Where tasks run: engines, each an executor, and the one loop over any of them."""

from __future__ import annotations

from cube.job.engine.local import InlineExecutor, local_executor
from cube.job.engine.loop import Outcome, Task, Workers, iterate, run_tasks

__all__ = ["InlineExecutor", "Outcome", "Task", "Workers", "iterate", "local_executor", "run_tasks"]
