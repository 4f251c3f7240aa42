"""What a run leaves behind while it trains: metrics, the ledger of samples, events."""

import math
import time
from typing import Any

import torch
from transformers import TrainerCallback

from launch.errors import NumericalError
from launch.journal import append, event, keep_rows, write_text
from launch.memory import Measured, adapter_of
from launch.memory.measured import TOLERANCE
from launch.plan import Plan
from launch.rundir import RunDir
from launch.throughput import flops_per_token
from training.control import Control
from training.data.tokens import Sequences


class Recorder(TrainerCallback):
    """Writes metrics.jsonl, samples.jsonl and events.jsonl on rank 0, and carries out a stop that
    the ranks agree on."""

    def __init__(self, plan: Plan, run: RunDir, control: Control, train: Sequences, steps_per_epoch: int):
        self.plan, self.run, self.ranks, self.train = plan, run, control, train
        self.steps_per_epoch = steps_per_epoch
        self.writes = control.rank == 0
        self.mean_length = train.statistics.tokens / train.statistics.samples
        self.indices: list[int] = []
        self.tokens = 0
        self.stopped = False
        self.last_evaluation: int | None = None
        self.best_step: int | None = None
        """Once early stopping has gone back to an earlier adapter, its step: what is evaluated then is that one."""
        self.peak_bytes = 0
        self.tokens_at_log, self.step_at_log, self.clock, self.paused = 0, 0, time.monotonic(), 0.0

    def event(self, name: str, **data: Any) -> None:
        if self.writes:
            event(self.run.events, name, **data)

    def rehearsed(self, measured: Measured) -> None:
        """What the largest batch took, beside the forecast in plan.json."""
        if not self.writes:
            return
        found = {**measured.model_dump(), "error": measured.error and round(measured.error, 4)}
        self.event("rehearsed", **found)
        if measured.surprising:
            self.event("forecast_off", **found, measured_bytes=measured.compared, tolerance=TOLERANCE)
        plan = self.plan.model_copy(update={"measured": measured})
        write_text(self.run.plan, plan.model_dump_json(indent=2) + "\n")

    def forget_after(self, step: int) -> None:
        """Drops what an earlier attempt wrote of steps that will now be repeated."""
        if self.writes:
            for path in (self.run.samples, self.run.metrics, self.run.answers):
                keep_rows(path, lambda row: row["step"] <= step)

    def answers(self, step: int, rows: list[dict[str, Any]]) -> None:
        if self.writes:
            for row in rows:
                append(self.run.answers, {"step": step, **self._of_best(), **row})

    def _of_best(self) -> dict[str, int]:
        return {} if self.best_step is None else {"best_step": self.best_step}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # A resumed TrainerState carries the intervals of the attempt that wrote it; this attempt's own count.
        state.compute_steps(args, state.max_steps)
        self.step_at_log, self.tokens_at_log = state.global_step, self.tokens
        self.clock, self.paused = time.monotonic(), 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        places = self.plan.micro_batch_size * self.plan.gradient_accumulation_steps
        self.ranks.pulse.mark("training", state.global_step)
        agreed = self.ranks.agree(self.indices, places, peak)
        self.indices = []
        self.peak_bytes = agreed.peak_bytes
        self.tokens += sum(self.train.tokens(index) for index in agreed.indices)
        if self.writes:
            ids = [name for index in agreed.indices for name in self.train.names(index)]
            epoch = (state.global_step - 1) // self.steps_per_epoch
            append(self.run.samples, {"step": state.global_step, "epoch": epoch, "ids": ids})
        if state.global_step == state.max_steps:
            control.should_log = True  # a run that is shorter than log_steps tells its loss too
        if agreed.stop and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise NumericalError(
                f"the loss of step {state.global_step} is {logs['loss']}; the last checkpoint is from before it."
                " Its samples are in samples.jsonl. Lower training.learning_rate ("
                f"{self.plan.spec.training.learning_rate:g}) or leave those rows out"
            )
        seconds = time.monotonic() - self.clock - self.paused
        steps = state.global_step - self.step_at_log
        tokens_per_second = (self.tokens - self.tokens_at_log) / seconds
        if self.writes:
            append(
                self.run.metrics,
                {
                    "step": state.global_step,
                    "epoch": round(state.epoch, 4),
                    "loss": logs["loss"],
                    "learning_rate": logs["learning_rate"],
                    "grad_norm": logs.get("grad_norm"),
                    "tokens": self.tokens,
                    "tokens_per_second": round(tokens_per_second, 1),
                    "step_seconds": round(seconds / steps, 4),
                    "mfu": self._mfu(tokens_per_second),
                    "gpu_memory_peak_bytes": self.peak_bytes or None,
                    "time": round(time.time(), 3),
                },
            )
        self.step_at_log, self.tokens_at_log = state.global_step, self.tokens
        self.clock, self.paused = time.monotonic(), 0.0

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        self.last_evaluation = state.global_step
        if self.writes:
            append(
                self.run.metrics,
                {
                    "step": state.global_step,
                    "epoch": round(state.epoch or 0, 4),
                    **self._of_best(),
                    **metrics,
                    "time": round(time.time(), 3),
                },
            )
        if self.plan.spec.training.early_stopping_patience and metrics["eval_loss"] < (state.best_metric or math.inf):
            control.should_save = True  # the best adapter must be on disk when the run stops early

    def _mfu(self, tokens_per_second: float) -> float | None:
        topology, architecture = self.plan.topology, self.plan.architecture
        if topology.rates is None:
            return None
        needed = flops_per_token(architecture, adapter_of(architecture, self.plan.spec.lora), self.mean_length)
        return round(needed * tokens_per_second / (topology.rates.flops * topology.world_size), 4)
