"""What `muster plan` shows beside a plan: whether somebody's own files agree with it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launch.errors import ContradictionError, MusterError, NoPlanError, UsageError
from launch.terminal import print_json, say, show

if TYPE_CHECKING:
    from launch.consistency import Given
    from launch.plan import Plan
    from launch.spec import RunSpec


def read_given(names: Sequence[Path]) -> "list[Given]":
    """The files; where no DeepSpeed file is among them, the one that an accelerate YAML names as well.

    Raises UsageError with every file that cannot be read.
    """
    from launch.consistency import given

    files, unread = [], []
    for name in names:
        try:
            files.append(given(str(name)))
        except UsageError as error:
            unread.append(str(error))
    if unread:
        raise UsageError("\n".join(unread))
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


def plan_for(
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


def show_contradictions(files: "Sequence[Given]", plan: "Plan", as_json: bool) -> None:
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


def show_rendered(plan: "Plan", launcher: str) -> None:
    """Raises UsageError for a launcher that there is no text for."""
    from launch.launchers import LAUNCHERS, render_for

    known = {name: name for name in LAUNCHERS}
    if launcher not in known:
        raise UsageError(f"--render {launcher}: allowed: {', '.join(known)}")
    show(render_for(known[launcher], plan), end="")
