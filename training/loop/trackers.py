"""training.report_to: where the Trainer's own integrations put what they log, and how they go on after a resume.

They belong to rank 0. What the environment says comes first; without it everything is kept in the run directory.
None of them ends a training: what one raises is a warning.
"""

import contextlib
import functools
import json
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, get_reporting_integration_callbacks

from launch.plan import Plan
from launch.rundir import RunDir
from launch.rundir.journal import write_json
from launch.wording import first_line
from training.checkpoint.checkpoints import read_progress

# What has not reached a tracker by then, over a network that is down, is left behind: the adapter is saved.
FINISH_SECONDS = 60.0
# One that has failed so often in a row is left alone: each time may wait for a network that is down.
TRIES = 3
# By which MLflow and W&B find the run again that an earlier attempt has begun.
MLFLOW_RUN, WANDB_RUN = "MLFLOW_RUN_ID", "WANDB_RUN_ID"
ADVICE = f"metrics.jsonl has everything; after {TRIES} failures in a row it is not asked again in this attempt"


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
    reporting = tuple(get_reporting_integration_callbacks(trainer.args.report_to))
    for callback in trainer.callback_handler.callbacks:
        if not isinstance(callback, reporting):
            continue
        borne = Borne(callback, trainer.recorder.event)
        if resumed is not None and isinstance(callback, TensorBoardCallback):
            step = read_progress(resumed)["step"]
            borne.call(functools.partial(_purge, callback, step), step)


def _purge(callback: TensorBoardCallback, step: int) -> None:
    """What an earlier attempt logged of steps that come again is not shown any more."""
    from torch.utils.tensorboard import SummaryWriter

    callback.tb_writer = SummaryWriter(callback.logging_dir, purge_step=step + 1)


class Borne:
    """What an integration raises from now on is a warning, told once; see TRIES."""

    def __init__(self, callback: TrainerCallback, tell: Callable[..., None]):
        self.name, self.tell = type(callback).__name__.removesuffix("Callback"), tell
        self.failures, self.told = 0, False
        for event in (name for name in dir(TrainerCallback) if name.startswith("on_")):
            if getattr(type(callback), event) is not getattr(TrainerCallback, event):
                setattr(callback, event, self._borne(getattr(callback, event)))

    def _borne(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def borne(args: Any, state: Any, control: Any, **known: Any) -> Any:
            return self.call(functools.partial(method, args, state, control, **known), state.global_step)

        return borne

    def call(self, method: Callable[[], Any], step: int) -> Any:
        if self.failures >= TRIES:
            return None
        try:
            result = method()
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises, the training does not need it
            self.failures += 1
            if not self.told:
                self.told = True
                message = f"{self.name} could not be told: {type(error).__name__}: {first_line(error)}"
                self.tell("warning", kind="tracker", step=step, message=message, advice=ADVICE)
            return None
        self.failures = 0
        return result


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
        os.environ.update(begun)  # what is logged after the last step, an evaluation, belongs to the same run
        if begun:
            write_json(self.run.trackers, begun)


@contextlib.contextmanager
def reporting(names: Sequence[str]) -> Iterator[None]:
    """Takes leave of the trackers, however this ends.

    They would do so when the interpreter ends, and a worker's never does (os._exit): all that W&B keeps offline, and
    the end of the run for MLflow, would be lost.
    """
    well = False
    try:
        yield
        well = True
    finally:
        for name, leave in (("mlflow", _leave_mlflow), ("wandb", _leave_wandb)):
            if name in names:
                _within(FINISH_SECONDS, name, leave, well)


def _leave_mlflow(well: bool) -> None:
    import mlflow

    mlflow.flush_async_logging()
    if MLFLOW_RUN in os.environ:
        mlflow.MlflowClient().set_terminated(os.environ[MLFLOW_RUN], "FINISHED" if well else "FAILED")


def _leave_wandb(well: bool) -> None:
    import wandb

    wandb.finish(exit_code=0 if well else 1)


def _within(seconds: float, name: str, leave: Callable[[bool], None], well: bool) -> None:
    told = [f"has not answered within {seconds:g} s"]

    def call() -> None:
        try:
            leave(well)
            told.clear()
        except Exception as error:  # noqa: BLE001 - a tracker never ends a training
            told[:] = [f"{type(error).__name__}: {error}"]

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if told:
        print(f"warning: {name} may lack what was logged last: {told[0]}", file=sys.stderr, flush=True)


def _known(run: RunDir) -> dict[str, str]:
    try:
        found = json.loads(run.trackers.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}
