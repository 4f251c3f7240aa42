"""training.report_to: where the Trainer's own integrations put what they log, and how they go on after a resume.

They belong to rank 0. What the environment says comes first; without it everything is kept in the run directory.
"""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from launch.journal import write_json
from launch.plan import Plan
from launch.rundir import RunDir
from training.checkpoint import read_progress

# By which MLflow and W&B find the run again that an earlier attempt has begun.
MLFLOW_RUN, WANDB_RUN = "MLFLOW_RUN_ID", "WANDB_RUN_ID"


def prepare(plan: Plan, run: RunDir) -> None:
    """Sets the environment that the integrations read, before they are made."""
    os.environ.update(variables(plan, run, _known(run), os.environ))


def variables(plan: Plan, run: RunDir, known: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """What the environment lacks. `known` is what an earlier attempt wrote to run.trackers."""
    reports, wanted = plan.spec.training.report_to, dict[str, str]()
    if "tensorboard" in reports:
        wanted["TENSORBOARD_LOGGING_DIR"] = str(run.tensorboard)
    if "mlflow" in reports:
        wanted["MLFLOW_TRACKING_URI"] = f"sqlite:///{run.mlflow}"
        uri = environment.get("MLFLOW_TRACKING_URI", wanted["MLFLOW_TRACKING_URI"])
        if known.get("MLFLOW_TRACKING_URI") == uri and MLFLOW_RUN in known:
            wanted[MLFLOW_RUN] = known[MLFLOW_RUN]
    if "wandb" in reports:
        wanted |= {"WANDB_DIR": str(run.root), "WANDB_RESUME": "allow"}
        wanted[WANDB_RUN] = known.get(WANDB_RUN) or secrets.token_hex(8)
    return {name: value for name, value in wanted.items() if name not in environment}


def go_on(trainer: Any, run: RunDir, resumed: Path | None) -> None:
    """Lets each integration of a trainer go on where the checkpoint is, and keeps what a later attempt needs."""
    trainer.add_callback(Remember(run))
    if resumed is None:
        return
    step = read_progress(resumed)["step"]
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            from torch.utils.tensorboard import SummaryWriter

            # What an earlier attempt logged of steps that come again is not shown any more.
            callback.tb_writer = SummaryWriter(callback.logging_dir, purge_step=step + 1)


class Remember(TrainerCallback):
    """Comes after the integrations: their runs have begun."""

    def __init__(self, run: RunDir):
        self.run = run

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        begun = dict[str, str]()
        if "mlflow" in args.report_to:
            import mlflow

            active = mlflow.active_run()
            begun["MLFLOW_TRACKING_URI"] = mlflow.get_tracking_uri()
            if active is not None:
                begun[MLFLOW_RUN] = active.info.run_id
        if "wandb" in args.report_to:
            begun[WANDB_RUN] = os.environ[WANDB_RUN]
        if begun:
            write_json(self.run.trackers, begun)


def _known(run: RunDir) -> dict[str, str]:
    try:
        found = json.loads(run.trackers.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}
