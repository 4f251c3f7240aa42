"""Going back to before a step that did not pass the gate, in the same process: every rank calls this."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerState

from launch.errors import DamagedCheckpoint, NumericalError
from launch.rundir import RunDir
from launch.rundir.journal import rows
from launch.wording import plural
from training.checkpoint import checkpoints
from training.guard.gate import Gate
from training.guard.lessons import Lowered, write_lessons
from training.guard.stability import Trouble, Verdict

# Where training goes back to while nothing is saved: it stands in place of a checkpoint's directory.
START = "the start"


class Unsound(Exception):  # noqa: N818 - says what a step is
    """A step that training cannot go on from."""

    def __init__(self, verdict: Verdict):
        self.verdict = verdict
        super().__init__(verdict.reason)


@dataclass
class Beginning:
    """What a run starts with, kept until its first checkpoint."""

    adapter: dict[str, torch.Tensor]
    scale: dict[str, Any] | None
    generators: dict[str, torch.Tensor] = field(default_factory=dict)


def set_schedule(scheduler: Any, position: int) -> None:
    """LambdaLR recomputes its factor from the position, so the position is all there is to set."""
    scheduler.last_epoch = position - 1
    scheduler.step()


def lower_learning_rates(scheduler: Any, gate: Gate) -> None:
    """From now on the gate's lessons have a say in the schedule."""

    def lowered(planned: Any) -> Any:
        return lambda position: planned(position) * gate.lessons.factor(position)

    scheduler.lr_lambdas = [lowered(planned) for planned in scheduler.lr_lambdas]


def go_back(trainer: Any, verdict: Verdict) -> dict[str, Any]:
    """Returns where the epoch goes on, in the words of transformers' loop. Raises NumericalError when there is nowhere
    to go back to, or nothing left to try."""
    gate, run, trouble = trainer.gate, trainer.run_dir, trainer.gate.guard.trouble
    assert trouble is not None
    first = trainer.ranks.rank == 0
    if verdict.what == "stop":
        raise NumericalError(_given_up(trainer, verdict, trouble))
    trainer.saver.finish()  # what is being saved may be where training goes back to
    directory = trainer.ranks.share(_target(trainer, trouble) if first else None)
    if directory is None:
        raise NumericalError(f"{_given_up(trainer, verdict, trouble)}\nthere is no good checkpoint to go back to")
    step = 0 if directory == START else checkpoints.read_progress(directory)["step"]
    left_out = [{"step": row["step"], "ids": row["left_out"]} for row in rows(run.samples) if row.get("left_out")]
    _learn(gate, verdict, trouble, step)
    if first:
        write_lessons(run.stability, gate.lessons)
        checkpoints.set_aside_newer(run, None if directory == START else directory)
    trainer.model_wrapped.zero_grad()
    _restore_state(trainer, directory, step)
    if directory == START:
        trainer.put_back(trainer.beginning)
        set_schedule(trainer.lr_scheduler, 0)
        gate.guard.restore({})
        trainer.recorder.tokens = 0
        trainer.recorder.forget_after(0)
    else:
        trainer.restore(directory)
    _tell(trainer, verdict, directory, step, [row for row in left_out if row["step"] in trouble.steps])
    trainer.recorder.on_train_begin(trainer.args, trainer.state, trainer.control)
    epoch, within = divmod(step, trainer.recorder.steps_per_epoch)
    return {
        "epoch": epoch, "epochs_trained": epoch, "resume_from_checkpoint": str(directory),
        "steps_trained_in_current_epoch": within * trainer.args.gradient_accumulation_steps,
    }  # fmt: skip


def _target(trainer: Any, trouble: Trouble) -> Path | str | None:
    """The newest good checkpoint from before the trouble, one further back each time; else the start."""
    places = candidates(trainer.run_dir, trouble, trainer.gate.lessons.left_out, trainer.beginning is not None)
    back = trouble.rolled_back + trouble.lowered - 1
    return places[min(back, len(places) - 1)] if places else None


