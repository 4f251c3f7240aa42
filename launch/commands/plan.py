"""`muster plan`: how a spec would run, on other GPUs too, and whether somebody's own files agree with it."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.commands.options import AsJson, Overrides, SpecFile
from launch.commands.resolving import no_plan_as_json, on_allocation, on_nodes, resolve
from launch.errors import ContradictionError, MusterError, NoPlanError, SpecError, UsageError
from launch.terminal import console, print_json, say, show

if TYPE_CHECKING:
    from launch.consistency import Given
    from launch.plan import Plan
    from launch.spec import RunSpec


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
    from launch.cluster.allocation import allocated_nodes

    _refuse_together(gpus, compare, plot, render, own, more, as_json)
    if compare is not None:
        _compare(spec, overrides, compare, nodes, as_json)
        return
    adjust = on_allocation(allocated_nodes()) if gpus is None and nodes is None else on_nodes(nodes)
    if own:
        files = _read_given([*own, *more], as_json)
        with no_plan_as_json(as_json):
            planned = partial(resolve, spec, overrides, gpus, data=False, nodes=nodes)
            found = _plan_for(files, planned, adjust, gpus is None)
        _show_contradictions(files, found, as_json)
        return
    with no_plan_as_json(as_json):
        found = resolve(spec, overrides, gpus, adjust, data=False, nodes=nodes)
    _warn_of_missing_data(spec, overrides, found)
    if plot is not None:
        _draw(found, plot)
    _show(found, render, as_json)


def _refuse_together(
    gpus: str | None, compare: str | None, plot: Path | None, render: str | None, own: list[Path], more: list[Path],
    as_json: bool,
) -> None:  # fmt: skip
    """Raises UsageError for options of which one says what another contradicts."""
    if compare is not None and gpus is not None:
        raise UsageError("--gpus and --compare: only one says what to plan for; give all kinds with --compare")
    if compare is not None and plot is not None:
        raise UsageError("--plot and --compare: a picture is of one kind of GPUs; give it with --gpus")
    if compare is not None and own:
        raise UsageError("--check and --compare: files are compared with one plan; give its GPUs with --gpus")
    if more and not own:
        raise UsageError(f"{more[0]}: plan takes one SPEC; files to compare with it come after --check")
    if own and plot is not None:
        raise UsageError("--check and --plot: the files are compared instead of showing the plan; give one of them")
    if render is not None and as_json:
        raise UsageError("--render and --json: a launcher's text is no JSON document; give one of them")
    if render is not None and (compare is not None or own):
        instead = "--compare" if compare is not None else "--check"
        raise UsageError(f"{instead} and --render: a launcher takes one plan; give one of them")


def _compare(spec: Path, overrides: list[str], kinds: str, nodes: int | None, as_json: bool) -> None:
    from launch.plan.compare import compared
    from launch.plan.screen import comparison_view

    rows = compared(spec, overrides, kinds.split(","), on_nodes(nodes), nodes)
    if as_json:
        print_json(rows)
    else:
        console(stderr=False).print(comparison_view(rows))


def _warn_of_missing_data(spec: Path, overrides: list[str], found: "Plan") -> None:
    """It may be there on the machine that trains."""
    from launch.spec.file import draft, missing_data

    for mistake in missing_data(draft(spec, overrides), found.spec):
        say(f"warning: {mistake}")


def _draw(found: "Plan", file: Path) -> None:
    from launch.machine.discover import installed
    from launch.plan.plot import write_memory_plot

    write_memory_plot(found, installed(), file)


def _show(found: "Plan", launcher: str | None, as_json: bool) -> None:
    from launch.plan.screen import candidates_view, plan_view

    if launcher is not None:
        _show_rendered(found, launcher)
    elif as_json:
        print_json(found.model_dump(mode="json"))
    else:
        screen = console(stderr=False)
        screen.print(plan_view(found))
        screen.print()
        screen.print(candidates_view(found))


def _read_given(names: Sequence[Path], as_json: bool) -> "list[Given]":
    """As `_given_files`; what it raises is printed as problems where JSON is asked for."""
    from launch.consistency import Problem

    try:
        return _given_files(names)
    except (SpecError, ContradictionError) as error:
        if as_json:
            found = [Problem(m.origin, m.line, m.column, "", "wrong", m.message) for m in error.mistakes]
            print_json([problem._asdict() for problem in found])
        raise


def _given_files(names: Sequence[Path]) -> "list[Given]":
    """The files; where no DeepSpeed file is among them, the one that an accelerate YAML names as well.

    Raises SpecError with every file that cannot be read, ContradictionError for one that is named and is not there.
    """
    from launch.consistency import given

    files, unread = [], []
    for name in names:
        try:
            files.append(given(str(name)))
        except SpecError as error:
            unread += error.mistakes
    if unread:
        raise SpecError(unread)
    alone = not any(file.kind == "deepspeed" for file in files)
    for launcher in [file for file in files if file.kind == "accelerate" and alone]:
        named = launcher.get("deepspeed_config", "deepspeed_config_file")
        known = {file.file for file in files}
        if launcher.get("distributed_type") == "DEEPSPEED" and named and str(named) not in known:
            if not Path(str(named)).is_file():
                path = ("deepspeed_config", "deepspeed_config_file")
                told = f"{named} is not there; relative paths start in the folder that accelerate is started in"
                raise ContradictionError([launcher.says(path, "wrong", told).mistake])
            files.append(given(str(named)))
    return files


def _plan_for(
    files: "Sequence[Given]",
    resolve: "Callable[[Callable[[RunSpec], RunSpec]], Plan]",
    adjust: "Callable[[RunSpec], RunSpec]",
    here: bool,
) -> "Plan":
    """The plan to compare with: for the strategy that the files launch, where the spec leaves it open and can be run
    so; else the spec's own. `here` says that it is for this machine's devices."""
    from launch.consistency import strategy_of

    found = strategy_of(files)

    def launched(spec: "RunSpec") -> "RunSpec":
        spec = adjust(spec)
        if found is None or spec.cluster.strategy != "auto":
            return spec
        return spec.model_copy(update={"cluster": spec.cluster.model_copy(update={"strategy": found})})

    try:
        return resolve(launched)
    except MusterError as error:
        try:
            plan = resolve(adjust)
        except NoPlanError as none:
            asked = [file.get("num_processes") for file in files if file.kind == "accelerate"]
            if not (here and asked):
                raise
            hint = f"these files are for {asked[0]} devices: name them with --gpus 8xA100-80GB"
            raise NoPlanError(f"{none}; {hint}", none.remedies) from None
        say(f"the files launch {found}, which this spec cannot run here: {error}")
        return plan


def _show_contradictions(files: "Sequence[Given]", plan: "Plan", as_json: bool) -> None:
    """Raises ContradictionError with every problem that is more than a waste of memory."""
    from launch.consistency import check

    found, topology = check(files, plan), plan.topology
    if as_json:
        print_json([problem._asdict() for problem in found])
    costly = [problem for problem in found if problem.kind == "costly"]
    for problem in costly:
        say(f"warning: {problem.mistake}")
    wrong = [problem.mistake for problem in found if problem.kind != "costly"]
    devices = f"{topology.nodes} x {topology.devices_per_node} {topology.device_name}"
    if wrong:
        say(f"compared with the plan for {devices}, {plan.strategy}")
        raise ContradictionError(wrong)
    if not as_json:
        for file in files:
            show(f"{file.file}: agrees with the plan for {devices}, {plan.strategy}")


def _show_rendered(plan: "Plan", launcher: str) -> None:
    """Raises UsageError for a launcher that there is no text for."""
    from launch.render.launchers import LAUNCHERS, render_for

    known = {name: name for name in LAUNCHERS}
    if launcher not in known:
        raise UsageError(f"--render {launcher}: allowed: {', '.join(known)}")
    show(render_for(known[launcher], plan), end="")
