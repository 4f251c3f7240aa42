"""What a run is doing: from its directory, and from Slurm where a job of it is known there."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from launch.claim import trained_by
from launch.cluster.commands import SlurmError
from launch.cluster.job import recorded, unrecorded
from launch.cluster.queue import State, remembered, state_of
from launch.errors import ExitCode, UsageError
from launch.rundir import RunDir
from launch.rundir.journal import document, drawable, opened, parse_rows, rows
from launch.wording import plural

# A row of the ledger names the samples of one step: a few hundred bytes each, a hundred rows at the most.
TAIL_BYTES = 1 << 16
# Steps over which the time of one is averaged.
RECENT = 20

Word = Literal["prepared", "waiting", "starting", "running", "stopping", "finished", "stopped", "failed", "interrupted"]

# Nothing of such a run waits or runs.
OVER: tuple[Word, ...] = ("prepared", "finished", "stopped", "failed", "interrupted")


class Checkpoint(BaseModel):
    step: int
    time: float


class Status(BaseModel):
    """One run now. What is not known is None."""

    model_config = ConfigDict(extra="forbid")

    run: str
    name: str
    state: Word
    why: str = ""
    """Of a state that needs a reason: what it waits for, what failed."""
    attempt: int = 0
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    eta_seconds: float | None = None
    """Until the last step, as fast as the last ones were."""
    checkpoint: Checkpoint | None = None
    holder: str | None = None
    """The process that trains here."""
    job: str | None = None
    slurm: dict[str, Any] | None = None
    """What Slurm says of the job; None where it is forgotten, or was never one."""
    slurm_silence: str | None = None
    """Why Slurm could not be asked."""
    time_left_seconds: float | None = None
    """Until the job's time limit."""


