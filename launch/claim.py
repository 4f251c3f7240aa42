"""Whose run directory this is: a new run's, this run's own, or another's."""

from pathlib import Path

import yaml
from pydantic import ValidationError

from launch.errors import HostError, UsageError
from launch.journal import write_json, write_text
from launch.plan import Plan
from launch.render import rendered
from launch.rundir import RunDir
from launch.spec import training_identity


def claim(run: RunDir, plan: Plan, resume: str) -> None:
    """Makes sure that this plan may use this directory.

    Raises UsageError when it holds something else. With resume `never` an earlier run is moved aside, not removed.
    """
    if not run.root.exists() or not any(run.root.iterdir()):
        return
    if not run.plan.exists():
        raise UsageError(f"{run.root}: is not a run directory and not empty; choose another with --run-dir")
    if resume == "never":
        _set_aside(run)
        return
    try:
        earlier = Plan.model_validate_json(run.plan.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise UsageError(
            f"{run.plan}: cannot be read ({type(error).__name__}); start afresh with --resume never, which moves this directory aside"
        ) from None
    differing = different(earlier, plan)
    if differing:
        raise UsageError(
            f"{run.root}: holds a run of another spec; choose another name or --run-dir, or --resume never to move it aside\n"
            + "\n".join(f"  {line}" for line in differing)
        )


def different(earlier: Plan, plan: Plan) -> list[str]:
    """Where two plans are not the same training, key by key."""
    before = {**training_identity(earlier.spec), "global batch size": earlier.global_batch_size}
    now = {**training_identity(plan.spec), "global batch size": plan.global_batch_size}
    return [f"{key}: there {before.get(key)!r}, here {now[key]!r}" for key in now if before.get(key) != now[key]]


def finished(run: RunDir) -> bool:
    """Whether the run's adapter is there; it gets its name when it is complete."""
    return run.adapter.is_dir()


def prepare_run(run: RunDir, plan: Plan) -> None:
    """Writes spec.yaml, plan.json and rendered/. Raises HostError when the directory cannot be written."""
    try:
        run.root.mkdir(parents=True, exist_ok=True)
        run.checkpoints.mkdir(exist_ok=True)
        write_text(run.spec, yaml.safe_dump(plan.spec.model_dump(mode="json"), sort_keys=False))
        for name, text in rendered(plan, run.deepspeed).items():
            write_text(run.rendered / name, text)
        write_json(run.plan, plan.model_dump(mode="json"))
    except OSError as error:
        raise HostError(
            f"{run.root}: the run directory cannot be written: {error.strerror or error}; free space or choose another with --run-dir"
        ) from None


def _set_aside(run: RunDir) -> None:
    number = 1
    while (target := Path(f"{run.root}.old-{number}")).exists():
        number += 1
    run.root.rename(target)
