"""Reads a run directory again and again, and only reads: a look costs what is new since the last one."""

import math
import re
import threading
import time
from collections.abc import Mapping

from launch.cluster.queue import State
from launch.errors import HostError
from launch.logs.happened import in_order as lines_in_order
from launch.logs.happened import logged, told
from launch.logs.ranks import Heard
from launch.rundir import RunDir
from launch.rundir.journal import document
from launch.rundir.pulses import read_pulses
from launch.rundir.tail import Tail
from launch.spec import RecoverySpec
from launch.status.following import OVER, Asker, Status, status
from launch.status.hangs import Watch
from launch.watching.signs import holder, rank_troubles, ranks_told
from launch.watching.view import (
    Happening,
    Node,
    Row,
    View,
    evaluated,
    gpu_troubles,
    grown,
    happenings,
    in_order,
    nodes_of,
    sound,
)

# What of a long run is read at first: about a thousand logged steps, and a minute of a hundred GPUs.
METRICS_BYTES, RESOURCES_BYTES = 256 << 10, 512 << 10
# Slurm's controller serves a whole cluster: it is asked this often. The rest of a status is a few small files.
SLURM_SECONDS, STATUS_SECONDS = 20.0, 2.0
# Every rank's pulse is a file of its own: with many of them they are looked at less often.
PULSES_EACH = 0.05


class Slurm(Asker):
    """Asks for a job at first, then now and then in the background: nobody waits for a slow controller."""

    def __init__(self) -> None:
        super().__init__()
        self.found: State | None = None
        self.lost: str | None = None
        self.asked: float | None = None
        self.thread: threading.Thread | None = None

    def __call__(self, job: str) -> State | None:
        if self.asked is None:
            self._ask(job)
        elif time.monotonic() - self.asked > SLURM_SECONDS and not (self.thread and self.thread.is_alive()):
            self.thread = threading.Thread(target=self._ask, args=(job,), name="slurm", daemon=True)
            self.thread.start()
        return self.found

    def unrecorded(self, run: RunDir) -> str | None:
        if self.asked is None:
            self.lost = super().unrecorded(run)
        return self.lost

    def again(self) -> None:
        """The next call asks, and waits for the answer."""
        self.asked = None

    def soon(self) -> None:
        """The next call asks, and nobody waits: something has changed."""
        self.lost = None  # a job that has begun is in the events
        if self.asked is not None:
            self.asked -= SLURM_SECONDS

    def _ask(self, job: str) -> None:
        self.silence = None
        found = super().__call__(job)
        self.found = self.found if self.silence is not None else found
        self.asked = time.monotonic()