def runs_in(place: Path) -> list[RunDir]:
    """The run that a folder is, or those inside it: the elements of a sweep, or runs/ and the sweeps in it. Newest
    last."""
    if RunDir(place).plan.exists():
        return [RunDir(place)]
    if RunDir(place).sweep.exists():
        found = [path for path in place.iterdir() if path.name.isdecimal() and RunDir(path).plan.exists()]
        return [RunDir(path) for path in sorted(found, key=lambda path: int(path.name))]
    folders = [path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")]
    ours = [path for path in folders if RunDir(path).plan.exists() or RunDir(path).sweep.exists()]
    return [run for path in sorted(ours, key=lambda path: path.stat().st_mtime) for run in runs_in(path)]


def named(name: str) -> list[RunDir]:
    """A run by its directory, or by its name in runs/; of a sweep all. Raises UsageError where there is none."""
    for place in (Path(name), Path("runs", name)):
        if place.is_dir() and (found := runs_in(place.resolve())):
            return found
    raise UsageError(f"{name}: no run directory (one holds plan.json){names_there()}")


def names_there() -> str:
    """The end of a message about a run that is none; empty where nothing is in runs/."""
    there = [run.root.name for run in runs_in(Path("runs").resolve())] if Path("runs").is_dir() else []
    return f"; in runs/: {', '.join(there)}" if there else ""


def one(name: str) -> RunDir:
    """As `named`, of a run alone."""
    found = named(name)
    if len(found) > 1:
        raise UsageError(f"{name}: holds {plural(len(found), 'run')}; name one, such as {found[0].root}")
    return found[0]


class Asker:
    """Asks Slurm for jobs, until it has once not answered: many runs must not wait for one dead controller, nor for one
    dead slurmdbd."""

    def __init__(self) -> None:
        self.silence: SlurmError | None = None
        self.accounting: SlurmError | None = None
        """Why slurmdbd does not answer; the controller still does."""

    @property
    def warning(self) -> str | None:
        """What could not be asked, and what follows for what is told."""
        if self.silence is not None:
            return f"{self.silence}; told from the run directories alone"
        if self.accounting is not None:
            return f"{self.accounting}; runs whose jobs it has forgotten are told from their directories alone"
        return None

    def unrecorded(self, run: RunDir) -> str | None:
        """The run's job that `muster submit` was killed before it could record."""
        try:
            return unrecorded(run, run.job_script) if self.silence is None else None
        except SlurmError as error:
            self.silence = error
            return None

    def __call__(self, job: str) -> State | None:
        if self.silence is not None:
            return None
        try:
            return state_of(job) if self.accounting is None else next(iter(remembered(job)), None)
        except SlurmError as error:
            if error.silence == "accounting":
                self.accounting = error
            else:
                self.silence = error
            return None


def status(
    run: RunDir,
    ask: Asker,
    events: Sequence[dict[str, Any]] | None = None,
    held: Callable[[RunDir], str | None] = trained_by,
) -> Status:
    """What the run is doing now. `events`: its rows where they are known already; `held` says who trains."""
    known = events
    events = list(rows(run.events)) if known is None else known
    job = ask.unrecorded(run) or job_of(run, events)
    slurm = ask(job) if job is not None else None
    if known is None and slurm is not None and slurm.state == "COMPLETING":  # of which it may have told meanwhile
        events = list(rows(run.events))
    holder, attempt = held(run), run.last_attempt()
    word, why = _state(run, slurm, holder, attempt)
    if word not in ("running", "waiting", "finished") and slurm and slurm.state == "COMPLETING" and _given_back(events):
        word, why = "waiting", "put back into the queue, and its nodes are being freed"
    step, steps, loss, pace = _progress(run, events)
    running = word in ("running", "stopping") and steps is not None and step is not None and pace is not None
    silence = ask.silence or (ask.accounting if slurm is None else None)
    limit = slurm.end - time.time() if slurm and slurm.state == "RUNNING" and slurm.end else None
    return Status(
        run=str(run.root), name=_name(run), state=word, why=why, attempt=attempt, step=step, steps=steps, loss=loss,
        eta_seconds=round(max(steps - step, 0) * pace, 1) if running and steps and step and pace else None,
        checkpoint=_newest(run.complete_checkpoints()), holder=holder, job=job,
        slurm=slurm._asdict() if slurm else None, slurm_silence=str(silence) if job and silence else None,
        time_left_seconds=round(max(limit, 0)) if limit is not None else None,
    )  # fmt: skip


def job_of(run: RunDir, events: Sequence[dict[str, Any]]) -> str | None:
    """The last job: as submit recorded it, or as a job that was started by hand has written into the events."""
    told = [str(event["job"]) for event in events if event.get("job")]
    job = recorded(run)
    return told[-1] if told else job.id if job else None


def _given_back(events: Sequence[dict[str, Any]]) -> bool:
    """Whether the last word of a job is that it is queued again: what Slurm ends of it then is no end of the run."""
    told = [event["event"] for event in events if event.get("job")]
    return told[-1:] in (["giving_back"], ["requeued"])


def _name(run: RunDir) -> str:
    return str(document(run.plan).get("name") or run.root.name)


def _state(run: RunDir, slurm: State | None, holder: str | None, attempt: int) -> tuple[Word, str]:
    if run.adapter.is_dir():
        return "finished", ""
    if slurm is not None and slurm.active and slurm.state != "COMPLETING":
        if slurm.state in ("RUNNING", "SUSPENDED", "SIGNALING"):
            return _running(run, slurm)
        return "waiting", slurm.reason
    if holder is not None:
        return _running(run, None)
    outcome = _outcome(run, attempt)
    if slurm is not None and slurm.state not in ("COMPLETED", "COMPLETING") and _says_more(slurm, outcome):
        return _ended_job(slurm)
    if outcome is not None:
        code, reason, _ = outcome
        return ("stopped", "resumable") if code == ExitCode.STOPPED else ("failed", reason)
    if attempt:
        return "interrupted", "no process of it is left, and it could not say why: muster diagnose"
    return "prepared", ""


def _says_more(slurm: State, outcome: tuple[int, str, float] | None) -> bool:
    """Whether the job's end says more than its last attempt's outcome does."""
    if outcome is None:
        return True
    code, _, ended = outcome
    if slurm.start is not None and slurm.start > ended:  # it did not come as far as an attempt of its own
        return True
    # Somebody ended it, rank by rank: that one rank missed another is not why.
    return slurm.state.startswith("CANCELLED") and code not in (ExitCode.DONE, ExitCode.STOPPED)


def _running(run: RunDir, slurm: State | None) -> tuple[Word, str]:
    if slurm is not None and not _begun_since(run, slurm.start):
        return "starting", f"on {slurm.nodes}" if slurm.nodes else ""
    return ("stopping", "a stop was asked for") if run.stop.exists() else ("running", _phase(run))


def _begun_since(run: RunDir, start: float | None) -> bool:
    """Whether the last attempt is one of a job that began then: a requeued job has attempts from before."""
    try:
        return run.attempt(run.last_attempt()).plan.stat().st_mtime >= (start or 0)
    except OSError:
        return False


def _phase(run: RunDir) -> str:
    """What rank 0 does where that is not training; empty where it has not said."""
    phase = str(document(run.attempt(run.last_attempt()).pulse(0)).get("phase", ""))
    return "" if phase in ("training", "ended") else phase


def _ended_job(slurm: State) -> tuple[Word, str]:
    if slurm.state.startswith("CANCELLED"):
        return "stopped", "its job was cancelled; resumable"
    code = f", exit code {slurm.exit_code}" if slurm.exit_code else ""
    return "failed", f"its job ended as {slurm.state}{code}; see muster logs --rank job"


def _outcome(run: RunDir, attempt: int) -> tuple[int, str, float] | None:
    """Exit code and reason of the last attempt, and when it ended; None while it has none."""
    path = run.attempt(attempt).outcome
    try:
        found = document(path)
        return int(found["exit_code"]), str(found["reason"]), path.stat().st_mtime
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _progress(
    run: RunDir, events: Sequence[dict[str, Any]]
) -> tuple[int | None, int | None, float | None, float | None]:
    """(step, of how many, loss, seconds a step)."""
    steps = next(
        (row["steps"] for row in reversed(events) if row.get("event") == "started" and row.get("steps") is not None),
        None,
    )
    trained = [row["step"] for row in last_rows(run.samples) if row.get("step") is not None]
    logged = [row for row in last_rows(run.metrics) if drawable(row.get("loss"))]
    paces = [float(row["step_seconds"]) for row in logged[-RECENT:] if drawable(row.get("step_seconds"))]
    pace = sum(paces) / len(paces) if paces else None
    return max(trained[-1:], default=None), steps, logged[-1]["loss"] if logged else None, pace


def last_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The complete rows at the end of a .jsonl file."""
    try:
        with open(path, "rb", opener=opened) as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            block = file.read()
    except FileNotFoundError:
        return
    yield from parse_rows(block.decode(errors="replace"))


def _newest(checkpoints: Sequence[Path]) -> Checkpoint | None:
    for path in checkpoints:
        with suppress(FileNotFoundError):  # set aside, or out of date, since they were listed
            return Checkpoint(step=int(path.name.removeprefix("step-")), time=path.stat().st_mtime)
    return None
