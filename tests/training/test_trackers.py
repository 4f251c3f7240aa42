"""Where trackers put what they log."""

from pathlib import Path

import pytest

from launch.plan import Plan
from launch.rundir import RunDir
from tests.launch.conftest import plan_of, spec_of
from training.trackers import variables

RUN = RunDir(Path("/runs/demo"))


def plan(*reports: str) -> Plan:
    return plan_of("1xH200-141GB", 1, spec_of(training={"report_to": list(reports)}))


def test_without_trackers_nothing_is_set() -> None:
    assert variables(plan(), RUN, {}, {}) == {}


def test_all_is_kept_in_the_run_directory() -> None:
    found = variables(plan("tensorboard", "mlflow", "wandb"), RUN, {}, {})
    assert len(found.pop("WANDB_RUN_ID")) == 16
    assert found == {
        "TENSORBOARD_LOGGING_DIR": "/runs/demo/tensorboard", "MLFLOW_TRACKING_URI": "sqlite:////runs/demo/mlflow.db",
        "WANDB_DIR": "/runs/demo", "WANDB_RESUME": "allow",
    }  # fmt: skip


def test_what_the_environment_says_comes_first() -> None:
    given = {"MLFLOW_TRACKING_URI": "https://mlflow.example", "WANDB_DIR": "/scratch", "WANDB_RUN_ID": "mine"}
    assert variables(plan("mlflow", "wandb"), RUN, {}, given) == {"WANDB_RESUME": "allow"}


def test_a_later_attempt_goes_on_in_the_same_runs() -> None:
    known = {"MLFLOW_TRACKING_URI": "sqlite:////runs/demo/mlflow.db", "MLFLOW_RUN_ID": "m", "WANDB_RUN_ID": "w"}
    found = variables(plan("mlflow", "wandb"), RUN, known, {})
    assert (found["MLFLOW_RUN_ID"], found["WANDB_RUN_ID"]) == ("m", "w")


@pytest.mark.parametrize("reports", [("mlflow",), ("mlflow", "wandb")])
def test_a_run_of_another_store_is_not_looked_for(reports: tuple[str, ...]) -> None:
    known = {"MLFLOW_TRACKING_URI": "sqlite:////runs/demo/mlflow.db", "MLFLOW_RUN_ID": "m"}
    assert "MLFLOW_RUN_ID" not in variables(
        plan(*reports), RUN, known, {"MLFLOW_TRACKING_URI": "https://other.example"}
    )
