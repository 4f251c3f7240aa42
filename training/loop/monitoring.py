"""What a run leaves behind while it trains: metrics, the ledger of samples, events."""

import math
import time
from typing import Any

from transformers import TrainerCallback

from launch.memory import Measured, adapter_of
from launch.memory.measured import TOLERANCE
from launch.plan import Plan
from launch.plan.throughput import flops_per_token
from launch.rundir import RunDir
from launch.rundir.journal import append, event, keep_rows, write_text
from training.data.sequences.tokens import Sequences
from training.guard.drift import Drift, Drifting
from training.guard.gate import LEFT_OUT, Gate, Outcome
from training.loop.rollback import Unsound
from training.ranks.control import Control, Memory
from training.telemetry.stopwatch import StepSeconds


class Recorder(TrainerCallback):
    """Writes metrics.jsonl, samples.jsonl and events.jsonl on rank 0, and carries out a stop that
    the ranks agree on."""

    def __init__(self, plan: Plan, run: RunDir, control: Control, train: Sequences, steps_per_epoch: int, gate: Gate):
        self.plan, self.run, self.ranks, self.train, self.gate = plan, run, control, train, gate
        self.steps_per_epoch = steps_per_epoch
        self.writes = control.rank == 0
        self.mean_length = train.statistics.tokens / train.statistics.samples
        self.tokens = 0
        self.stopped = False
        self.last_evaluation: int | None = None
        self.best_step: int | None = None
        """Once early stopping has gone back to an earlier adapter, its step: what is evaluated then is that one."""
        self.memory = Memory()
        self.row: dict[str, Any] = {}
        self.save_owed = False
        self.drift = Drift(plan)
        self._begin(0)

    def _begin(self, step: int) -> None:
        """What is counted from one row of metrics to the next."""
        self.step_at_log, self.tokens_at_log = step, self.tokens
        self.losses: list[float] = []
        self.seconds = StepSeconds()
        self.clock, self.paused = time.monotonic(), 0.0

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
        self.save_owed = False
        self._begin(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **_: Any) -> None:
        self.ranks.pulse.mark("training", state.global_step)
        ended = self.gate.end(lr_scheduler)
        agreed = ended.agreed
        self.memory = agreed.memory
        self.seconds.add(ended.seconds)
        self._ledger(state.global_step, ended)
        if ended.trained:
            self.losses.append(agreed.loss)
            self.tokens += sum(self.train.tokens(index) for index in agreed.indices)
        elif ended.verdict.what != "skip":
            raise Unsound(ended.verdict)
        last = state.global_step == state.max_steps
        self._warn(state.global_step, self.drift.after_step(ended, state.global_step, self.gate.learning_rate, last))
        if last:
            control.should_log = True  # a run that is shorter than log_steps tells its loss too
        if not ended.trained:  # what is saved amid trouble could be what training has to be sent back from
            self.save_owed = self.save_owed or control.should_save
            control.should_save = False
            return
        control.should_save = control.should_save or self.save_owed
        self.save_owed = False
        if agreed.stop and not last:
            self.stopped = control.should_save = control.should_training_stop = True

    def _ledger(self, step: int, ended: Outcome) -> None:
        if not self.writes:
            return
        ids = [name for index in ended.agreed.indices for name in self.train.names(index)]
        row = {"ids": ids} if ended.trained else {"ids": [], "left_out": ids}
        append(self.run.samples, {"step": step, "epoch": (step - 1) // self.steps_per_epoch, **row})
        if not ended.trained and ended.verdict is not LEFT_OUT:
            verdict = ended.verdict
            self.event(
                "skipped", step=step, reason=verdict.reason, loss=ended.agreed.loss, grad_norm=ended.agreed.grad_norm,
                threshold=verdict.threshold, ids=ids,
            )  # fmt: skip
            self._warn(step, self.drift.after_skip(step, ids))

    def _warn(self, step: int, found: list[Drifting]) -> None:
        for each in found:
            self.event("warning", kind=each.kind, step=step, message=each.message, advice=each.advice)

    def completed(self, state: Any, logs: dict[str, float]) -> dict[str, float]:
        """What transformers logs of the steps since the last row, with what it does not know, for trackers too. The
        loss is that of the steps that were trained, where transformers counts all."""
        seconds = time.monotonic() - self.clock - self.paused
        steps = state.global_step - self.step_at_log
        tokens_per_second = (self.tokens - self.tokens_at_log) / seconds
        memory = self.memory
        self.row = {
            "step": state.global_step,
            "epoch": round(state.epoch, 4),
            "loss": sum(self.losses) / len(self.losses) if self.losses else math.nan,
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm"),
            "tokens": self.tokens,
            "tokens_per_second": round(tokens_per_second, 1),
            "step_seconds": round(seconds / steps, 4),
            **self.seconds.means(steps, self.plan),
            "mfu": self._mfu(tokens_per_second),
            "gpu_memory_peak_bytes": memory.peak or None,
            "gpu_memory_allocated_bytes": memory.allocated or None,
            "gpu_memory_reserved_bytes": memory.reserved or None,
            "process_memory_bytes": memory.process,
            "skipped_steps": self.gate.guard.skipped,
            "time": round(time.time(), 3),
        }
        known = {name: value for name, value in self.row.items() if value is not None}
        return {**logs, **{name: known[name] for name in known if name not in ("step", "epoch", "time")}}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:
            return
        if self.writes:
            append(self.run.metrics, self.row)
        self._warn(state.global_step, self.drift.after_log(self.row))
        self._begin(state.global_step)

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
