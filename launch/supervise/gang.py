"""Every node of a job answers before a run starts on it: which of them are fit, and why the others are not."""

import re
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from launch.cluster.allocation import Allocation
from launch.cluster.container import Inside, inside
from launch.plan import Plan
from launch.preflight.fleet import CLOCK_FIX, DECISIVE, DIRECTORY_FIX, ahead_of_others, fleet_results, odd_ones
from launch.preflight.probe import Probe
from launch.preflight.registry import CHECKS
from launch.preflight.result import SEVERITY, Result
from launch.preflight.runner import accept
from launch.rundir import RunDir
from launch.spec import PreflightSpec
from launch.supervise.srun import start_step, step_argv
from launch.wording import by_saying, named

LOOK_SECONDS = 0.1
# Of a node whose task was started and then ended: asked again, it would say the same.
CANNOT = "cannot answer: "


@dataclass(frozen=True)
class Gathered:
    probes: dict[str, Probe]
    """By node, of those that answered."""
    silent: dict[str, str]
    """Why the others did not."""


def gather(job: Allocation, plan: Plan, run: RunDir, environ: Mapping[str, str]) -> Gathered:
    """Asks all nodes of the job at once, each by a step of its own: one that hangs holds up nobody."""
    seconds = plan.spec.preflight.answer_seconds
    place = next(path for path in (run.root, *run.root.parents) if path.is_dir())
    token = place / f".meeting-{uuid.uuid4().hex}"
    token.touch()
    answers: dict[str, Probe] = {}
    silent: dict[str, str] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            (read := Path(folder, "plan.json")).write_text(plan.model_dump_json(), encoding="utf-8")
            within = inside(plan, run, outer=environ)
            asked = {
                node: _Asked(job, within, node, (run.root, token, job.number), read, environ) for node in job.nodes
            }
            deadline = time.monotonic() + seconds
            while waiting := [node for node in asked if node not in answers and node not in silent]:
                for node in waiting:
                    _listen(node, asked[node], time.monotonic() > deadline, seconds, answers, silent)
                time.sleep(LOOK_SECONDS)
            for one in asked.values():
                one.end()
    finally:
        token.unlink(missing_ok=True)
    in_order = {node: answers[node] for node in job.nodes if node in answers}
    return Gathered(in_order, silent)


_TASK_ENDED = re.compile(r"srun: error: \S+: tasks? [\d,-]+: ")


class _Asked:
    """The step that asks one node."""

    def __init__(
        self, job: Allocation, place: Inside, node: str, arguments: tuple[object, ...], read: Path,
        environ: Mapping[str, str],
    ):  # fmt: skip
        self.out, self.err = read.with_name(f"{node}.out"), read.with_name(f"{node}.err")
        argv = step_argv(job, place, [node], "muster-probe", "launch.preflight.probe", *arguments, read=read)
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = start_step(argv, place, out, err, environ)

    def answer(self) -> Probe | None:
        """Its clock as it stands beside ours: what is left in the difference is how long the answer took to come here.
        How long it lay here, on a busy machine, is not in it."""
        now = self.out.stat().st_mtime
        lines = self.out.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in reversed(lines):
            with suppress(ValidationError):
                found = Probe.model_validate_json(line)
                report = found.report.model_copy(update={"clock": found.report.clock - now})
                return found.model_copy(update={"report": report})
        return None

    def words(self) -> str:
        """What srun, or the node's Python, said last."""
        lines = self.err.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        own = [line for line in lines if not _TASK_ENDED.match(line)]
        return own[-1].removeprefix("srun: error: ") if own else f"exit code {self.process.returncode}"

    def ran(self) -> bool:
        """Whether the node has started what asks it, which then ended by itself."""
        return any(map(_TASK_ENDED.match, self.err.read_text(encoding="utf-8", errors="replace").splitlines()))

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def _listen(
    node: str, asked: _Asked, overdue: bool, seconds: float, answers: dict[str, Probe], silent: dict[str, str]
) -> None:
    ended = asked.process.poll() is not None  # looked at first: what it said before it ended is there by then
    found = asked.answer()
    if found is not None:
        answers[node] = found
    elif ended:
        silent[node] = f"{CANNOT if asked.ran() else 'does not answer: '}{asked.words()}"
    elif overdue:
        silent[node] = f"has not answered within {seconds:g} s (preflight.answer_seconds)"


