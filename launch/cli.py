"""The commands. They alone print and exit; everything slow is imported inside a command."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.data_cli import app as data_app
from launch.diagnose_cli import diagnose
from launch.errors import DataError, ExitCode, MusterError, NoPlanError, PreflightError, UsageError
from launch.evaluate_cli import evaluate
from launch.export_cli import export
from launch.model_cli import app as model_app
from launch.options import Accept, AsJson, Overrides, RunDirectory, SpecFile, Verbose
from launch.plan_cli import plan_for, read_given, show_contradictions, show_rendered
from launch.preflight_cli import list_checks, show_checks, try_checks
from launch.report_cli import report
from launch.status_cli import logs, status, stop
from launch.submit_cli import submit
from launch.terminal import as_error, flush, print_json, say, show
from launch.watch_cli import watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from launch.allocation import Allocation
    from launch.hardware import Topology
    from launch.plan import Plan
    from launch.rundir import RunDir
    from launch.spec import ClusterSpec, RunSpec

app = typer.Typer(
    name="muster",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Plan, check, launch and recover LoRA fine-tuning of Qwen models.",
)

app.add_typer(data_app, name="data")
app.add_typer(model_app, name="model")


@app.command()
def plan(
    spec: SpecFile,
    overrides: Overrides = [],
    gpus: Annotated[
        str | None,
        typer.Option(
            metavar="8xA100-80GB",
            help="Plan for these GPUs on each node instead of this machine's.",
            show_default=False,
        ),
    ] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Plan for so many nodes.", show_default=False)] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="8xA100-80GB,...", help="Set several kinds of GPUs side by side instead.", show_default=False
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.svg", help="Draw memory against sequence length for each strategy.", show_default=False
        ),
    ] = None,
    render: Annotated[
        str | None,
        typer.Option(
            metavar="torchrun|kubernetes|skypilot", help="Print the plan as this launcher takes it.", show_default=False
        ),
    ] = None,
    own: Annotated[
        list[Path],
        typer.Option(
            "--check",
            metavar="FILE...",
            help="Compare your own accelerate YAML and DeepSpeed JSON with the spec instead.",
            show_default=False,
        ),
    ] = [],
    more: Annotated[list[Path], typer.Argument(metavar="[FILE]...", help="More files of --check.", hidden=True)] = [],
    as_json: AsJson = False,
) -> None:
    """Show how a spec would run: strategy, batch, memory, throughput, and why."""
    from launch.allocation import allocated_nodes
    from launch.compare import compared
    from launch.screen import candidates_view, comparison_view, console, plan_view
    from launch.specfile import draft, missing_data

    if compare is not None:
        if gpus is not None:
            raise UsageError("--gpus and --compare: only one says what to plan for; give all kinds with --compare")
        if plot is not None:
            raise UsageError("--plot and --compare: a picture is of one kind of GPUs; give it with --gpus")
        if own:
            raise UsageError("--check and --compare: files are compared with one plan; give its GPUs with --gpus")
        rows = compared(spec, overrides, compare.split(","), _on_nodes(nodes))
        if as_json:
            print_json(rows)
        else:
            console(stderr=False).print(comparison_view(rows))
        return
    if more and not own:
        raise UsageError(f"{more[0]}: plan takes one SPEC; files to compare with it come after --check")
    adjust = _on_allocation(allocated_nodes()) if gpus is None and nodes is None else _on_nodes(nodes)
    if own:
        if plot is not None:
            raise UsageError("--check and --plot: the files are compared instead of showing the plan; give one of them")
        files = read_given([*own, *more])
        resolved = plan_for(
            files, lambda change: _resolve(spec, overrides, gpus, change, data=False), adjust, gpus is None
        )
        show_contradictions(files, resolved, as_json)
        return
    try:
        resolved = _resolve(spec, overrides, gpus, adjust, data=False)
    except NoPlanError as error:
        if as_json:
            print_json({"strategy": None, "why": str(error), "remedies": error.remedies})
        raise
    for mistake in missing_data(draft(spec, overrides), resolved.spec):  # it may be there on the machine that trains
        say(f"warning: {mistake}")
    if plot is not None:
        from launch.discover import installed
        from launch.plot import write_memory_plot

        write_memory_plot(resolved, installed(), plot)
    if render is not None:
        show_rendered(resolved, render)
        return
    if as_json:
        print_json(resolved.model_dump(mode="json"))
        return
    screen = console(stderr=False)
    screen.print(plan_view(resolved))
    screen.print()
    screen.print(candidates_view(resolved))


@app.command()
def preflight(
    spec: Annotated[
        Path | None, typer.Argument(metavar="SPEC", help="The run's spec, a YAML file.", show_default=False)
    ] = None,
    overrides: Overrides = [],
    run_dir: RunDirectory = None,
    accepted: Accept = [],
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the result as a page, too.", show_default=False)
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show every check and its threshold; run none.")] = False,
    selftest: Annotated[
        bool, typer.Option("--selftest", help="Try the checks of GPUs on simulated machines, healthy and faulty.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that a spec can run: on this machine, or on all nodes of the Slurm job around it."""
    from launch.allocation import allocation
    from launch.checking import checked, of_job

    if listed:
        list_checks(as_json)
        return
    if selftest:
        try_checks(as_json)
        return
    if spec is None:
        raise UsageError("preflight needs a SPEC, --list or --selftest")
    resolved = _resolve(spec, overrides)
    job, place = allocation() if resolved.topology.nodes > 1 else None, _run_dir(resolved, run_dir)
    found = of_job(job, resolved, str(spec), place, accepted) if job else checked(resolved, str(spec), place, accepted)
    show_checks(found.results, found.place, as_json, html)
    if isinstance(found.problem, DataError):
        raise found.problem
    if found.problem is not None:
        raise typer.Exit(found.problem.exit_code)


