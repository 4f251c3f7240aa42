"""Where trackers put what they log, and that one which fails ends nothing."""

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from launch.plan import Plan
from launch.rundir import RunDir
from tests.launch.conftest import plan_of, spec_of
from training.loop.trackers import Borne, variables

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


class Unsteady(TrainerCallback):
    """Fails at the steps that it is given."""

    def __init__(self, fails: set[int]):
        self.fails, self.asked = fails, list[int]()

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.asked.append(state.global_step)
        if state.global_step in self.fails:
            raise ConnectionError("no route to host")


@pytest.mark.parametrize(
    ("fails", "asked"), [({2, 3, 5}, [1, 2, 3, 4, 5, 6, 7, 8]), ({2, 3, 4, 5}, [1, 2, 3, 4]), (set(), [*range(1, 9)])]
)
def test_a_tracker_that_fails_is_told_once_and_left_alone_after_three_times_in_a_row(
    fails: set[int], asked: list[int]
) -> None:
    callback, told = Unsteady(fails), list[dict[str, Any]]()
    Borne(callback, lambda name, **data: told.append({"event": name, **data}))
    handler = CallbackHandler([callback], None, None, None, None)
    state, control = TrainerState(), TrainerControl()
    for step in range(1, 9):
        state.global_step = step
        handler.on_log(TrainingArguments(), state, control, {"loss": 1.0})
    assert callback.asked == asked
    assert [(row["event"], row["kind"], row["step"], row["message"]) for row in told] == [
        ("warning", "tracker", 2, "Unsteady could not be told: ConnectionError: no route to host")
    ] * bool(fails)
