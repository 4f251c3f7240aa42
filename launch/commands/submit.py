"""`muster submit`: plan, static preflight, sbatch."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.commands.options import Accept, AsJson, Overrides, RunDirectory, SpecFile
from launch.commands.resolving import no_plan_as_json, run_directory
from launch.errors import PreflightError, SpecError, UsageError
from launch.terminal import console, print_json, say, show

if TYPE_CHECKING:
    from launch.cluster.controller import Cluster
    from launch.commands.checking import Checked
    from launch.plan import Plan
    from launch.submit.job import Request


def submit(
    spec: SpecFile,
    overrides: Overrides = [],
    run_dir: RunDirectory = None,
    gpus: Annotated[
        str | None,
        typer.Option(
            metavar="8xA100-80GB", help="Plan for these GPUs, not for the partition's own.", show_default=False
        ),
    ] = None,
    array: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=V1,V2,...",
            help="A sweep: one run for each value, as a job array; given again, for each combination.",
            show_default=False,
        ),
    ] = [],
    after: Annotated[
        str | None,
        typer.Option(
            metavar="JOB",
            help="Start when this job, or this run's or sweep's, has ended with exit code 0.",
            show_default=False,
        ),
    ] = None,
    afresh: Annotated[
        bool, typer.Option("--afresh", help="Move an earlier run of that directory aside, as run --resume never does.")
    ] = False,
    resume: Annotated[
        str,
        typer.Option(
            metavar="auto|PATH",
            help="Go on from the newest good checkpoint, or from this one; --afresh for none.",
        ),
    ] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Plan and check; print the script and the command; send nothing.")
    ] = False,
    accepted: Accept = [],
    as_json: AsJson = False,
) -> None:
    """Plan and check a run here, and send it to Slurm."""
    from launch.claim import finished
    from launch.cluster.commands import set_aside
    from launch.cluster.controller import Cluster, ask
    from launch.commands.checking import of_batch
    from launch.plan.screen import plan_view
    from launch.preflight.screen import checks_view
    from launch.spec.file import draft
    from launch.submit.after import dependency
    from launch.submit.job import elements, refuse_queued, request

    if ignored := set_aside(os.environ):
        say(f"warning: {', '.join(ignored)}: not used; the spec's slurm section says what is asked for")
    start = _start(resume, afresh, bool(array))
    changes = elements(array) if array else None
    read = draft(spec, overrides).spec
    cluster = ask(read.slurm) if read else Cluster()  # of a spec that cannot be read all mistakes follow
    with no_plan_as_json(as_json):
        plans = [_element(spec, overrides, change, gpus, cluster) for change in changes or [[]]]
    folder = _folder(plans[0], run_dir, sweep=changes is not None)
    found = request(plans, folder, changes, cluster, accepted, dependency(after) if after is not None else [], start)
    if not as_json:
        console().print(plan_view(found.plan))
    done = not afresh and all(finished(run) for _, run in found.runs)
    if not done:
        refuse_queued(found)
    _claim(found, start)
    if done:
        _tell_finished(found, as_json)
        return
    checks = of_batch(found, spec, overrides, accepted)
    if not as_json:
        console().print(checks_view(checks.results, checks.place))
    if dry_run or (as_json and checks.problem is not None):
        _show_request(found, checks, as_json)
    if checks.problem is not None:
        raise checks.problem
    if not dry_run:
        _send(found, checks, start, as_json)


def _start(resume: str, afresh: bool, sweep: bool) -> str:
    """What the job goes on from: auto, never, or the whole path of a checkpoint."""
    if resume == "never":
        raise UsageError("--resume never: it is --afresh that moves an earlier run aside, once, before the job waits")
    if resume == "auto":
        return "never" if afresh else "auto"
    if afresh or sweep:
        raise UsageError(f"--resume {resume} and {'--afresh' if afresh else '--array'}: give one of them")
    return str(Path(resume).resolve())


def _element(spec: Path, overrides: list[str], change: list[str], gpus: str | None, cluster: "Cluster") -> "Plan":
    """What is wrong with a value of --array is told as one of that."""
    try:
        return _planned(spec, [*overrides, *change], gpus, cluster)
    except SpecError as error:
        options = {f"-s {value}": f"--array {value}" for value in change}
        raise SpecError(
            [replace(each, origin=options.get(each.origin, each.origin)) for each in error.mistakes]
        ) from None


def _planned(spec: Path, overrides: list[str], gpus: str | None, cluster: "Cluster") -> "Plan":
    from launch.plan.from_spec import planned
    from launch.spec.file import draft
    from launch.spec.slurm import SlurmSpec
    from launch.submit.job import partition_devices

    told: list[str] = []
    read = draft(spec, overrides).spec
    slurm = read.slurm if read else SlurmSpec()
    plan = planned(spec, overrides, partition_devices(cluster, slurm, gpus, told.append))
    for warning in dict.fromkeys([*told, *plan.warnings]):
        say(f"warning: {warning}")
    return plan


def _folder(plan: "Plan", run_dir: Path | None, sweep: bool) -> Path:
    place = run_directory(plan, run_dir)
    if sweep and place.plan.exists():
        raise UsageError(f"{place.root}: is one run's directory; choose another for a sweep with --run-dir")
    return place.root


def _tell_finished(found: "Request", as_json: bool) -> None:
    say(f"finished already; the adapter is in {found.runs[0][1].adapter}. To train again: --afresh")
    if as_json:
        print_json(_document(found, None, None))


def _claim(found: "Request", resume: str) -> None:
    from launch.claim import claim, refuse_secrets

    for plan, run in found.runs:
        refuse_secrets(run, plan)
        claim(run, plan, resume)


def _show_request(found: "Request", checks: "Checked", as_json: bool) -> None:
    if as_json:
        print_json(_document(found, checks, None))
        return
    import shlex

    show(found.batch.script, end="")
    say(f"not sent (--dry-run): {shlex.join(found.argv)}")


def _document(found: "Request", checks: "Checked | None", job: str | None) -> dict[str, object]:
    """What --json prints. Without a job nothing was sent: by --dry-run, for a check that failed, for what sbatch said,
    or for a run that has finished, of which nothing was checked."""
    from launch.preflight import document

    runs = [{"run_dir": str(run.root), "plan": plan.model_dump(mode="json")} for plan, run in found.runs]
    sweep = found.changes is not None
    for row, change in zip(runs, found.changes or [], strict=False):
        row["changes"] = change  # type: ignore[assignment]
    return {
        "job": job, "argv": found.argv, "script": found.batch.script, "script_file": str(found.file),
        "run_dir": str(found.folder), "preflight": checks and document(checks.results, checks.place),
        **({"sweep": runs} if sweep else {"plan": runs[0]["plan"]}),
    }  # fmt: skip


def _send(found: "Request", checks: "Checked", resume: str, as_json: bool) -> None:
    from launch.cluster.commands import SlurmError
    from launch.cluster.job import UnsureError
    from launch.submit.job import send, taken_back
    from launch.wording import plural

    try:
        job = send(found, checks.results, checks.place, resume)
    except UnsureError as error:
        raise PreflightError(f"whether a job was submitted is not known: {error}") from None
    except SlurmError as error:
        if as_json:
            print_json(_document(found, checks, None))
        raise PreflightError(f"nothing was submitted: {error}") from None
    if found.batch.job.slurm.requeue and taken_back(job):
        say("warning: the site took back --requeue: at the time limit the run ends with 75; submit it again to go on")
    if as_json:
        print_json(_document(found, checks, job))
        return
    what = "submitted" if found.changes is None else f"{plural(len(found.runs), 'run')} submitted"
    say(f"{what} as job {job}; see: muster status {found.folder}")
    show(job)
