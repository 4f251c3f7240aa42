"""What the planner's model leaves out of many GPUs, drawn with seeds: some are slower in a step, and some fail."""

import math
import random
import statistics
from functools import cache

# Unexpected interruptions of a GPU and hour: 419 in 54 days on 16,384 (Llama 3, arXiv 2407.21783, section 3.3.4).
INTERRUPTIONS = 419 / (54 * 24 * 16_384)
# Seconds from a node's loss to the next step: about 20 as measured on CPU with a small model (docs/reliability.md), and
# two minutes to read 30 GB at 250 MB/s, which is an assumption.
LOST = 20.0
RESTART = LOST + 120.0
SAVE_STEPS = 25
# How far the GPUs' step times spread (standard deviation over mean): assumptions, for nobody has measured ours.
SPREADS, SPREAD = (0.01, 0.03, 0.1), 0.03


@cache
def slowest(count: int, spread: float, steps: int = 200) -> float:
    """Mean over steps of the slowest of `count` GPUs' times, each normal around 1 with that spread; never below 0."""
    drawn = random.Random(count)  # noqa: S311 - the same numbers each time
    return statistics.fmean(max(max(0.0, drawn.gauss(1, spread)) for _ in range(count)) for _ in range(steps))


def goodput(count: int, step_seconds: float, days: float = 400) -> float:
    """Share of the time that is training which is kept, where any GPU's failure stops all.

    Each failure costs a restart and, on average, half of the steps between two checkpoints. Drawn failure by failure.
    """
    drawn, left = random.Random(count), days * 86_400  # noqa: S311
    kept, interval = 0.0, SAVE_STEPS * step_seconds
    while left > 0:
        until = min(left, drawn.expovariate(INTERRUPTIONS * count / 3600))
        kept += until if until == left else math.floor(until / interval) * interval
        left -= until + RESTART
    return kept / (days * 86_400)