@app.command()
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
) -> None:
    """Plan, check and train: on this machine, or on all nodes of the Slurm job around it."""
    from launch.allocation import allocation
    from launch.claim import claim, finished, refuse_secrets, until_free
    from launch.screen import console, plan_view

    resolved = _resolve(spec, overrides)
    place = _run_dir(resolved, run_dir)
    job = allocation() if in_job or resolved.topology.nodes > 1 else None
    if job is None and in_job:
        raise PreflightError(
            "launch.supervisor is what a batch job starts, and this is no Slurm job: use muster run, or muster submit"
        )
    if job is None and resolved.topology.nodes > 1:
        raise PreflightError(
            f"cluster.nodes is {resolved.topology.nodes}, and this is no Slurm job: use muster submit, or sbatch"
            f" slurm/multi_node.sbatch; start accelerate launch with"
            f" accelerate_configs/{resolved.strategy}_multi_node.yaml on every node; or use -s cluster.nodes=1"
        )
    if job is not None and job.restarts and (resume == "never" or place.complete_checkpoints()):
        resume = "auto"  # it was said of the job's first start
    refuse_secrets(place, resolved)
    if job is not None and job.restarts:
        until_free(place, say)
    claim(place, resolved, resume)
    if dry_run:
        _dry_run(resolved, spec, place, resume, accepted, job)
        return
    screen = console()
    screen.print(plan_view(resolved))
    if resume != "never" and finished(place):
        say(f"this run is finished; its adapter is in {place.adapter}. To train it again: --resume never")
    else:
        _check_and_train(resolved, spec, place, resume, screen, accepted, job, verbose)
    show(str(place.adapter))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the spec, for editors."""
    from launch.spec import RunSpec

    print_json(RunSpec.model_json_schema())


def _resolve(
    spec_file: Path,
    overrides: list[str],
    gpus: str | None = None,
    adjust: "Callable[[RunSpec], RunSpec]" = lambda spec: spec,
    data: bool = True,
) -> "Plan":
    from launch.discover import topology
    from launch.hardware import parse_gpus
    from launch.planning import planned

    def devices(cluster: "ClusterSpec") -> "Topology":
        if gpus is None:
            return topology(cluster)
        here = parse_gpus(gpus, cluster.nodes)
        _warn_of_what_is_set_aside(cluster, gpus, here)
        return here

    resolved = planned(spec_file, overrides, devices, adjust, data)
    for warning in resolved.warnings:
        say(f"warning: {warning}")
    return resolved


def _on_nodes(nodes: int | None) -> "Callable[[RunSpec], RunSpec]":
    def adjust(spec: "RunSpec") -> "RunSpec":
        if nodes is None:
            return spec
        return spec.model_copy(update={"cluster": spec.cluster.model_copy(update={"nodes": nodes})})

    return adjust


def _on_allocation(nodes: int | None) -> "Callable[[RunSpec], RunSpec]":
    """The nodes of a Slurm allocation, for a spec that leaves them open."""

    def adjust(spec: "RunSpec") -> "RunSpec":
        return spec if "nodes" in spec.cluster.model_fields_set else _on_nodes(nodes)(spec)

    return adjust


def _warn_of_what_is_set_aside(cluster: "ClusterSpec", gpus: str, here: "Topology") -> None:
    for key in ("device", "devices_per_node"):
        value = getattr(cluster, key)
        planned = "gpu" if key == "device" else here.devices_per_node
        if key in cluster.model_fields_set and value not in ("auto", planned):
            say(f"warning: --gpus {gpus} is planned for, not cluster.{key}: {value}")


def _run_dir(resolved: "Plan", run_dir: Path | None) -> "RunDir":
    from launch.rundir import RunDir

    place = run_dir or Path("runs", resolved.name)
    try:
        place.stat()
        return RunDir(place.resolve())
    except FileNotFoundError:
        return RunDir(place.resolve())
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"--run-dir {place}: no directory can be called so: {error}") from None


def _check_and_train(
    resolved: "Plan", spec_file: Path, place: "RunDir", resume: str, screen: "Console", accepted: list[str],
    job: "Allocation | None", verbose: bool,
) -> None:  # fmt: skip
    """Raises typer.Exit with the attempt's exit code when that is not 0."""
    from launch.checking import checked, rows_alone
    from launch.claim import take
    from launch.journal import event, write_json
    from launch.preflight import document
    from launch.screen import checks_view
    from launch.supervise.decisions import Requeue
    from launch.supervise.here import Here
    from launch.supervise.job import Job
    from launch.supervise.loop import supervise
    from training.data.tokens import note_checked

    look = checked if job is None else rows_alone
    found = look(resolved, str(spec_file), place, accepted)
    if job is None or found.problem is not None:
        screen.print(checks_view(found.results, found.place))
    if found.problem is not None:
        raise found.problem
    _claimed = take(place, resolved, resume)  # kept until this process ends
    if job is not None:  # `muster status` finds a job by it that nobody has submitted through muster
        event(place.events, "job_started", job=job.job, nodes=list(job.nodes))
    write_json(place.preflight, document(found.results, found.place))
    note_checked(found.rows, place.tokens)
    where = Here(place) if job is None else Job(place, job, accepted, screen)
    end = supervise(resolved, place, where, resume, screen, verbose)
    if isinstance(end, Requeue) and isinstance(where, Job):
        where.requeue(end)
    if end.code != ExitCode.DONE:
        attempt = place.attempt(place.last_attempt()).root
        say(end.reason if end.code == ExitCode.STOPPED else as_error(end.reason), f"logs: {attempt}")
        raise typer.Exit(end.code)
    say(f"done: run directory {place.root}")


