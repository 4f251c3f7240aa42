"""`muster run`: plan, check, train; on this machine, or on the nodes of a Slurm job."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from launch.commands.options import Accept, Overrides, RunDirectory, SpecFile, Verbose
from launch.commands.resolving import as_given, resolve, run_directory
from launch.errors import ExitCode, PreflightError
from launch.terminal import as_error, console, print_json, say, show

if TYPE_CHECKING:
    from rich.console import Console

    from launch.cluster.allocation import Allocation
    from launch.plan import Plan
    from launch.rundir import RunDir


def run(
    spec: SpecFile,
    overrides: Overrides = [],
    run_dir: RunDirectory = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check; print the plan, the rendered files and the command; run nothing."),
    ] = False,
    resume: Annotated[
        str,
        typer.Option(
            metavar="auto|never|PATH", help="Continue from the newest good checkpoint, from none, or from this one."
        ),
    ] = "auto",
    accepted: Accept = [],
    verbose: Verbose = False,
    in_job: Annotated[
        bool, typer.Option("--in-job", hidden=True, help="Train on the nodes of this Slurm job.")
    ] = False,
    killed: Annotated[
        int | None, typer.Option("--killed", hidden=True, help="In place of a supervisor that this signal ended.")
    ] = None,
) -> None:
    """Plan, check and train: on this machine, or on all nodes of the Slurm job around it."""
    from launch.claim import claim, finished, refuse_secrets, until_free
    from launch.plan.screen import plan_view
    from launch.supervise.successor import take_over

    plan, given = resolve(spec, overrides), as_given(spec, overrides)
    place = run_directory(plan, run_dir)
    job = _job(plan, in_job, killed)
    if job is not None and job.killed is not None:
        take_over(place, job.job, job.killed)
    if job is not None and job.again and (resume == "never" or place.complete_checkpoints()):
        resume = "auto"  # it was said of the job's first start
    refuse_secrets(place, plan)
    if job is not None and job.again:
        until_free(place, say)
    claim(place, plan, resume)
    if dry_run:
        _dry_run(plan, given, place, resume, accepted, job)
        return
    screen = console()
    screen.print(plan_view(plan))
    if resume != "never" and finished(place):
        say(f"this run is finished; its adapter is in {place.adapter}. To train it again: --resume never")
    else:
        _check_and_train(plan, given, place, resume, screen, accepted, job, verbose)
    show(str(place.adapter))


def _job(plan: "Plan", in_job: bool, killed: int | None) -> "Allocation | None":
    """The Slurm job around this process, where the run is one for it; None to train on this machine.

    Raises PreflightError where a job is needed, and there is none.
    """
    from launch.cluster.allocation import allocation

    job = allocation() if in_job or plan.topology.nodes > 1 else None
    if job is None and in_job:
        raise PreflightError(
            "launch.supervisor is what a batch job starts, and this is no Slurm job: use muster run, or muster submit"
        )
    if job is None and plan.topology.nodes > 1:
        raise PreflightError(
            f"cluster.nodes is {plan.topology.nodes}, and this is no Slurm job: use muster submit, or sbatch"
            f" slurm/multi_node.sbatch; start accelerate launch with"
            f" accelerate_configs/{plan.strategy}_multi_node.yaml on every node; or use -s cluster.nodes=1"
        )
    return replace(job, killed=killed) if job is not None else None


def _check_and_train(
    plan: "Plan", given: str, place: "RunDir", resume: str, screen: "Console", accepted: list[str],
    job: "Allocation | None", verbose: bool,
) -> None:  # fmt: skip
    """Raises typer.Exit with the attempt's exit code when that is not 0."""
    from launch.claim import take
    from launch.commands.checking import checked, rows_alone
    from launch.preflight import document
    from launch.preflight.screen import checks_view
    from launch.rundir.journal import event, write_json
    from launch.supervise.decisions import Requeue
    from launch.supervise.here import Here
    from launch.supervise.job import InJob
    from launch.supervise.loop import supervise
    from training.data.sequences.tokens import note_checked

    look = checked if job is None else rows_alone
    found = look(plan, given, place, accepted)
    if job is None or found.problem is not None:
        screen.print(checks_view(found.results, found.place))
    if found.problem is not None:
        raise found.problem
    _claimed = take(place, plan, resume)  # kept until this process ends
    if job is not None:  # `muster status` finds a job by it that nobody has submitted through muster
        event(place.events, "job_started", job=job.job, nodes=list(job.nodes), attempts=place.last_attempt())
    write_json(place.preflight, document(found.results, found.place))
    note_checked(found.rows, place.tokens)
    where = Here(place) if job is None else InJob(place, job, accepted, screen)
    end = supervise(plan, place, where, resume, screen, verbose)
    if isinstance(end, Requeue) and isinstance(where, InJob):
        where.requeue(end)
    if end.code != ExitCode.DONE:
        attempt = place.attempt(place.last_attempt()).root
        say(end.reason if end.code == ExitCode.STOPPED else as_error(end.reason), f"logs: {attempt}")
        raise typer.Exit(end.code)
    say(f"done: run directory {place.root}")


def _dry_run(
    plan: "Plan", given: str, place: "RunDir", resume: str, accepted: list[str], job: "Allocation | None"
) -> None:
    """Raises, after the document, what would stop the run."""
    from launch.commands.checking import checked, of_job
    from launch.render import node_argv, rendered

    files = rendered(plan, place.deepspeed)
    meeting, attempt = (job.nodes[0] if job else None, 0), place.last_attempt() + 1
    argv = node_argv(plan, place.root, place.accelerate, attempt, meeting, resume, 0)
    print_json({"plan": plan.model_dump(mode="json"), "rendered": files, "argv": argv, "run_dir": str(place.root)})
    found = of_job(job, plan, given, place, accepted) if job else None
    problem = (found or checked(plan, given, place, accepted)).problem
    if problem is not None:
        raise problem
