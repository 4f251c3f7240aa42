"""Between a step's gradients and its update: every step passes here, on all ranks together, or leaves no trace.

What is judged is the mean loss over the global batch and the norm of the gradients, which the ranks exchange before
the update. A step that may not pass keeps its place in the schedule and in the order of samples.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from launch.plan import Plan
from launch.rundir import RunDir
from training.checkpoint.states import whole, zero_optimizer
from training.guard.lessons import Lessons, read_lessons
from training.guard.stability import Guard, Step, Verdict
from training.ranks.control import Agreement, Control, Memory, Report
from training.telemetry.stopwatch import Stopwatch

# A loss scale begins at 2^16 and is halved with each overflow (torch.amp.GradScaler, DeepSpeed's DynamicLossScaler):
# when it is below 1, it is not the scale that gradients overflow by.
OVERFLOWS = 17
GO_ON = Verdict("go_on")
LEFT_OUT = Verdict("skip", "its global batch is left out, since training went back to before it")


@dataclass(frozen=True)
class Outcome:
    """A step that is over."""

    agreed: Agreement
    step: Step | None
    """What was judged; None where nothing was computed, or a loss scale was too large."""
    verdict: Verdict
    seconds: dict[str, list[float]]
    """Of this rank, by part: each time that data was read, a forward and a whole pass was made, and an update."""

    @property
    def trained(self) -> bool:
        return self.verdict.what == "go_on"


class Gate:
    """Of one rank. The trainer calls `begin`, counts what it computes in `losses` and `indices`, and calls `end`."""

    def __init__(self, plan: Plan, run: RunDir, ranks: Control, device: torch.device):
        self.plan, self.ranks, self.device = plan, ranks, device
        self.places = plan.micro_batch_size * plan.gradient_accumulation_steps
        self.guard = Guard(plan.spec.stability, plan.architecture.vocab_size)
        self.lessons: Lessons = ranks.share(read_lessons(run.stability) if ranks.rank == 0 else None)
        self.guard.trouble = self.lessons.open_trouble()
        self.watch = Stopwatch(device)
        self.process = psutil.Process()
        self.zero: Any = None
        self.step, self.position, self.learning_rate = 0, 0, 0.0
        self.labels: Any = 0
        self.indices: list[int] = []
        self.losses: list[torch.Tensor] = []
        self.verdict = GO_ON
        self.overflows = 0
        """In a row, under fp16."""
        self._judged: Step | None = None
        self._agreed: Agreement | None = None
        self._seconds: dict[str, list[float]] = {}

    def begin(self, step: int, labels: Any, scheduler: Any) -> None:
        """A step, counted from 1, whose global batch has so many labels."""
        self.step, self.labels, self.position = step, labels, scheduler.last_epoch
        self.learning_rate = scheduler.get_last_lr()[0]
        self.indices, self.losses = [], []
        self.verdict, self._judged, self._agreed = GO_ON, None, None

    @property
    def left_out(self) -> bool:
        """Whether nothing is computed in this step."""
        return self.step in self.lessons.left_out

    def install(self, trainer: Any) -> None:
        """Stands in the way of the engine's update, once nothing is rehearsed any more."""
        zero = self.zero = zero_optimizer(trainer.optimizer)
        if zero is None:
            update = trainer.optimizer.step

            @functools.wraps(update)  # its scheduler looks for a mark on it
            def step(*positional: Any, **named: Any) -> None:
                if not self.left_out:
                    trainer.settle_save()
                    with self.watch.part("optimizer"):
                        update(*positional, **named)

            trainer.optimizer.step = step
            return
        # DeepSpeed updates at the end of its backward pass. What makes it leave an update out is an infinite norm.
        engine = trainer.model_wrapped
        update = engine.step

        def timed(*positional: Any, **named: Any) -> None:
            trainer.settle_save()
            with self.watch.part("optimizer"):
                update(*positional, **named)

        engine.step = timed
        attribute = "_get_norm_groups" if hasattr(zero, "_get_norm_groups") else "scaled_global_norm"
        norm, checked = getattr(zero, attribute), getattr(zero, "check_grad_overflow", None)

        def judged(*positional: Any, **named: Any) -> Any:
            found = norm(*positional, **named)
            passes = self.judge(_global(found) / zero.loss_scale)
            if checked is not None:  # ZeRO-1 and 2 look at the norm of bf16 where this is set alone
                zero.check_grad_overflow = checked or not passes
            return found if passes else _infinite(found)

        setattr(zero, attribute, judged)

    def judge(self, grad_norm: Any) -> bool:
        """Whether the update may be made, the same answer on every rank. Waits for the GPU, once in a step."""
        zero = torch.zeros((), device=self.device)
        values = [torch.stack(self.losses).sum() if self.losses else zero, grad_norm, self.labels]
        scalars = [whole(torch.as_tensor(value, device=self.device)).double() for value in values]
        told = torch.stack(scalars).tolist()
        self._exchange(told[0], told[1])
        agreed = self._agreed
        assert agreed is not None
        fp16 = self.plan.precision == "fp16"
        overflowed = fp16 and math.isfinite(agreed.loss) and not math.isfinite(agreed.grad_norm)
        self.overflows = self.overflows + 1 if overflowed else 0
        if overflowed and self.overflows < OVERFLOWS:
            self.verdict = GO_ON  # the loss scale is too large, and its scaler leaves the update out by itself
        else:
            self._judged = Step(self.step, agreed.loss, agreed.grad_norm, int(told[2]))
            self.verdict = self.guard.judge(self._judged)
        return self.verdict.what == "go_on"

    def end(self, scheduler: Any) -> Outcome:
        """What became of the step. Its place in the schedule of the learning rate is kept, whatever that is."""
        if self.left_out:
            self._exchange(0.0, 0.0)
            self.guard.skipped += 1
            self.verdict = LEFT_OUT
        elif self._agreed is None:  # ZeRO has found gradients that are not finite before it asked for their norm
            overflow = self.zero.overflow and self.plan.precision != "fp16"
            self.judge(math.nan if overflow else 0.0)
        if self.verdict.what != "go_on" and scheduler.last_epoch == self.position:
            scheduler.step()
        assert self._agreed is not None
        for name, times in self.watch.take().items():
            self._seconds.setdefault(name, []).extend(times)
        return Outcome(self._agreed, self._judged, self.verdict, self._seconds)

    def _exchange(self, loss: float, grad_norm: float) -> None:
        self._seconds = self.watch.take()
        own = sum(sum(self._seconds.get(part, ())) for part in ("data", "forward"))
        report = Report(self.indices, loss, grad_norm, own, self._memory())
        self._agreed = self.ranks.agree(report, self.places)

    def _memory(self) -> Memory:
        resident = self.process.memory_info().rss
        if self.device.type != "cuda":
            return Memory(process=resident)
        cuda = torch.cuda
        return Memory(cuda.max_memory_allocated(), cuda.memory_allocated(), cuda.memory_reserved(), resident)


def _global(norm: Any) -> float:
    """One norm of ZeRO's; not finite where one of its groups' is not, which it marks by -1."""
    norms = [float(each) for each in (norm if isinstance(norm, list) else [norm])]
    return math.hypot(*norms) if all(each >= 0 for each in norms) else math.nan


def _infinite(norm: Any) -> Any:
    return [_infinite(each) for each in norm] if isinstance(norm, list) else torch.full_like(norm, math.inf)
