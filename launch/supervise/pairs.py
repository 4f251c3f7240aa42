"""Which node breaks or slows down a network: nodes exchange in pairs, several rounds of them at once."""

import json
import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from launch.cluster.allocation import Allocation
from launch.cluster.container import Inside
from launch.preflight.probe import meeting_port
from launch.supervise.srun import start_step, step_argv

ROUNDS = 3
# A node whose best pair is this much slower than the pairs without it slows down everybody.
SLOW_SHARE = 0.5

Pair = tuple[str, str]
# Gigabytes per second of each pair that was tried; None for one that did not exchange.
Rates = Mapping[Pair, float | None]


def rounds(nodes: Sequence[str], count: int = ROUNDS) -> list[list[Pair]]:
    """Rounds in which each node has another partner, and every node but an odd one has a partner (the circle method of
    round-robin tournaments)."""
    places: list[str | None] = [*nodes, *([None] if len(nodes) % 2 else [])]
    found = []
    for _ in range(min(count, max(0, len(places) - 1))):
        half = len(places) // 2
        pairs = zip(places[:half], reversed(places[half:]), strict=True)
        found.append([(a, b) for a, b in pairs if a is not None and b is not None])
        places = [places[0], places[-1], *places[1:-1]]
    return found


def culprits(rates: Rates) -> dict[str, str]:
    """By node, what is wrong with it. Empty where the pairs do not tell: with two nodes either may be it."""
    nodes = dict.fromkeys(node for pair in rates for node in pair)
    found = {}
    for node in nodes:
        own = {pair: rate for pair, rate in rates.items() if node in pair}
        others = [rate for pair, rate in rates.items() if node not in pair and rate is not None]
        partners = ", ".join(sorted(next(name for name in pair if name != node) for pair in own))
        best = max((rate for rate in own.values() if rate is not None), default=None)
        if not others:
            continue
        usual = statistics.median(others)
        if best is None:
            found[node] = f"exchanges with none of {partners}, which exchange with one another"
        elif best < SLOW_SHARE * usual:
            found[node] = f"exchanges {best:.2f} GB/s with {partners}, the others {usual:.2f} GB/s"
    return found


def measured(
    job: Allocation, place: Inside, nodes: Sequence[str], device: str, seconds: float
) -> dict[Pair, float | None]:
    """The rate of each pair of some rounds; each round runs at once and has so many seconds."""
    found: dict[Pair, float | None] = {}
    for number, pairs in enumerate(rounds(nodes)):
        started = {pair: Exchange(job, place, pair, device, 1, seconds, number + 2) for pair in pairs}
        found |= {pair: answer and answer[1] for pair, answer in ((p, one.answer()) for p, one in started.items())}
    return found


# Python, torch and srun's own start.
_START_SECONDS = 30.0


class Exchange:
    """An all-reduce among processes on some nodes of the job, begun at once."""

    def __init__(
        self, job: Allocation, place: Inside, nodes: Sequence[str], device: str, devices: int, seconds: float,
        number: int = 1,
    ):  # fmt: skip
        """`devices` processes of each node. Of several at one time on a node, each has another `number`; 0 would be
        where the run itself meets."""
        in_order = sorted(nodes, key=job.nodes.index)  # Slurm numbers them in its own order
        port = meeting_port(job.number, number)
        program = ("training.ranks.exchange", in_order[0], port, device, devices, seconds)
        argv = step_argv(job, place, in_order, "muster-exchange", *program)
        self.deadline = time.monotonic() + seconds + _START_SECONDS
        self.process = start_step(argv, place, subprocess.PIPE, subprocess.PIPE, os.environ)

    def answer(self) -> tuple[float, float] | None:
        """(seconds of an all-reduce, bus bandwidth in GB/s); None where it was not made in time."""
        try:
            told, _ = self.process.communicate(timeout=max(0.1, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            return None
        for line in told.decode(errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                made = json.loads(line)
                return float(made["seconds"]), float(made["gbps"])
        return None
