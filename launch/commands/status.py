"""`muster status`, `logs` and `stop`: a run while it waits, trains, and afterwards."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.commands.options import AsJson, RunName
from launch.errors import UsageError
from launch.terminal import console, print_json, say, show

if TYPE_CHECKING:
    from launch.rundir import RunDir

LOOK_SECONDS = 0.5


def status(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="A run directory, or a name in runs/.  [default: all]", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what runs are doing: in the queue, at which step, or how they ended."""
    from launch.status.following import Asker, named, runs_in
    from launch.status.following import status as status_of
    from launch.status.view import status_list, status_view

    if run is None and not Path("runs").is_dir():
        raise UsageError("runs: no such folder; name a run directory, or go where runs/ is")
    places = runs_in(Path("runs").resolve()) if run is None else named(run)
    ask = Asker()
    found = [status_of(place, ask) for place in places]
    single = run is not None and len(found) == 1
    if as_json:
        print_json(found[0].model_dump() if single else [each.model_dump() for each in found])
        return
    if ask.warning is not None:
        say(f"warning: {ask.warning}")
    console(stderr=False).print(status_view(found[0]) if single else status_list(found))


def logs(
    run: RunName,
    rank: Annotated[
        str, typer.Option(metavar="R", help="Of this rank; `launcher` and `job` are what those printed.")
    ] = "0",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is written until the run ends.")
    ] = False,
) -> None:
    """Print what a worker of the last attempt has printed."""
    from launch.status.following import one

    place = one(run)
    path = _log(place, rank)
    if path is None and not follow:
        raise UsageError(f"{place.root}: {_no_log(place, rank)}")
    if follow:
        _follow(place, rank)
    elif path is not None:
        show(path.read_text(encoding="utf-8", errors="replace"), end="")


def _log(run: "RunDir", rank: str) -> Path | None:
    """The file; None where there is none yet."""
    if rank == "job":
        found = sorted(run.root.glob("job-*.log"), key=lambda path: path.stat().st_mtime)
        return found[-1] if found else _elsewhere(run)
    attempt = run.attempt(run.last_attempt())
    if rank == "launcher":
        found = sorted(attempt.root.glob("launcher*.log"))
        path = attempt.launcher_log if attempt.launcher_log in found or not found else found[0]
    elif rank.isdecimal():
        path = attempt.log(int(rank))
    else:
        raise UsageError(f"--rank {rank}: allowed: a number, launcher, job")
    return path if path.is_file() else None


def _elsewhere(run: "RunDir") -> Path | None:
    """What a job prints that was sent by hand, or with slurm.output: Slurm knows where."""
    from launch.cluster.queue import output_of
    from launch.rundir.journal import rows
    from launch.status.following import job_of

    job = job_of(run, list(rows(run.events)))
    path = output_of(job) if job is not None else None
    return path if path is not None and path.is_file() else None


def _no_log(run: "RunDir", rank: str) -> str:
    if rank == "job":
        from launch.rundir.journal import rows
        from launch.status.following import job_of

        job = job_of(run, list(rows(run.events)))
        if job is None:
            return "no batch job has written here"
        return f"no log of job {job} is here, and Slurm knows of none: it waits (muster status), or printed elsewhere"
    if run.last_attempt() == 0:
        return "no attempt has begun; what its job printed: --rank job"
    ranks = sorted(int(path.stem[5:]) for path in run.attempt(run.last_attempt()).root.glob("rank-*.log"))
    there = ", ".join(map(str, ranks)) or "none yet"
    return f"rank {rank} of attempt {run.last_attempt()} has no log; those that have: {there}"


def _follow(run: "RunDir", rank: str) -> None:
    """Prints as it is written, also of later attempts, until nothing of the run waits or runs."""
    from launch.status.following import OVER, Asker
    from launch.status.following import status as status_of

    shown: dict[Path, int] = {}
    looked = 0.0
    while True:
        ended = False
        if time.monotonic() - looked > 10 * LOOK_SECONDS:
            state = status_of(run, Asker()).state
            ended, looked = state in OVER, time.monotonic()
        path = _log(run, rank)
        if path is not None:
            shown[path] = _print_from(path, shown.get(path, 0))
        if ended and not shown:
            raise UsageError(f"{run.root}: nothing of it waits or runs, and {_no_log(run, rank)}")
        if ended:
            return
        time.sleep(LOOK_SECONDS)


def _print_from(path: Path, offset: int) -> int:
    with open(path, "rb") as file:
        file.seek(offset)
        block = file.read()
    sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()
    return offset + len(block)


def stop(
    run: RunName,
    now: Annotated[bool, typer.Option("--now", help="End it at once; what was not saved is lost.")] = False,
) -> None:
    """Stop a run: it saves a checkpoint at the next step and can go on later."""
    from launch.status.following import named
    from launch.status.stopping import stop as stop_run

    places = named(run)
    refused: list[UsageError] = []
    for place in places:
        try:
            told = stop_run(place, now)
        except UsageError as error:
            refused.append(error)
            continue
        say(f"{place.root}: {told}")
    if len(refused) == len(places):
        raise UsageError("\n".join(map(str, refused)))