class Reader:
    """One run. `look` may take long on a file system that does: it is for a thread of its own."""

    def __init__(self, run: RunDir):
        self.run = run
        self.slurm = Slurm()
        self.tails = {
            "events": Tail(run.events, last=1 << 40),
            "metrics": Tail(run.metrics, last=METRICS_BYTES, skips=True),
            "resources": Tail(run.resources, last=RESOURCES_BYTES, skips=True),
        }
        self.events: list[Row] = []
        self.logged: list[Row] = []
        self.evaluations: list[Row] = []
        self.nodes: Mapping[str, Node] = {}
        self.said: list[Happening] = []
        self.attempt = _Attempt(run, 0)
        self.earlier: dict[int, str] = {}
        self.state: Status | None = None
        self.long_ago = False
        self.looked = self.newest = 0.0
        self.began = False
        self.ended: float | None = None

    def look(self) -> View:
        """Raises HostError where the run directory is there no more: nothing will ever be written to it."""
        if not self.run.root.is_dir():
            raise HostError(f"{self.run.root}: the run directory is gone, removed, moved away or no longer mounted")
        metrics = self.tails["metrics"].rows()  # before the events: of each row, what happened before it is known
        events = self.tails["events"].rows()
        self.events += events
        found = self._status()
        if found.attempt != self.attempt.number:
            self.attempt, self.nodes = _Attempt(self.run, found.attempt), {}
            self.slurm.soon()  # a job that waited has begun
        rows = self._read(metrics)
        now, over = time.time(), self._over(found)
        heard = self.attempt.heard.look(last=over)
        self.said += [Happening(line, min(now, self.attempt.last_words()), True) for line in heard]
        written = [(event, line) for event in events for line in told(event)] + self._fresh(rows, self._steps(found))
        fresh = [*lines_in_order(written), *heard]
        nodes = tuple(self.nodes[name] for name in sorted(self.nodes, key=_counting))
        troubles = [f"Slurm does not answer: {found.slurm_silence}"] if found.slurm_silence else []
        if running := found.state in ("running", "stopping"):
            step_seconds = self.logged[-1].get("step_seconds") if self.logged else None
            troubles += [*self.attempt.troubles(now, step_seconds), *gpu_troubles(nodes)]
        happened = [*happenings(self.events), *evaluated(self.evaluations, self._steps(found)), *self.said]
        view = View(
            status=found, now=now, logged=tuple(self.logged), evaluations=tuple(self.evaluations), nodes=nodes,
            happenings=in_order(happened), troubles=tuple(troubles), attempts=self._earlier(found.attempt),
            ranks=self.attempt.ranks() if running else "", fresh=tuple(fresh) if self.began else (), over=over,
        )  # fmt: skip
        self.began = True
        return view

    def _status(self) -> Status:
        if self.state is None or time.monotonic() - self.looked > STATUS_SECONDS:
            state = status(self.run, self.slurm, self.events, holder)
            # What was over before anybody looked does not only seem so.
            self.long_ago = state.state in OVER and (self.state is None or self.long_ago)
            self.state, self.looked = state, time.monotonic()
        return self.state

    def _read(self, metrics: list[Row]) -> list[Row]:
        rows = [sound(row) for row in metrics if isinstance(row.get("step"), int)]
        self.logged = grown(self.logged, (row for row in rows if "loss" in row))
        self.evaluations = grown(self.evaluations, (row for row in rows if "eval_loss" in row))
        self.nodes = nodes_of(self.tails["resources"].rows(), self.nodes, self.attempt.gpu_bytes)
        return rows

    def _steps(self, found: Status) -> int | None:
        """Optimizer steps of the run: a status is some seconds old, the events are not."""
        started = (event for event in reversed(self.events) if event.get("event") == "started")
        return next((event["steps"] for event in started if "steps" in event), found.steps)

    def _fresh(self, rows: list[Row], total: int | None) -> list[tuple[Row, str]]:
        """Lines of rows that were not there before: a resume writes the file anew, with the rows that it keeps."""
        new = [row for row in rows if row.get("time", math.inf) > self.newest]
        self.newest = max([self.newest, *(row["time"] for row in new if "time" in row)])
        return [(row, line) for row in new if (line := logged(row, total))]

    def _over(self, found: Status) -> bool:
        """Whether the run is over and stays so: between an attempt and the next, or a job and its requeueing, it only
        seems so for a moment."""
        ends = found.state in OVER and not (found.slurm and found.slurm["state"] == "COMPLETING")
        if not ends:
            self.ended = None
        elif self.ended is None:
            self.ended = time.monotonic()
            self.slurm.again()
        # The adapter has its name before the run's last words are written.
        said = found.state == "finished" and any(event.get("event") == "finished" for event in self.events)
        return self.ended is not None and (said or self.long_ago or time.monotonic() - self.ended > 2 * STATUS_SECONDS)

    def _earlier(self, last: int) -> tuple[str, ...]:
        """How each attempt before the last one ended, oldest first."""
        for number in range(1, last):
            if number not in self.earlier:
                self.earlier[number] = f"{number} {_outcome(self.run, number)}"
        return tuple(self.earlier[number] for number in range(1, last))


class _Attempt:
    """One attempt: its ranks' pulses and logs."""

    def __init__(self, run: RunDir, number: int):
        self.number, self.place = number, run.attempt(number)
        plan = document(self.place.plan)
        topology = plan.get("topology") or {}
        self.world_size: int | None = plan.get("world_size")
        self.gpu_bytes: float | None = topology.get("memory_bytes") if topology.get("device") == "gpu" else None
        self.heard = Heard(self.place)
        self.watch = Watch(RecoverySpec(), time.monotonic())
        self.due = 0.0

    def troubles(self, clock: float, step_seconds: float | None) -> list[str]:
        """Looks at the pulses where it is time for it."""
        now = time.monotonic()
        if now >= self.due:
            self.watch.look(read_pulses(self.place), now)
            self.due = now + PULSES_EACH * len(self.watch.seen)
        return rank_troubles(self.watch.seen, now, clock, step_seconds)

    def last_words(self) -> float:
        """When a rank has written to its log last: warnings that were there before we came are not of now."""
        times = [path.stat().st_mtime for path in self.place.root.glob("rank-*.log")]
        return max(times, default=time.time())

    def ranks(self) -> str:
        return ranks_told(self.watch.seen, self.world_size)


def _counting(name: str) -> list[tuple[int, str]]:
    """n2 before n10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _outcome(run: RunDir, number: int) -> str:
    ended = document(run.attempt(number).outcome)
    reason = str(ended.get("reason") or "could not say how it ended").partition("\n")[0]
    at = f" at step {ended['step']}" if ended.get("step") else ""
    return f"ended as {ended['class']}{at}: {reason}" if ended.get("class") else reason
