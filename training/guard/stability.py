"""The stability guard: whether a step may change the adapter, and what follows when it may not.

Pure: the numbers of a step, the same on every rank, go in; a verdict, the same on every rank, comes out. The gate
(gate.py) carries it out.
"""

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from launch.spec.stability import StabilitySpec

# A median distance from the median times this is a standard deviation where values are normal (Rousseeuw and Croux,
# "Alternatives to the Median Absolute Deviation", 1993).
MAD_TO_DEVIATION = 1.4826
# Fewer losses than this have no deviation worth the name: then a spike is so many nats per token above their median.
ENOUGH, EARLY_SPIKE = 8, 2.0
# What a loss must exceed the median by, in nats per token: a run that has learnt its rows well has deviations of
# thousandths, and a batch that is new to it is no spike.
LEAST_SPIKE = 0.5
# A loss that rises little by little takes its median along. So it may not exceed the lowest limit so far either, in
# which a rise is at least so many nats per token, as soon as there are so many losses. That limit stays, so the
# deviation of a few losses, which is small by chance now and then, counts for more than it is.
LEAST_RISE, SETTLED = 2.0, 16
# A model that knows nothing has a loss of ln(vocabulary); one that is so much worse is broken, whatever came before.
WORSE_THAN_GUESSING = 1.5
# With more sound steps than these beyond the last unsound one, what comes next is another trouble.
CALM = 8

What = Literal["go_on", "skip", "roll_back", "lower_learning_rate", "stop"]


@dataclass(frozen=True)
class Step:
    """What is known of a step before its update."""

    number: int
    loss: float
    """Mean over all tokens of the global batch that are trained on; not finite where it is on any rank."""
    grad_norm: float
    """Global norm of the gradients before they are clipped; not finite where a gradient is not, on any rank."""
    labels: int
    """Tokens of the global batch that are trained on."""


@dataclass(frozen=True)
class Verdict:
    what: What
    reason: str = ""
    threshold: float | None = None
    """The loss above which this step's is a spike; None while that is not known."""


@dataclass
class Trouble:
    """Unsound steps that belong together: CALM sound ones or fewer lie between them."""

    steps: list[int]
    rolled_back: int = 0
    lowered: int = 0


@dataclass
class Guard:
    """Judges one step after the other. `vocabulary` is the number of tokens that the model knows."""

    spec: StabilitySpec
    vocabulary: int
    losses: deque[float] = field(init=False)
    lowest: float | None = None
    """What no later loss may exceed: see LEAST_RISE. None until there are SETTLED losses."""
    in_a_row: int = 0
    skipped: int = 0
    """Steps whose update was left out, of all that led to where training is now."""
    trouble: Trouble | None = None

    def __post_init__(self) -> None:
        self.losses = deque(maxlen=self.spec.window)

    def judge(self, step: Step) -> Verdict:
        """What follows from this step. A step that may go on becomes one that later ones are compared with."""
        limit = threshold(self.losses, self.spec.spike_deviations, self.vocabulary, self.lowest)
        if step.labels == 0:
            self.skipped += 1
            return Verdict("skip", "no token of its global batch is trained on: all labels are masked", limit)
        reason = unsound(step, limit)
        if reason is None:
            self.losses.append(step.loss)
            self.lowest = lowest_limit(self.lowest, self.losses, self.spec.spike_deviations)
            self.in_a_row = 0
            if self.trouble is not None and step.number > max(self.trouble.steps) + CALM:
                self.trouble = None
            return Verdict("go_on", threshold=limit)
        self.skipped += 1
        self.in_a_row += 1
        self.trouble = self.trouble or Trouble([])
        if step.number not in self.trouble.steps:
            self.trouble.steps.append(step.number)
        return Verdict(self._answer(self.trouble), reason, limit)

    def _answer(self, trouble: Trouble) -> What:
        """The mildest action that has not failed yet."""
        actions = self.spec.actions
        if "skip" in actions and self.in_a_row <= self.spec.skips_in_a_row:
            return "skip"  # a step now and then costs no more than itself, whatever is wrong with its rows
        if "roll_back" in actions and not trouble.rolled_back and not trouble.lowered:
            trouble.rolled_back += 1
            return "roll_back"
        if "lower_learning_rate" in actions and trouble.lowered < self.spec.reductions:
            trouble.lowered += 1
            return "lower_learning_rate"
        return "stop"

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "losses": list(self.losses), "lowest": self.lowest, "in_a_row": self.in_a_row, "skipped": self.skipped,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint's state. What trouble there is, going back does not make undone."""
        self.losses = deque(state.get("losses", ()), maxlen=self.spec.window)
        self.lowest = state.get("lowest")
        self.in_a_row, self.skipped = int(state.get("in_a_row", 0)), int(state.get("skipped", 0))


def threshold(
    losses: Sequence[float], deviations: float | None, vocabulary: int, lowest: float | None = None
) -> float | None:
    """The loss, in nats per token, above which a step's is a spike; None where no finite loss is one. `lowest` is the
    lowest limit of the steps before."""
    if deviations is None:
        return None
    worst = WORSE_THAN_GUESSING * math.log(vocabulary)
    if not losses:
        return worst
    if len(losses) < ENOUGH:
        return min(worst, statistics.median(losses) + EARLY_SPIKE)
    return min(worst, lowest or worst, _above(losses, deviations, LEAST_SPIKE))


def lowest_limit(before: float | None, losses: Sequence[float], deviations: float | None) -> float | None:
    """`before`, or the limit that these losses give where that is lower."""
    if deviations is None or len(losses) < SETTLED:
        return before
    limit = _above(losses, deviations * (1 + ENOUGH / len(losses)), LEAST_RISE)
    return limit if before is None else min(before, limit)


def _above(losses: Sequence[float], deviations: float, least: float) -> float:
    median = statistics.median(losses)
    deviation = MAD_TO_DEVIATION * statistics.median(abs(loss - median) for loss in losses)
    return median + max(deviations * deviation, least)


def unsound(step: Step, limit: float | None) -> str | None:
    """What is wrong with a step's loss or gradients; None where nothing is."""
    if not math.isfinite(step.loss):
        return f"its loss is {step.loss}"
    if not math.isfinite(step.grad_norm):
        return "its gradients are not finite"
    if limit is not None and step.loss > limit:
        return f"its loss of {step.loss:.4g} is above {limit:.4g}, the limit after the steps before it"
    return None
