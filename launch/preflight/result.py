"""What a check sees and what it says."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from launch.cluster.controller import Cluster
from launch.errors import PreflightError
from launch.plan import Plan
from launch.render.sbatch import BatchJob
from launch.rundir import RunDir
from launch.wording import plural

Status = Literal["pass", "warn", "fail", "skipped", "unknown"]
Family = Literal["gpu", "driver", "node", "software", "network", "storage", "model", "data", "plan", "slurm"]

# From what stops a run to what does not concern it.
SEVERITY: tuple[Status, ...] = ("fail", "unknown", "warn", "pass", "skipped")


class Batch(NamedTuple):
    """The job that a run is about to be submitted as."""

    cluster: Cluster
    job: BatchJob
    script: str
    options: tuple[str, ...] = ()
    """What sbatch is given beside the script."""


class Context(BaseModel):
    """The run that a check is about."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    plan: Plan
    run: RunDir
    batch: Batch | None = None
    """None but for `muster submit`."""
    beside: tuple[Plan, ...] = ()
    """The other elements of its sweep, on the same disk."""

    @property
    def place(self) -> str:
        """What is checked, such as `16 GPUs on 2 nodes`."""
        topology = self.plan.topology
        kind = ("GPU", "GPUs") if self.gpus else ("CPU process", "CPU processes")
        return f"{plural(topology.world_size, *kind)} on {plural(topology.nodes, 'node')}"

    @property
    def gpus(self) -> bool:
        """Whether the plan trains on GPUs."""
        return self.plan.topology.device == "gpu"


class Finding(BaseModel):
    """What a check has found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Status
    evidence: str
    """What was read, for people."""
    fix: str = ""
    """What to do about a warn, fail or unknown."""
    values: dict[str, Any] = Field(default_factory=dict)
    """What was read, for programs."""


class Result(Finding):
    """A finding, and which check it is of."""

    name: str
    """Stable: other tools may rely on it."""
    family: Family
    threshold: str = ""
    """What decides, and where that comes from."""
    node: str | None = None
    """The host it was read on, where there are several."""
    accepted: bool = False
    """Whether it failed and somebody said to go on all the same."""
    seconds: float = 0.0


def passed(evidence: str, **values: Any) -> Finding:
    return Finding(status="pass", evidence=evidence, values=values)


def warned(evidence: str, fix: str, **values: Any) -> Finding:
    return Finding(status="warn", evidence=evidence, fix=fix, values=values)


def failed(evidence: str, fix: str, **values: Any) -> Finding:
    return Finding(status="fail", evidence=evidence, fix=fix, values=values)


def unknown(evidence: str, fix: str, **values: Any) -> Finding:
    """Of what could not be read, which never passes."""
    return Finding(status="unknown", evidence=evidence, fix=fix, values=values)


def verdict(results: Sequence[Result]) -> Status:
    """The worst of all that concern the run: fail, then unknown, then warn."""
    statuses = {result.status for result in results}
    return next((status for status in SEVERITY[:3] if status in statuses), "pass")


def sentence(results: Sequence[Result], place: str) -> str:
    """The verdict in one line. `place` names what was checked, such as `8 GPUs on 1 node`."""
    worst = [result for result in results if result.status == "fail"]
    if worst:
        first = worst[0]
        where = f"node {first.node}: " if first.node else ""
        more = f", and {len(worst) - 1} more" if len(worst) > 1 else ""
        return f"Not ready: {where}{first.name}: {first.evidence}{more}"
    counts = {status: sum(result.status == status for result in results) for status in ("warn", "unknown")}
    told = [plural(counts["warn"], "warning")] if counts["warn"] else []
    told += [f"{counts['unknown']} unknown"] if counts["unknown"] else []
    return ", ".join([f"Ready: {place}", *told])


def document(results: Sequence[Result], place: str) -> dict[str, Any]:
    """What preflight.json and `muster preflight --json` hold."""
    return {
        "status": verdict(results), "verdict": sentence(results, place),
        "checks": [result.model_dump() for result in results],
    }  # fmt: skip


def read_document(path: Path) -> list[Result]:
    """The results of a preflight.json; none where there is no such file that can be read."""
    try:
        return [Result.model_validate(each) for each in json.loads(path.read_text(encoding="utf-8"))["checks"]]
    except (OSError, ValueError, KeyError):
        return []


def problem(results: Sequence[Result]) -> PreflightError | None:
    """Every failed check with its fix."""
    bad = [result for result in results if result.status == "fail"]
    if not bad:
        return None
    lines = [f"{result.name}: {result.evidence}. {result.fix}" for result in bad]
    accepting = " ".join(f"--accept {result.name}" for result in bad)
    text = "\n".join(["the checks failed, nothing was started", *lines, f"to start anyway: {accepting}"])
    return PreflightError(text, [result.name for result in bad])


def require(results: Sequence[Result]) -> None:
    """Raises PreflightError where a check failed."""
    found = problem(results)
    if found is not None:
        raise found