def candidates(run: RunDir, trouble: Trouble, left_out: Sequence[int], from_start: bool) -> list[Path | str]:
    """Where training could go back to, newest first.

    What a checkpoint holds is shown to be sound by the next step that is trained, not by the one before it: one that is
    not shown so comes last, for want of a better one.
    """
    shown: list[Path | str] = []
    unproven: list[Path | str] = []
    for path in run.complete_checkpoints():
        step = int(path.name.removeprefix("step-"))
        if step >= trouble.steps[0]:
            continue
        try:
            checkpoints.check_directory(path)
        except DamagedCheckpoint:
            continue
        proof = next(later for later in itertools.count(step + 1) if later not in left_out)
        (shown if proof < trouble.steps[0] else unproven).append(path)
    return [*shown, *([START] if from_start else []), *([] if shown or from_start else unproven)]


def _learn(gate: Gate, verdict: Verdict, trouble: Trouble, step: int) -> None:
    if verdict.what == "roll_back":
        gate.lessons = gate.lessons.after_roll_back(trouble)
        return
    spec = gate.plan.spec.stability
    lowered = Lowered(from_step=step, factor=spec.learning_rate_factor, warmup_steps=spec.rewarm_steps)
    gate.lessons = gate.lessons.after_lowering(trouble, lowered)


def _restore_state(trainer: Any, directory: Path | str, step: int) -> None:
    """transformers' state of the loop as it was then, and that of its callbacks."""
    state = trainer.state
    if directory == START:
        state.global_step, state.epoch = 0, 0
        state.log_history = [row for row in state.log_history if row["step"] == 0]
        state.best_metric = state.best_global_step = state.best_model_checkpoint = None
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback):
                callback.early_stopping_patience_counter = 0
    else:
        saved = TrainerState.load_from_json(str(Path(directory) / "trainer_state.json"))
        for name in ("global_step", "epoch", "log_history", "best_metric", "best_global_step", "stateful_callbacks"):
            setattr(state, name, getattr(saved, name))
        trainer._load_callback_state()
    assert state.global_step == step
    trainer.control.should_training_stop = False
    trainer._globalstep_last_logged = step
    trainer._tr_loss.zero_()


def _tell(trainer: Any, verdict: Verdict, directory: Path | str, step: int, left_out: list[dict[str, Any]]) -> None:
    tell, place = trainer.recorder.event, str(directory) if directory == START else Path(directory).name
    if verdict.what == "roll_back":
        tell("rolled_back", step=trainer.gate.step, checkpoint=place, to_step=step, reason=verdict.reason,
             left_out=left_out)  # fmt: skip
        return
    lowered = trainer.gate.lessons.lowered[-1]
    tell("rolled_back", step=trainer.gate.step, checkpoint=place, to_step=step, reason=verdict.reason, left_out=[])
    tell("learning_rate_lowered", step=step, factor=lowered.factor, warmup_steps=lowered.warmup_steps,
         learning_rate=trainer.plan.spec.training.learning_rate * trainer.gate.lessons.factor(trainer.state.max_steps),
         )  # fmt: skip


def _given_up(trainer: Any, verdict: Verdict, trouble: Trouble) -> str:
    """What was tried, and what a person can do."""
    plan, times = trainer.plan, len(trainer.gate.lessons.lowered)
    tried = []
    if trouble.rolled_back and trainer.gate.lessons.trouble is not None:
        tried.append("going back without the batches before it")
    if times:
        tried.append(f"lowering the learning rate {plural(times, 'time')}")
    after = f" after {' and '.join(tried)}" if tried else ""
    kept = trainer.run_dir.complete_checkpoints()
    where = f"{kept[0].name} is from before it" if kept else "no checkpoint is from before it"
    return (
        f"step {trainer.gate.step} cannot be trained on{after}: {verdict.reason}. {where}; its samples are in"
        f" samples.jsonl. Look at those rows and leave them out, or lower training.learning_rate"
        f" ({plan.spec.training.learning_rate:g}), in a run of another name (or --resume never)"
    )
