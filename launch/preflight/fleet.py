"""Several nodes as one machine: what each of them says of itself, compared. Pure.

A node's fingerprint is what has to be the same everywhere (fingerprint.py reads it); the odd node out is named.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict

from launch.preflight.check import Check, on_several_nodes
from launch.preflight.result import Context, Result, Status
from launch.spec import PreflightSpec
from launch.wording import named, plural

# What training would do differently, and what only an administrator wants to know of.
DECISIVE = ("torch", "torch CUDA", "NCCL", "transformers", "accelerate", "peft", "deepspeed", "bitsandbytes", "GPUs")
CLOCK_FIX, DIRECTORY_FIX = "start chrony or ntpd there", "choose a --run-dir on storage that every node mounts"
SHOWN = 5  # nodes of which a number each is told


class NodeReport(BaseModel):
    """What one node says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: str
    fingerprint: dict[str, str]
    """Its driver, packages, GPUs, limits, by name."""
    clock: float
    """Seconds since 1970, read by all nodes at one moment."""
    sees_directory: bool
    """Whether it finds in the run directory what rank 0 has just put there."""


def fleet_results(reports: Sequence[NodeReport], limits: PreflightSpec) -> list[Result]:
    """What can be said of all nodes together."""
    return [_alike(reports), _clocks(reports, limits), _directory(reports)]


def unanswered(reasons: Mapping[str, str]) -> Result:
    """Nodes that do not answer, or do not reach the others, and why."""
    why = dict.fromkeys(reasons.values())
    told = "; ".join(f"{named([node for node in reasons if reasons[node] == one])} {one}" for one in why)
    fix = "see whether the node is up and reaches the others (scontrol show node, ping), or leave it out (--exclude)"
    return _result("fleet-answers", "fail", told, fix).model_copy(update={"node": named(list(reasons))})


def answered(
    seconds: float, gigabytes: float, least: float | None, slow: Mapping[str, str] = MappingProxyType({})
) -> Result:
    """Of the first all-reduce of the real group: its seconds, its bus bandwidth in GB/s, and what slows it down."""
    evidence = f"all ranks met; all-reduce at {gigabytes:.2f} GB/s, {1000 * seconds:.1f} ms"
    if least is not None and gigabytes < least:
        fix = "see the checks infiniband and nccl-environment of each node, and NCCL_DEBUG=INFO"
        reasons = "".join(f"; {node} {why}" for node, why in slow.items())
        told = f"{evidence}, {least:g} GB/s asked for{reasons}"
        found = _result("fleet-answers", "fail", told, fix, gbps=gigabytes)
        return found.model_copy(update={"node": named(list(slow))}) if slow else found
    return _result("fleet-answers", "pass", evidence, gbps=gigabytes)


def odd_ones(fingerprints: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, tuple[str, str]]]:
    """By node, the fields in which it differs from most: (its value, theirs). A tie goes to the value of the first."""
    fields = dict.fromkeys(name for fingerprint in fingerprints.values() for name in fingerprint)
    odd: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    for name in fields:
        values = {node: fingerprint.get(name, "missing") for node, fingerprint in fingerprints.items()}
        usual = Counter(values.values()).most_common(1)[0][0]
        for node, value in values.items():
            if value != usual:
                odd[node][name] = (value, usual)
    return dict(odd)


def _alike(reports: Sequence[NodeReport]) -> Result:
    odd = odd_ones({report.node: report.fingerprint for report in reports})
    if not odd:
        return _result("fleet-alike", "pass", f"{plural(len(reports), 'node')} alike")
    decisive = any(field in DECISIVE for fields in odd.values() for field in fields)
    # Nodes that differ in the same way are told together.
    same: dict[str, list[str]] = defaultdict(list)
    for node, fields in odd.items():
        told = ", ".join(f"{field} {value} (others {usual})" for field, (value, usual) in fields.items())
        same[told].append(node)
    evidence = "; ".join(f"{named(nodes)}: {told}" for told, nodes in same.items())
    fix = "make them alike (one environment on shared storage, one image), or leave the odd node out"
    return _result("fleet-alike", "fail" if decisive else "warn", evidence, fix)


def ahead_of_others(reports: Sequence[NodeReport]) -> dict[str, float]:
    """By node, the seconds that its clock is ahead of the middle one. Where two are in the middle, as of two nodes, it
    is the one nearer to the first's, which is the head of a job."""
    if not reports:
        return {}
    clocks, head = sorted(report.clock for report in reports), reports[0].clock
    middle = min(clocks[(len(clocks) - 1) // 2], clocks[len(clocks) // 2], key=lambda clock: abs(clock - head))
    return {report.node: round(report.clock - middle, 3) for report in reports}


def _clocks(reports: Sequence[NodeReport], limits: PreflightSpec) -> Result:
    ahead, fine = ahead_of_others(reports), limits.clock_skew_warn_seconds
    off = {node: seconds for node, seconds in ahead.items() if abs(seconds) > min(fine, limits.clock_skew_seconds)}
    if not off:
        return _result("fleet-clock", "pass", f"clocks within {fine:g} s", ahead_seconds=ahead)
    most = limits.clock_skew_seconds
    status: Status = "fail" if any(abs(seconds) > most for seconds in off.values()) else "warn"
    most_off = sorted(off, key=lambda node: -abs(off[node]))
    evidence = ", ".join(f"{node} is {off[node]:+.1f} s off" for node in most_off[:SHOWN])
    evidence += f" and {len(off) - SHOWN:,} more" if len(off) > SHOWN else ""
    return _result("fleet-clock", status, evidence, CLOCK_FIX, ahead_seconds=ahead)


def _directory(reports: Sequence[NodeReport]) -> Result:
    blind = [report.node for report in reports if not report.sees_directory]
    if not blind:
        return _result("fleet-directory", "pass", f"{plural(len(reports), 'node')} share the run directory")
    return _result("fleet-directory", "fail", f"{named(blind)}: does not see the run directory", DIRECTORY_FIX)


def _result(name: str, status: Status, evidence: str, fix: str = "", **values: Any) -> Result:
    check = _BY_NAME[name]
    return Result(
        name=name, family=check.family, status=status, evidence=evidence, fix=fix, threshold=check.threshold,
        values=values,
    )  # fmt: skip


def _waits(context: Context) -> str | None:
    return on_several_nodes(context) or "compared by the workers, as soon as all nodes have started"


CHECKS = (
    Check(
        "fleet-answers", "network", "a node that does not answer, or a group of ranks that is slow",
        "all within preflight.allreduce_seconds; preflight.allreduce_gbps where it is given", concerns=_waits,
    ),
    Check(
        "fleet-alike", "software", "a node that differs from the others",
        "packages, NCCL and GPUs fail; driver, kernel and limits warn", concerns=_waits,
    ),
    Check(
        "fleet-clock", "node", "nodes whose clocks differ",
        "preflight.clock_skew_warn_seconds warns, preflight.clock_skew_seconds fails", concerns=_waits,
    ),
    Check(
        "fleet-directory", "storage", "a run directory that a node does not share",
        "each node finds a file that rank 0 has just written", concerns=_waits,
    ),
)  # fmt: skip
_BY_NAME = {check.name: check for check in CHECKS}
