"""Slow drifts: nothing is wrong with any one step, and yet a person should look. Pure; the same on every rank."""

import itertools
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from launch.plan import Plan
from launch.spec import SHARDS_BASE
from training.guard.gate import Outcome

Kind = Literal[
    "gradients_grow", "gradients_vanish", "loss_flat", "loss_risen", "learning_rate_zero", "labels_masked",
    "row_suspect", "slower", "rank_last",
]  # fmt: skip

# Steps whose median is one point of a trend.
BLOCK = 16
# So many blocks, each above the one before it and the last this many times the first: not the noise of batches, and
# more than what an adapter's gradients grow by while its B leaves zero.
BLOCKS, GROWTH = 4, 10.0
# A run's last steps that have gradients of a hundredth of its first ones', and a loss that has hardly fallen, are of an
# adapter that has died: what it adds no longer depends on what it is given.
LAST, VANISHED, ALIVE = 8, 0.01, 0.9
# A loss that has fallen by less than this share, and by less than two standard errors, has not fallen; and one that has
# risen by both has risen.
CHANGE = 0.02
# Rows of metrics that tell how fast a run is, and how many of the last ones have to be slower.
ROWS, SLOW_ROWS, SLOWER = 5, 3, 2 / 3
# For less than so many seconds anything may slow a machine down.
SLOW_SECONDS = 60.0
# A rank that is this much above the median in nine of ten steps is not unlucky.
LATER, MOSTLY = 1.1, 0.9


@dataclass(frozen=True)
class Drifting:
    kind: Kind
    message: str
    advice: str


