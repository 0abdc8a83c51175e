from __future__ import annotations

from pathlib import Path

import pytest

from stratacube.errors import UsageError
from tests.training.small import small_run
from training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_mlflow_holds_the_config_and_one_run_however_often_resumed(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed (pip install mlflow-skinny sqlalchemy alembic)")
    pytest.importorskip("sqlalchemy", reason="mlflow needs sqlalchemy and alembic for a database of its own")
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    config = small_run(tmp_path / "run", logs={"mlflow_uri": uri, "mlflow_experiment": "tests"})
    assert not Trainer(config).fit(stop_at=4)
    assert Trainer(config).fit()
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tests")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["optimizer.lr"] == "0.001"
    assert run.data.params["model.kind"] == "temporal_group"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train.loss")] == list(range(1, 10))
    with pytest.raises(UsageError, match=r"logs\.mlflow_uri nonsense://x cannot be used"):
        Trainer(small_run(tmp_path / "other", logs={"mlflow_uri": "nonsense://x"})).fit()
