"""Rows of numbers: JSON lines and CSV always, TensorBoard and MLflow where asked."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from stratacube.errors import UsageError
from stratacube.files import check_guards, write_text
from stratacube.guard import guarded
from training.config import LogConfig

__all__ = ["Logs"]

Row = Mapping[str, Any]


class _Sink(Protocol):
    def write(self, step: int, row: Row) -> None: ...
    def close(self) -> None: ...


class Logs:
    """What a run writes while it goes.

    Parameters
    ----------
    folder
        The run's folder; rows go to ``metrics.jsonl``, ``metrics.csv`` and ``validation.jsonl``, ``validation.csv``.
    config
        What else to write.
    name
        The run's name.
    step
        Where the run goes on: rows of later steps, written before a crash, are removed.
    settings
        The run's config, for MLflow.
    """

    def __init__(self, folder: Path, config: LogConfig, name: str, step: int, settings: Row) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.tables = {kind: _Table(folder, kind, step) for kind in ("metrics", "validation")}
        self.sinks: list[_Sink] = []
        if config.tensorboard:
            self.sinks.append(_TensorBoard(folder / "tensorboard", step))
        if config.mlflow_uri is not None:
            self.sinks.append(_MLflow(config.mlflow_uri, config.mlflow_experiment, name, folder, settings))

    def metrics(self, step: int, row: Row) -> None:
        """Write a row of training; not one more when the claim of the folder is lost."""
        check_guards(self.folder)
        self.tables["metrics"].write({"step": step, **row})
        for sink in self.sinks:
            sink.write(step, {f"train/{key}": value for key, value in row.items()})

    def validation(self, step: int, loss: float, bands: list[dict[str, Any]]) -> None:
        """Write a validation, its loss and a row a band; not one more when the claim of the folder is lost."""
        check_guards(self.folder)
        for row in bands:
            self.tables["validation"].write({"step": step, "loss": loss, **row})
        values = {f"validation/{row['band']}/{k}": v for row in bands for k, v in row.items() if k != "band"}
        for sink in self.sinks:
            sink.write(step, {"validation/loss": loss, **values})

    def close(self) -> None:
        """Finish writing."""
        for sink in self.sinks:
            sink.close()


class _Table:
    """The same rows as JSON lines and as CSV."""

    def __init__(self, folder: Path, name: str, step: int) -> None:
        self.lines, self.table = folder / f"{name}.jsonl", folder / f"{name}.csv"
        rows = [row for row in self._read() if row["step"] <= step]
        write_text(self.lines, "".join(json.dumps(row) + "\n" for row in rows))
        self._begin(rows)

    def write(self, row: Row) -> None:
        with self.lines.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        if not row.keys() <= set(self.names):  # the first, or a version that has more to tell
            self._begin(self._read())
            return
        with self.table.open("a", newline="") as table:
            table.write(_as_csv(self.names, [row]))

    def _begin(self, rows: list[Row]) -> None:
        """Write the table anew, with all that any row has."""
        self.names = list(dict.fromkeys(name for row in rows for name in row))
        write_text(self.table, ",".join(self.names) + "\n" + _as_csv(self.names, rows) if rows else "")

    def _read(self) -> list[Row]:
        """All rows; a last line that was cut off when the run was killed is none."""
        if not self.lines.exists():
            return []
        with guarded(f"{self.lines} is not a log of steps", "move it elsewhere to go on without it"):
            *whole, rest = self.lines.read_text().split("\n")
            rows = [json.loads(line) for line in whole if line]
            with suppress(ValueError):
                rows += [json.loads(rest)] if rest else []
            for row in rows:
                if not isinstance(row["step"], int):
                    raise TypeError(f"a step is {row['step']!r}")
            return rows


def _as_csv(names: list[str], rows: Sequence[Row]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, fieldnames=names, lineterminator="\n").writerows(rows)
    return text.getvalue()


_MLFLOW_TEXT = 500
"""Longest value of a parameter that every MLflow takes."""


def _flat(settings: Row, above: str = "") -> Iterator[tuple[str, Any]]:
    """Keys and values of nested sections, ``optimizer.lr`` and so on."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


class _TensorBoard:
    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (optional)
        except ImportError as error:
            raise UsageError("logs.tensorboard is on but tensorboard is missing: pip install tensorboard") from error
        self.writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, row: Row) -> None:
        for key, value in row.items():
            if isinstance(value, int | float):
                self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        self.writer.close()


class _MLflow:
    """One MLflow run for the whole training: its id lies in the run's folder, so that a resumed run goes on in it."""

    def __init__(self, uri: str, experiment: str, name: str, folder: Path, settings: Row) -> None:
        try:
            mlflow = import_module("mlflow")
        except ImportError as error:
            raise UsageError("logs.mlflow_uri is given but mlflow is missing: pip install mlflow-skinny") from error
        self.mlflow, mark = mlflow, folder / "mlflow_run_id"
        known = mark.read_text().strip() if mark.exists() else None
        try:
            mlflow.set_tracking_uri(uri)
            mlflow.set_experiment(experiment)
            run = mlflow.start_run(run_id=known, run_name=None if known else name)
            if known is None:
                mlflow.log_params({key: str(value)[:_MLFLOW_TEXT] for key, value in _flat(settings)})
        except (ImportError, mlflow.exceptions.MlflowException) as error:
            raise UsageError(f"logs.mlflow_uri {uri} cannot be used ({' '.join(str(error).split())[:300]})") from error
        write_text(mark, run.info.run_id)

    def write(self, step: int, row: Row) -> None:
        numbers = {key.replace("/", "."): float(v) for key, v in row.items() if isinstance(v, int | float)}
        self.mlflow.log_metrics(numbers, step=step)

    def close(self) -> None:
        self.mlflow.end_run()
