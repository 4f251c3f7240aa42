"""Attempts on the nodes of a Slurm job."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence

from rich.console import Console

from launch.cluster.allocation import Allocation
from launch.cluster.commands import SlurmError, slurm
from launch.cluster.container import NODE, Inside, inside
from launch.errors import GO_ON, NoPlanError, PreflightError, Stopped, UsageError
from launch.machine.workers import environment
from launch.plan import Plan
from launch.preflight import CHECKS, Context, accept, document
from launch.preflight.screen import checks_view
from launch.processes import log_writer
from launch.rundir import Attempt, RunDir
from launch.rundir.journal import event, rows, write_json
from launch.supervise.decisions import Past, Requeue, lost_touch, on_fewer_nodes
from launch.supervise.gang import CANNOT, Gathered, chosen, gather, together, told, unfit
from launch.supervise.loop import replanned
from launch.supervise.pairs import Rates, culprits, measured
from launch.supervise.requeue import preempted, requeue
from launch.supervise.srun import start_step, step_argv
from launch.wording import plural

# How long nodes have to end what they run, once they are told to; one that is cut off never will.
END_SECONDS = 10.0
# srun's words when slurmctld does not answer (Slurm, slurm_errno.c). One that is restarted is back within minutes.
CONTROLLER_AWAY = "Unable to contact slurm controller"
CONTROLLER_SECONDS, AGAIN_SECONDS = 300.0, 5.0


class InJob:
    """The nodes that Slurm gave, cluster.nodes of which train while the others stand by."""

    in_job = True

    def __init__(self, run: RunDir, allocation: Allocation, accepted: Sequence[str], console: Console):
        self.run, self.allocation, self.accepted, self.console = run, allocation, accepted, console
        self.before = len(list(rows(run.events)))
        self.again, self.successor = allocation.again, allocation.killed is not None
        self.nodes: list[str] = []
        self.port = 0
        self.started = False
        self.excluded: dict[str, str] = {}

    def prepared(self, plan: Plan, past: Sequence[Past]) -> Plan | Requeue:
        """Asks all nodes, and takes the best of them; on fewer than planned only once the run has begun."""
        limits = plan.spec.preflight
        gathered = self._gathered(plan)
        # The signal goes to steps alone. Those that ask may have answered by then, or have ended by it on fit nodes.
        if self.preempted():
            return Requeue(f"preempted before training began{GO_ON}")
        out = unfit(gathered, limits, self.accepted)
        out |= self._traced(plan, past, [node for node in gathered.probes if node not in out])
        self._name(out)
        wanted = plan.topology.nodes
        blamed = [node for one in past for node in one.ended.nodes]
        self.nodes = chosen(gathered, out, wanted, blamed)
        if len(self.nodes) < wanted:
            fewer = self._on_fewer(plan, out)
            if isinstance(fewer, Requeue):
                return fewer
            plan = fewer
        self._show(plan, gathered)
        self.port = gathered.probes[self.nodes[0]].port
        self.started = True
        return plan

    def _gathered(self, plan: Plan) -> Gathered:
        """What the nodes say. Where none answers at all it is the controller that is away, not every node."""
        deadline = time.monotonic() + CONTROLLER_SECONDS
        while True:
            found = gather(self.allocation, plan, self.run, os.environ)
            reasons = found.silent.values()
            lost = not found.probes and not all(why.startswith(CANNOT) for why in reasons)
            away = lost or any(CONTROLLER_AWAY in why for why in reasons)
            if not away or self.run.stop.exists() or time.monotonic() > deadline:
                self._end_left()
                return found
            self._refuse_given_back()
            self._say(f"no node answers ({told(found.silent)}): asked again in {AGAIN_SECONDS:g} s")
            time.sleep(AGAIN_SECONDS)

    def _end_left(self) -> None:
        """What an attempt has left behind that could not be ended."""
        last = self.run.attempt(self.run.last_attempt())
        with contextlib.suppress(OSError):
            if last.root.is_dir():
                last.over.touch()

    def _refuse_given_back(self) -> None:
        """Raises Stopped where another node has given this job back: its next start goes on with the run."""
        for row in list(rows(self.run.events))[self.before :]:
            if row["event"] == "requeued" and row.get("job") == self.allocation.job:
                raise Stopped(f"another node of this job has put it back into the queue: {row.get('reason')}")

    def _traced(self, plan: Plan, past: Sequence[Past], fit: Sequence[str]) -> dict[str, str]:
        """After ranks could not exchange: the node that pairs of nodes, one after another, show to be the reason."""
        last = past[-1].ended if past and self.started else None
        if last is None or last.nodes or not lost_touch(last) or len(fit) < len(self.nodes):
            return {}  # nothing of the kind, or a rank or a node is known to have been the reason
        self._say(f"looking for the node that is the reason: {plural(len(fit), 'node')} exchange in pairs")
        rates = self._paired(plan, fit)
        event(self.run.events, "paired", rates={"-".join(pair): rate for pair, rate in rates.items()})
        return culprits(rates)

    def _paired(self, plan: Plan, nodes: Sequence[str]) -> Rates:
        limits, place = plan.spec.preflight, inside(plan, self.run)
        return measured(self.allocation, place, nodes, plan.topology.device, limits.allreduce_seconds)

    def _show(self, plan: Plan, gathered: Gathered) -> None:
        """What was found on the nodes that train: into preflight.json, and once onto the screen."""
        limits = plan.spec.preflight
        found = together({node: gathered.probes[node] for node in self.nodes}, limits)
        results = accept(found, [*limits.accept, *self.accepted], [check.name for check in CHECKS])
        place = Context(plan=plan, run=self.run).place
        write_json(self.run.preflight, document(results, place))
        if not self.started:
            self.console.print(checks_view(results, place))

    def _on_fewer(self, plan: Plan, out: dict[str, str]) -> Plan | Requeue:
        wanted, fit = plan.topology.nodes, len(self.nodes)
        why = told(out) or f"the job has {plural(len(self.allocation.nodes), 'node')}"
        if not (self.started or (fit and self._begun_before())):
            fix = "; leave them out with slurm.exclude, or ask for more nodes with slurm.spares" if fit and out else ""
            raise PreflightError(f"{plural(wanted, 'node')} needed, {fit} fit: {why}{fix}")
        spec = on_fewer_nodes(plan, fit)
        try:
            fewer = None if spec is None else replanned(plan, spec)
        except (NoPlanError, UsageError) as error:
            fewer, why = None, f"{why}; {error}"
        if spec is None or fewer is None:
            reason = f"{plural(fit, 'node')} of {wanted} are left and cannot go on with the same global batch: {why}"
            return Requeue(reason, tuple(out) if fit else ())
        self.nodes = self.nodes[: spec.cluster.nodes]
        self._say(f"going on with {plural(spec.cluster.nodes, 'node')} of {wanted}")
        return fewer

    def _begun_before(self) -> bool:
        """Whether an earlier start of this job came as far as an attempt: spec and environment are good, and what is
        wrong now is wrong with a node. Nobody sits beside a job that Slurm has put back into its queue."""
        return self.again and self.run.last_attempt() > 0

    def _name(self, out: dict[str, str]) -> None:
        for node, why in out.items():
            if self.excluded.get(node) != why:
                event(self.run.events, "node_excluded", node=node, reason=why)
                self._say(f"left out: node {node}: {why}")
        self.excluded = dict(out)

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def start(self, plan: Plan, attempt: Attempt, resume: str) -> "StepWorkers":
        arguments = (self.run.root, attempt.number, resume, self.nodes[0], self.port)
        name, place = f"muster-{attempt.number}", inside(plan, self.run, resume)
        argv = step_argv(self.allocation, place, self.nodes, name, "launch.supervise.node", *arguments)
        # Inside of a container nobody could give the job back.
        sentry = None if place == NODE else self._sentry(attempt)
        return StepWorkers(argv, place, attempt, name, self.allocation, sentry)

    def _sentry(self, attempt: Attempt) -> "subprocess.Popen[bytes]":
        what = ("muster-sentry", "launch.supervise.sentry", self.run.root, attempt.number)
        argv = step_argv(self.allocation, NODE, self.nodes, *what)
        return start_step(argv, NODE, subprocess.DEVNULL, subprocess.DEVNULL, os.environ)

    def preempted(self) -> bool:
        return preempted(self.allocation.job)

    def requeue(self, wish: Requeue) -> None:
        """Raises Stopped when Slurm will not start the job again."""
        requeue(self.run, self.allocation.job, wish)


class StepWorkers:
    """The workers of all nodes: one step of the job."""

    def __init__(
        self, argv: list[str], place: Inside, attempt: Attempt, name: str, job: Allocation,
        sentry: "subprocess.Popen[bytes] | None",
    ):  # fmt: skip
        """`sentry` stands outside of the containers, and ends when the attempt does."""
        self.attempt, self.name, self.job, self.sentry = attempt, name, job, sentry
        self.writer = log_writer(attempt.launcher_log, environment(os.environ))
        self.srun = start_step(argv, place, self.writer.stdin, self.writer.stdin, os.environ)
        assert self.writer.stdin is not None
        self.writer.stdin.close()

    def poll(self) -> int | None:
        return self.srun.poll()

    def kill(self) -> None:
        """Tells every node, and does not wait long for one that cannot hear it."""
        with contextlib.suppress(OSError):  # a full disk: then srun alone ends them
            self.attempt.over.touch()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.srun.wait(END_SECONDS)
        if self.srun.poll() is None:
            with contextlib.suppress(SlurmError):
                self._cancel()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.srun.pid, signal.SIGKILL)

    def cut_off(self) -> bool:
        """Storage may still be in reach when Slurm is not, and then all other nodes go by what is written there."""
        try:
            slurm("squeue", "--noheader", f"--jobs={self.job.number}")
        except SlurmError as error:
            return error.silence in ("controller", "overdue")
        return False

    def preempted(self) -> bool:
        return preempted(self.job.job)

    def leave(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.srun.pid, signal.SIGKILL)
        self.srun.wait()

    def _cancel(self) -> None:
        """By the step's number, which Slurm alone knows."""
        steps = slurm("squeue", "--steps", "--noheader", f"--jobs={self.job.number}", "--format=%i %j")
        for number, name in (line.split(maxsplit=1) for line in steps.splitlines() if " " in line):
            if name == self.name:
                slurm("scancel", "--signal=KILL", number)

    def close(self) -> None:
        self.srun.wait()
        if self.sentry is not None:
            self.sentry.kill()  # its tasks see that the attempt is over; srun itself waits for a lost node's
            self.sentry.wait()
        deadline = time.monotonic() + END_SECONDS
        while self.writer.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        self.writer.kill()  # a step on a node that is cut off keeps the pipe open
        self.writer.wait()
