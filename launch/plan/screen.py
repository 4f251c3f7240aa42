"""A plan for people: what it is, its memory as stacked bars, its candidates, and kinds of GPUs side by side."""

from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from launch.plan.checkpointing import checkpointable, extent
from launch.plan.plan import Plan
from launch.plan.strategy import Candidate
from launch.plan.throughput import Throughput
from launch.wording import amount, plural, span


def plan_view(plan: Plan) -> RenderableType:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in plan_rows(plan).items():
        table.add_row(name, Text(value))
    return Group(Text(f"Plan for {plan.name}", style="bold"), table, Text(), MemoryView(plan))


BAR, LEAST_BAR = 32, 8  # characters that stand for a device's memory, where there is room, and at least


class MemoryView:
    """The components of the peak as a stacked bar, a row each, up to what a device has. A narrow terminal gets short
    bars, then none, as does one that cannot say them: the numbers stay."""

    def __init__(self, plan: Plan):
        self.plan = plan

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts = {**self.plan.memory.components, "all": self.plan.memory.process_bytes}
        end = f" {100 * self.plan.spec.cluster.memory_share:.0f} % of {amount(self.plan.topology.memory_bytes)}"
        beside = max(map(len, parts)) + max(len(amount(size)) for size in parts.values()) + len(end) + 4
        bar = min(BAR, options.max_width - beside)
        yield _memory_table(self.plan, bar if bar >= LEAST_BAR and not options.ascii_only else 0, end)


def _memory_table(plan: Plan, bar: int, end: str) -> Table:
    whole = plan.topology.memory_bytes
    title = f"Memory of each device at its peak, in the phase {plan.memory.phase}"
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    for justify in ("left", "right", "left"):
        table.add_column(justify=justify, no_wrap=bar > 0)
    below = 0
    for name, size in plan.memory.components.items():
        first, last = (round(bar * edge / whole) for edge in (below, below + size))
        table.add_row(name, amount(size), " " * first + ("\u2588" * (last - first) or "\u258f") if bar else "")
        below += size
    limit = "\u2500" * (round(bar * plan.spec.cluster.memory_share) - 1) + "\u2524" if bar else ""
    table.add_row("all", amount(below), f"{limit}{end}".strip())
    return table


def plan_rows(plan: Plan) -> dict[str, str]:
    model, lora, training, topology = plan.spec.model, plan.spec.lora, plan.spec.training, plan.topology
    base = f"{plan.architecture.parameters:,} parameters, quantization {model.quantization}"
    shape = f"rank {lora.rank}, alpha {lora.alpha}, dropout {lora.dropout:g}"
    nodes, devices = plural(topology.nodes, "node"), plural(plan.world_size, "device")
    share = f"{plan.micro_batch_size} micro x {plan.gradient_accumulation_steps} accumulation"
    length = f"{training.max_steps} steps" if training.max_steps else f"{training.epochs:g} epochs"
    checkpointing = extent(plan.checkpointed_layers, checkpointable(plan.architecture, plan.setting.adapter))
    checkpointing += " blocks" if "/" in checkpointing else ""
    rows = {
        "model": f"{model.variant} ({base})",
        "adapter": f"LoRA {shape}: {plan.adapter_parameters:,} trainable parameters",
        "devices": f"{nodes} x {topology.devices_per_node} {topology.device_name}",
        "strategy": plan.reason,
        "batch": f"{plan.global_batch_size} = {share} x {devices}",
        "training": f"{length}, learning rate {training.learning_rate:g} {plan.lr_scheduler}, {plan.optimizer}",
        "precision": f"{plan.precision}, gradient checkpointing {checkpointing}",
        "kernels": f"{plan.attention} attention, {plan.loss} loss, "
        f"{plan.lora_implementation} LoRA layers, {plan.norms} norms",
    }
    if plan.throughput is not None:
        rows["throughput"] = _throughput(plan.throughput)
    if plan.duration_seconds is not None:
        by = "its steps" if training.max_steps else "the size of the training rows"
        rows["duration"] = f"about {span(plan.duration_seconds)}, by {by}"
    if plan.topology.device == "gpu":
        rows["host memory"] = (
            ", ".join(
                f"{amount(size)} {'to load' if name == 'load' else 'to train'}"
                for name, size in plan.memory.host_phases.items()
            )
            + f" on {'each node' if plan.topology.nodes > 1 else 'the node'}"
        )
    return rows | ({"note": "; ".join(plan.notes)} if plan.notes else {})


def _throughput(found: Throughput) -> str:
    rate = f"{found.tokens_per_second:,.0f} tokens/s ({found.low:,.0f} to {found.high:,.0f})"
    return f"{found.step_seconds:,.1f} s a step, {rate}, in sequences of full length"


def comparison_view(rows: list[dict[str, Any]]) -> RenderableType:
    """Kinds of GPUs, a row each; below, which train with another global batch, and why some do not do."""
    table = Table(box=None, pad_edge=False)
    table.add_column("GPUs", no_wrap=True)
    for column in ("strategy", "recompute", "batch", "per device", "tokens/s", "duration"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        if row["strategy"] is None:
            why = "does not fit" if "remedies" in row else "cannot run"
            table.add_row(row["gpus"], "-", "-", "-", why, "-", "-")
            continue
        batch = f"{row['global_batch_size']}{'*' if row['other_batch'] else ''}"
        memory = f"{amount(row['process_bytes'])} ({100 * row['memory_share']:.0f} %)"
        checkpointing, rate = extent(row["checkpointed_layers"], row["checkpointable_layers"]), row["throughput"]
        speed = f"{rate['tokens_per_second']:,.0f}" if rate else "-"
        duration = span(row["duration_seconds"]) if row["duration_seconds"] is not None else "-"
        table.add_row(row["gpus"], row["strategy"], checkpointing, batch, memory, speed, duration)
    reasons = [Text(f"{row['gpus']}: {row['why']}") for row in rows if row["strategy"] is None]
    first = next((row for row in rows if row["strategy"]), None)
    shared = next((row["one_batch"] for row in rows if row.get("other_batch")), None)
    if first and shared:
        told = f"* another global batch than {first['gpus']}, which is another training"
        reasons.insert(0, Text(f"{told}: {shared}"))
    return Group(table, *([Text(), *reasons] if reasons else []))


def candidates_view(plan: Plan) -> RenderableType:
    most = checkpointable(plan.architecture, plan.setting.adapter)
    table = Table(title="Candidates", title_justify="left", box=None, pad_edge=False)
    for column in ("strategy", "checkpointing", "batch", "per device", "step", "sent", "fits"):
        table.add_column(column, overflow="fold")  # narrow, but whole
    for candidate in plan.candidates:
        table.add_row(
            candidate.strategy,
            extent(candidate.checkpointed_layers, most),
            f"{candidate.micro_batch_size} x {candidate.gradient_accumulation_steps}",
            amount(candidate.memory.process_bytes),
            f"{candidate.throughput.step_seconds:,.1f} s" if candidate.throughput else "-",
            amount(candidate.traffic.bytes) if candidate.traffic.bytes else "-",
            _fitting(candidate),
        )
    return table


def _fitting(candidate: Candidate) -> str:
    if candidate.fits:
        return "yes"
    return "no" if candidate.host_fits else f"no: {amount(candidate.memory.host_needed_bytes)} of host memory"