def _dry_run(
    resolved: "Plan", spec_file: Path, place: "RunDir", resume: str, accepted: list[str], job: "Allocation | None"
) -> None:
    """Raises, after the document, what would stop the run."""
    from launch.checking import checked, of_job
    from launch.render import node_argv, rendered

    files = rendered(resolved, place.deepspeed)
    meeting, attempt = (job.nodes[0] if job else None, 0), place.last_attempt() + 1
    argv = node_argv(resolved, place.root, place.accelerate, attempt, meeting, resume, 0)
    print_json({"plan": resolved.model_dump(mode="json"), "rendered": files, "argv": argv, "run_dir": str(place.root)})
    found = of_job(job, resolved, str(spec_file), place, accepted) if job else None
    problem = (found or checked(resolved, str(spec_file), place, accepted)).problem
    if problem is not None:
        raise problem


for command in (submit, status, watch, logs, stop, diagnose, report, evaluate, export):
    app.command()(command)


def main() -> None:
    """The `muster` command. A user's mistake is one message and an exit code, never a traceback."""
    try:
        app()
    except MusterError as error:
        say(as_error(str(error)))
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder that vanished: the machine's, not ours
        from launch.diagnosis.exceptions import classify

        code, text = classify(error)
        say(as_error(text))
        sys.exit(code)
    finally:
        flush()


if __name__ == "__main__":
    main()
