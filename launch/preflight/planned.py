"""The plan itself: what it was made for is what is here."""

from launch.preflight.check import Check
from launch.preflight.result import Context, Finding, failed, passed, warned
from launch.wording import amount


def fits(context: Context) -> Finding:
    """Inside the share of a device's memory that is planned for."""
    plan = context.plan
    needed, whole = plan.memory.process_bytes, plan.topology.memory_bytes
    told = f"{amount(needed)} of {amount(whole)} on each device ({100 * needed / whole:.0f} %)"
    share = plan.spec.cluster.memory_share
    if needed > share * whole:
        return warned(told, f"muster plans for {100 * share:.0f} %")
    return passed(told, needed=needed, there=whole)


def batch(context: Context) -> Finding:
    """A plan.json that somebody has changed may not add up any more."""
    plan = context.plan
    product = plan.micro_batch_size * plan.gradient_accumulation_steps * plan.world_size
    told = f"{plan.micro_batch_size} x {plan.gradient_accumulation_steps} x {plan.world_size} = {product}"
    if product != plan.global_batch_size:
        return failed(f"{told}, not {plan.global_batch_size}", "plan anew from the spec")
    return passed(told)


CHECKS = (
    Check("plan-memory", "plan", "a plan that does not fit", "cluster.memory_share (Fujii et al. 2024)", fits),
    Check("batch", "plan", "a batch that cannot be divided", "micro-batch x accumulation x devices", batch),
)  # fmt: skip
