"""What a user and an administrator do with a cluster: sbatch, squeue, scontrol and scancel, run on the host."""

import os
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.slurm.machine import CommandFailed, run

ENDED = (
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY"
)  # fmt: skip
# Seconds until a wait is given up. No test is about how fast Slurm is: a machine may be many times slower than ours.
PATIENCE = 120.0
RECORD = re.compile(r"(\S+?)=(.*?)(?=\s+\S+?=|\s*$)", re.S)


class Commands:
    """Slurm's commands for the cluster whose slurm.conf is in `directory`. All raise CommandFailed when it refuses."""

    @property
    def directory(self) -> Path:
        """slurm.conf, log/ (a file a daemon), jobs/ (scripts and outputs). It vanishes with the cluster."""
        raise NotImplementedError

    def environment(self, **changes: str) -> dict[str, str]:
        """The environment in which Slurm's commands mean this cluster, without what another allocation has set."""
        kept = {name: value for name, value in os.environ.items() if not re.match("SLURM|SBATCH|SRUN|SALLOC", name)}
        return {**kept, "SLURM_CONF": str(self.directory / "slurm.conf"), **changes}

    def slurm(self, *argv: object, check: bool = True) -> str:
        """Runs a command such as slurm("squeue", "-h") on the host and returns what it prints."""
        return run(argv, env=self.environment(), check=check).stdout

    # --- jobs ---

    def submit(
        self,
        job: str | Path | Sequence[object],
        *options: object,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
    ) -> str:
        """Submits the text of a batch script (it starts with #!), a file, or the words of a command. Returns the id.

        options: of sbatch. env: added to the environment, which the job inherits. cwd: jobs/ by default.
        Its output goes to jobs/ID.out unless an option says otherwise.
        """
        script = job if isinstance(job, Path) else self._script(job)
        done = run(
            ["sbatch", "--parsable", f"--output={self.directory}/jobs/%j.out", *options, script],
            env=self.environment(**(env or {})),
            cwd=cwd or self.directory / "jobs",
        )
        return done.stdout.strip().split(";")[0]

    def _script(self, job: str | Sequence[object]) -> Path:
        text = job if isinstance(job, str) else f"#!/bin/sh\nexec {shlex.join(map(str, job))}\n"
        assert text.startswith("#!"), f"neither a script, nor a Path, nor words: {text[:80]!r}"
        path = self.directory / "jobs" / f"script-{time.monotonic_ns()}"
        path.write_text(text)
        return path

    def job(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says, such as {"JobState": "RUNNING", "NodeList": "n[0-1]", "ExitCode": "0:0"}."""
        return dict(RECORD.findall(self.slurm("scontrol", "--oneliner", "show", "job", job)))

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, ... of a job that Slurm still knows: MinJobAge seconds after its end."""
        return self.job(job)["JobState"]

    def wait(self, job: str, *states: str, seconds: float = PATIENCE) -> str:
        """Waits until the job is in one of the states, by default any that is an end, and returns it.

        Raises TimeoutError that says what the job does instead, and the ends of the daemons' logs.
        """
        wanted = states or ENDED
        self.wait_until(
            lambda: self.state(job) in wanted,
            f"job {job} {' or '.join(wanted)}",
            seconds,
            lambda: f"{self.job(job)}\noutput: {self.output(job)[-2000:]}",
        )
        return self.state(job)

    def output(self, job: str) -> str:
        """What the batch script and its steps have written so far."""
        path = Path(self.job(job)["StdOut"])
        return path.read_text(errors="replace") if path.exists() else ""

    def cancel(self, *jobs: str) -> None:
        """scancel: SIGCONT and SIGTERM to the steps, SIGKILL after KillWait."""
        self.slurm("scancel", *jobs)

    def requeue(self, job: str) -> None:
        """`scontrol requeue`: the job is stopped and starts again with SLURM_RESTART_COUNT one higher, within 15 s."""
        self.slurm("scontrol", "requeue", job)

    def preempt(self, job: str) -> str:
        """Takes a job's nodes away: one in partition urgent wants them whole. Returns its id; cancel it to give back.

        A job in main then gets SIGCONT, SIGTERM and, where it asked with --signal=B:USR1@60, USR1; it has GraceTime
        seconds, and is queued again.
        """
        urgent = ["--partition=urgent", "--exclusive", f"--nodelist={self.job(job)['NodeList']}"]
        return self.submit(["sleep", "infinity"], *urgent)

    def limit(self, job: str, minutes: int) -> None:
        """Shortens a job's time. Slurm looks every 30 s: --signal comes up to a minute early, the end late."""
        self.slurm("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")

    # --- nodes ---

    def node_state(self, name: str) -> str:
        """Slurm's word with flags: IDLE, MIXED, ALLOCATED, DOWN, IDLE+DRAIN, DOWN+NOT_RESPONDING, ..."""
        return dict(RECORD.findall(self.slurm("scontrol", "--oneliner", "show", "node", name)))["State"]

    def wait_for_nodes(self, state: str, *names: str, seconds: float = PATIENCE) -> None:
        """Waits until each node is in this state: DOWN with whatever flags, any other exactly. Raises TimeoutError."""

        def reached(name: str) -> bool:
            found = self.node_state(name)
            return "DOWN" in found.split("+") if state == "DOWN" else found == state

        what = f"{' '.join(names)} {state}"
        self.wait_until(lambda: all(map(reached, names)), what, seconds, lambda: self.slurm("sinfo", "-N", "-l"))

    def drain(self, name: str, reason: str = "a test") -> None:
        """An administrator takes a node out of service: what runs there may end, nothing new starts."""
        self.slurm("scontrol", "update", f"NodeName={name}", "State=DRAIN", f"Reason={reason}")

    def resume(self, name: str) -> None:
        """Undoes drain."""
        self.slurm("scontrol", "update", f"NodeName={name}", "State=RESUME")

    # --- looking ---

    def logs(self, lines: int = 40) -> str:
        """The end of each daemon's log."""
        parts = []
        for path in sorted((self.directory / "log").iterdir()):
            parts += [f"--- {path.name}", *path.read_text(errors="replace").splitlines()[-lines:]]
        return "\n".join(parts)

    def wait_until(
        self, done: Callable[[], bool], what: str, seconds: float = PATIENCE, found: Callable[[], str] = str
    ) -> None:
        """Waits for a condition. Raises TimeoutError with `what` was expected, `found` and the logs."""
        deadline, unheard = time.monotonic() + seconds, ""
        while True:
            try:
                if done():
                    return
            except CommandFailed as error:  # on a busy machine a question may not be answered in MessageTimeout
                unheard = f"{error}\n"
            if time.monotonic() > deadline:
                raise TimeoutError(f"not {what} after {seconds:g} s: {unheard}{found()}\n{self.logs()}")
            time.sleep(0.1)
