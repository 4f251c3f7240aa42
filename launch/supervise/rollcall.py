"""`muster preflight` inside a job: every node of it asked, and all of them together."""

import os

from launch.cluster.allocation import Allocation
from launch.cluster.container import Inside, inside
from launch.plan import Plan
from launch.preflight.fleet import answered, unanswered
from launch.preflight.result import Context, Result
from launch.supervise.gang import Gathered, gather, together
from launch.supervise.pairs import Exchange, culprits, measured


def roll_call(job: Allocation, context: Context) -> list[Result]:
    """Each check's worst finding over the nodes; then whether all ranks of those that answer exchange, how fast, and
    which node is the reason where they do not."""
    plan = context.plan
    gathered = gather(job, plan, context.run, os.environ)
    found = together(gathered.probes, plan.spec.preflight)
    answers = _answers(job, inside(plan, context.run), plan, gathered)
    return [answers if result.name == answers.name else result for result in found] or [answers]


def _answers(job: Allocation, place: Inside, plan: Plan, gathered: Gathered) -> Result:
    limits, topology, nodes = plan.spec.preflight, plan.topology, list(gathered.probes)
    if gathered.silent:
        return unanswered(gathered.silent)
    made = Exchange(job, place, nodes, topology.device, topology.devices_per_node, limits.allreduce_seconds).answer()
    if made is not None and (limits.allreduce_gbps is None or made[1] >= limits.allreduce_gbps):
        return answered(*made, limits.allreduce_gbps)
    reasons = culprits(measured(job, place, nodes, topology.device, limits.allreduce_seconds))
    if made is None:
        # Where pairs do not tell, as with two nodes, any of them may be the reason.
        return unanswered(reasons or dict.fromkeys(nodes, f"no all-reduce within {limits.allreduce_seconds:g} s"))
    return answered(*made, limits.allreduce_gbps, reasons)