def unfit(gathered: Gathered, limits: PreflightSpec, accepted: Sequence[str]) -> dict[str, str]:
    """By node, what keeps it from taking part: silence, a check of its own, or that it is not like the others."""
    names, probes = [*limits.accept, *accepted], gathered.probes
    found = dict(gathered.silent)
    for node, probe in probes.items():
        judged = accept(probe.results, names, _KNOWN)
        failed = [f"{result.name}: {result.evidence}" for result in judged if result.status == "fail"]
        if not probe.report.sees_directory and "fleet-directory" not in names:
            failed.insert(0, f"does not see the run directory: {DIRECTORY_FIX}")
        if failed:
            found[node] = "; ".join(failed)
    # A node that is out already does not decide what is usual.
    others = {node: probe for node, probe in probes.items() if node not in found}
    found |= {} if "fleet-alike" in names else _unlike(others)
    found |= {} if "fleet-clock" in names else _off(others, limits.clock_skew_seconds)
    return found


_KNOWN = [check.name for check in CHECKS]


def _unlike(probes: Mapping[str, Probe]) -> dict[str, str]:
    found = {}
    for node, fields in odd_ones({node: probe.report.fingerprint for node, probe in probes.items()}).items():
        told = [f"{name} {value} (others {usual})" for name, (value, usual) in fields.items() if name in DECISIVE]
        if told:
            found[node] = f"differs from the others: {', '.join(told)}"
    return found


def _off(probes: Mapping[str, Probe], most: float) -> dict[str, str]:
    ahead = ahead_of_others([probe.report for probe in probes.values()])
    return {
        node: f"its clock is {seconds:+.1f} s off: {CLOCK_FIX}"
        for node, seconds in ahead.items()
        if abs(seconds) > most
    }


def chosen(gathered: Gathered, out: Mapping[str, str], wanted: int, blamed: Sequence[str] = ()) -> list[str]:
    """The best so many of the fit nodes: those that nothing was traced to first, then those with the fewest warnings.
    In Slurm's order, in which srun numbers them."""
    fit = [node for node in gathered.probes if node not in out]

    def rank(node: str) -> tuple[int, int]:
        return blamed.count(node), sum(result.status == "warn" for result in gathered.probes[node].results)

    best = sorted(fit, key=rank)[:wanted]
    return [node for node in fit if node in best]


def together(probes: Mapping[str, Probe], limits: PreflightSpec) -> list[Result]:
    """The checks of many nodes as one list: of each check the worst finding, with the nodes that have it."""
    by_name: dict[str, list[Result]] = {}
    for probe in probes.values():
        for result in probe.results:
            by_name.setdefault(result.name, []).append(result)
    fleet = {result.name: result for result in fleet_results([probe.report for probe in probes.values()], limits)}
    return [fleet.get(name) or _worst(results, len(probes)) for name, results in by_name.items()]


def _worst(results: Sequence[Result], nodes: int) -> Result:
    """Of several nodes each says what it has found; where all say the same, that is said once."""
    worst = min(results, key=lambda result: SEVERITY.index(result.status))
    if worst.status in ("pass", "skipped"):
        return worst.model_copy(update={"node": None})
    same = {str(result.node): result.evidence for result in results if result.status == worst.status}
    where = None if len(same) == nodes else named(list(same))
    told = worst.evidence if len(set(same.values())) == 1 else "; ".join(by_saying(same))
    return worst.model_copy(update={"node": where, "evidence": told})


def told(out: Mapping[str, str]) -> str:
    """Nodes and what is wrong with them, in a line."""
    return "; ".join(by_saying({node: why.partition("\n")[0] for node, why in out.items()}, "node "))