class Drift:
    """Looks at a run. Each kind is told once in an attempt."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.told: set[Kind] = set()
        self.first: list[float] = []
        self.losses: deque[float] = deque(maxlen=BLOCK)
        self.norms: deque[float] = deque(maxlen=BLOCK * BLOCKS)
        self.latest: deque[list[float]] = deque(maxlen=BLOCK * BLOCKS)
        self.first_norms: list[float] = []
        self.rates: list[tuple[float, float]] = []
        """(seconds since 1970, tokens a second)"""
        self.left_out: dict[str, set[int]] = {}
        """By sample, the steps that were left out with it in their batch."""
        self.zero_rates = 0
        self.learns = False

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: how the run began."""
        return {"first": self.first, "first_norms": self.first_norms, "learns": self.learns}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint's state; the steps since the beginning are not those of this attempt alone."""
        self.first, self.first_norms = list(state.get("first", ())), list(state.get("first_norms", ()))
        self.learns = bool(state.get("learns", False))

    def after_step(self, ended: Outcome, step: int, learning_rate: float, last: bool) -> list[Drifting]:
        """`step` counts from 1; `last` says that it is the run's last one, at which some schedules reach 0."""
        found = [self._masked(ended), self._zero_rate(learning_rate, last)]
        if ended.trained:
            self.norms.append(ended.agreed.grad_norm)
            self.losses.append(ended.agreed.loss)
            if len(self.first) < BLOCK and step == len(self.first) + 1:
                self.first.append(ended.agreed.loss)
            self.latest.append(ended.agreed.own_seconds)
            if len(self.first_norms) < LAST and 1 < step == len(self.first_norms) + 2:
                self.first_norms.append(ended.agreed.grad_norm)
            found += [self._growing(step), self._vanished(), self._flat(step, last), self._last_rank()]
        return self._once(found)

    def after_skip(self, step: int, ids: Sequence[str]) -> list[Drifting]:
        """`ids` are the samples of a step whose update was left out. The same step, tried again after training went
        back, says nothing new of them."""
        for name in ids:
            self.left_out.setdefault(name, set()).add(step)
        often = [name for name, steps in self.left_out.items() if len(steps) > 1]
        if not often:
            return []
        return self._once([
            Drifting(
                "row_suspect",
                f"more than one step was left out with {', '.join(sorted(often)[:5])} in its batch",
                "look at such a row, and leave it out: see the events `skipped`",
            )
        ])  # fmt: skip

    def after_log(self, row: dict[str, Any]) -> list[Drifting]:
        """`row` is one of metrics.jsonl."""
        if row["tokens_per_second"]:  # none where every step was left out
            self.rates.append((row["time"], row["tokens_per_second"]))
        return self._once([self._slower()])

    def _once(self, found: Sequence[Drifting | None]) -> list[Drifting]:
        new = [each for each in found if each is not None and each.kind not in self.told]
        self.told |= {each.kind for each in new}
        return new

    def _masked(self, ended: Outcome) -> Drifting | None:
        if ended.step is None or ended.step.labels:
            return None
        return Drifting(
            "labels_masked",
            "no token of this step's global batch is trained on",
            "see `muster data stats`: rows whose answer is empty or was cut off teach nothing",
        )

    def _zero_rate(self, learning_rate: float, last: bool) -> Drifting | None:
        self.zero_rates = 0 if learning_rate or last else self.zero_rates + 1
        if self.zero_rates < 2:  # a warm-up's first step is made with 0
            return None
        return Drifting(
            "learning_rate_zero",
            "the learning rate is 0: these steps change nothing",
            "see training.lr_scheduler, warmup_ratio and max_steps",
        )

    def _growing(self, step: int) -> Drifting | None:
        if len(self.norms) < BLOCK * BLOCKS or step <= 2 * BLOCK * BLOCKS:
            return None
        norms = list(self.norms)
        medians = [statistics.median(norms[start : start + BLOCK]) for start in range(0, len(norms), BLOCK)]
        rising = all(before < after for before, after in itertools.pairwise(medians))
        if not rising or medians[-1] < GROWTH * medians[0]:
            return None
        return Drifting(
            "gradients_grow",
            f"the gradients' norm grows: {medians[0]:.3g} -> {medians[-1]:.3g} in {len(norms)} steps",
            "lower training.learning_rate or lengthen warmup_ratio; a spike of the loss often follows",
        )

    def _vanished(self) -> Drifting | None:
        if min(len(self.first_norms), len(self.first), len(self.norms)) < LAST:  # a resumed run's last ones are to come
            return None
        began, now = statistics.median(self.first_norms), max(list(self.norms)[-LAST:])
        if now > VANISHED * began or statistics.median(list(self.losses)[-LAST:]) < ALIVE * self.first[0]:
            return None
        return Drifting(
            "gradients_vanish",
            f"gradients have vanished: their norm was {began:.3g} and is {now:.3g}, and the loss has not fallen",
            "the adapter has died, as of a training.learning_rate that is far too high: begin anew with a lower one",
        )

    def _flat(self, step: int, last: bool) -> Drifting | None:
        """After 64 steps, or at the end of a run that is shorter."""
        ended = last and BLOCK <= step < BLOCK * BLOCKS
        if self.learns or len(self.first) < BLOCK or (step < BLOCK * BLOCKS and not ended):
            return None
        most = min(BLOCK, step // 2)
        if len(self.losses) < most:  # of this attempt: its first steps alone are too few to judge a run by
            return None
        first, now = self.first[:most], list(self.losses)[-most:]
        began, ended_at = statistics.mean(first), statistics.mean(now)
        fall = began - ended_at
        error = ((statistics.variance(first) + statistics.variance(now)) / most) ** 0.5
        if fall >= CHANGE * began or fall >= 2 * error:
            self.learns = True  # never asked again
            return None
        if -fall >= CHANGE * began and -fall >= 2 * error:
            return Drifting(
                "loss_risen",
                f"after {step} steps the loss is above where it began: {began:.4g} -> {ended_at:.4g}",
                "training.learning_rate is too high, most likely: begin anew with a lower one",
            )
        return Drifting(
            "loss_flat",
            f"after {step} steps the loss is where it began: {began:.4g} -> {ended_at:.4g}",
            "is training.learning_rate too small, or lora.target_modules too few? See `muster data stats` for labels",
        )

    def _last_rank(self) -> Drifting | None:
        if len(self.latest) < BLOCK * BLOCKS or self.plan.world_size < 2:
            return None
        slowest = [times.index(max(times)) for times in self.latest]
        rank = statistics.mode(slowest)
        behind = [times[rank] >= LATER * statistics.median(times[:rank] + times[rank + 1 :]) for times in self.latest]
        if sum(behind) < MOSTLY * len(behind):
            return None
        mine = statistics.median(times[rank] for times in self.latest)
        others = statistics.median(statistics.median(times[:rank] + times[rank + 1 :]) for times in self.latest)
        what = "reads its data" if self.plan.strategy in SHARDS_BASE else "reads its data and makes its forward passes"
        return Drifting(
            "rank_last",
            f"rank {rank} is always last: it {what} in {mine:.3g} s a step, the others in {others:.3g} s",
            "look at its GPU's clocks and throttling (resources.jsonl), its host's load and its storage",
        )

    def _slower(self) -> Drifting | None:
        if len(self.rates) < ROWS + SLOW_ROWS:
            return None
        usual = statistics.median(rate for _, rate in self.rates[:-SLOW_ROWS])
        now = max(rate for _, rate in self.rates[-SLOW_ROWS:])
        since = self.rates[-1][0] - self.rates[-SLOW_ROWS - 1][0]
        if now > SLOWER * usual or since < SLOW_SECONDS:
            return None
        return Drifting(
            "slower",
            f"tokens/s have fallen by {1 - now / usual:.0%}: {usual:,.0f} -> {now:,.0f}",
            "look at clocks and throttling (resources.jsonl), the storage of the data, and who else uses this machine",
        )
