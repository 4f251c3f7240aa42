"""All files together: each against the plan, and against the others."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from launch.consistency import accelerate, deepspeed
from launch.consistency.given import Given, Problem
from launch.plan import Plan
from launch.spec import Strategy


def strategy_of(files: Sequence[Given]) -> Strategy | None:
    """What the files launch; None where they do not say, or say two things."""
    zero = {deepspeed.strategy(file) for file in files if file.kind == "deepspeed"}
    launched = {accelerate.strategy(file, _only(zero)) for file in files if file.kind == "accelerate"}
    return _only(launched or zero)


def check(files: Sequence[Given], plan: Plan) -> list[Problem]:
    """Every problem, in the order of files and lines."""
    zero = {deepspeed.strategy(file) for file in files if file.kind == "deepspeed"}
    found = [problem for file in files for problem in _of(file, plan, _only(zero))]
    found += _between(files)
    order = {file.file: number for number, file in enumerate(files)}
    return sorted(set(found), key=lambda problem: (order[problem.file], problem[1:]))


def _of(file: Given, plan: Plan, zero: Strategy | None) -> Iterator[Problem]:
    return deepspeed.problems(file, plan) if file.kind == "deepspeed" else accelerate.problems(file, plan, zero)


def _between(files: Sequence[Given]) -> Iterator[Problem]:
    """A DeepSpeed file that none of the accelerate files launches."""
    launchers = [file for file in files if file.kind == "accelerate"]
    for engine in (file for file in files if file.kind == "deepspeed"):
        if not launchers or any(_launches(launcher, engine) for launcher in launchers):
            continue
        first = launchers[0]
        kind, named = first.get("distributed_type"), first.get("deepspeed_config", "deepspeed_config_file")
        told = f"it names {named}" if kind == "DEEPSPEED" else f"it says {kind}"
        yield engine.says(("zero_optimization",), "dead", f"{first.file} does not launch this file: {told}")


def _launches(launcher: Given, engine: Given) -> bool:
    if launcher.get("distributed_type") != "DEEPSPEED":
        return False
    named = launcher.get("deepspeed_config", "deepspeed_config_file")
    return not named or Path(str(named)).resolve() == Path(engine.file).resolve()


def _only(found: set[Strategy | None]) -> Strategy | None:
    return next(iter(found)) if len(found) == 1 else None
