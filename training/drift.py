"""Slow drifts: nothing is wrong with any one step, and yet a person should look. Pure; the same on every rank."""

import itertools
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from launch.plan import Plan
from launch.spec import SHARDS_BASE
from training.gate import Outcome

Kind = Literal["gradients_grow", "loss_flat", "learning_rate_zero", "labels_masked", "slower", "rank_last"]

# Steps whose median is one point of a trend.
BLOCK = 16
# So many blocks, each above the one before it and the last this many times the first: not the noise of batches, and
# more than what an adapter's gradients grow by while its B leaves zero.
BLOCKS, GROWTH = 4, 10.0
# A loss that has fallen by less than this share, and by less than two standard errors, has not fallen.
FALL = 0.02
# Rows of metrics that tell how fast a run is, and how many of the last ones have to be slower.
ROWS, SLOW_ROWS, SLOWER = 5, 3, 2 / 3
# A rank that is this much above the median in nine of ten steps is not unlucky.
LATER, MOSTLY = 1.1, 0.9


@dataclass(frozen=True)
class Drifting:
    kind: Kind
    message: str
    advice: str


class Drift:
    """Looks at one attempt. Each kind is told once."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.told: set[Kind] = set()
        self.first: list[float] = []
        self.losses: deque[float] = deque(maxlen=BLOCK)
        self.norms: deque[float] = deque(maxlen=BLOCK * BLOCKS)
        self.latest: deque[list[float]] = deque(maxlen=BLOCK * BLOCKS)
        self.rates: list[float] = []
        self.zero_rates = 0

    def after_step(self, ended: Outcome, step: int, learning_rate: float, last: bool) -> list[Drifting]:
        """`step` counts from 1; `last` says that it is the run's last one, at which some schedules reach 0."""
        found = [self._masked(ended), self._zero_rate(learning_rate, last)]
        if ended.trained:
            self.norms.append(ended.agreed.grad_norm)
            self.losses.append(ended.agreed.loss)
            if len(self.first) < BLOCK and step == len(self.first) + 1:
                self.first.append(ended.agreed.loss)
            self.latest.append(ended.agreed.own_seconds)
            found += [self._growing(step), self._flat(step), self._last_rank()]
        return self._once(found)

    def after_log(self, row: dict[str, Any]) -> list[Drifting]:
        """`row` is one of metrics.jsonl."""
        if row["tokens_per_second"]:  # none where every step was left out
            self.rates.append(row["tokens_per_second"])
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

    def _flat(self, step: int) -> Drifting | None:
        if len(self.first) < BLOCK or step < BLOCK * BLOCKS:
            return None
        before, now = statistics.mean(self.first), statistics.mean(self.losses)
        error = ((statistics.variance(self.first) + statistics.variance(self.losses)) / BLOCK) ** 0.5
        if before - now >= FALL * before or before - now >= 2 * error:
            self.first = []  # it has learnt something: never asked again
            return None
        return Drifting(
            "loss_flat",
            f"after {step} steps the loss is where it began: {before:.4g} -> {now:.4g}",
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
        usual = statistics.median(self.rates[:-SLOW_ROWS])
        now = max(self.rates[-SLOW_ROWS:])
        if now > SLOWER * usual:
            return None
        return Drifting(
            "slower",
            f"tokens/s have fallen by {1 - now / usual:.0%}: {usual:,.0f} -> {now:,.0f}",
            "look at clocks and throttling (resources.jsonl), the storage of the data, and who else uses this machine",
        )
