"""A picture of memory against sequence length, a line for each way to run."""

from collections.abc import Sequence
from pathlib import Path

from launch.errors import UsageError
from launch.machine.hardware import GIB
from launch.plan.checkpointing import checkpointable
from launch.plan.plan import Plan
from launch.plan.strategy import ORDER, candidates
from launch.versions import Versions

FORMATS = (".svg", ".png", ".pdf")
SHORTEST = 256  # tokens
# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#999999")
Curves = dict[tuple[str, bool], list[tuple[int, int]]]


def write_memory_plot(plan: Plan, versions: Versions, file: Path) -> None:
    """Raises UsageError for a file that cannot be written, or not in such a format."""
    if file.suffix.lower() not in FORMATS:
        raise UsageError(f"--plot {file}: allowed: a name that ends in {', '.join(FORMATS)}")
    draw(plan, memory_curves(plan, versions), file)


def memory_curves(plan: Plan, versions: Versions) -> Curves:
    """(tokens, bytes of a device) by strategy and checkpointing, with the plan's micro-batch."""
    found: Curves = {}
    spec, sizes = plan.spec, [plan.micro_batch_size]
    most = checkpointable(plan.architecture, plan.setting.adapter)
    for length in lengths(spec.data.max_length, plan.architecture.max_positions):
        longer = spec.model_copy(update={"data": spec.data.model_copy(update={"max_length": length})})
        ways, _ = candidates(longer, plan.architecture, plan.topology, plan.precision, sizes, versions)
        for way in ways:
            if spec.training.gradient_checkpointing == "auto" and 0 < way.checkpointed_layers < most:
                continue  # as many as each length needs: no line, but the limit
            key = (way.strategy, way.gradient_checkpointing)
            found.setdefault(key, []).append((length, way.memory.process_bytes))
    return found


def lengths(own: int, longest: int) -> list[int]:
    """Powers of two, those halfway between, and the spec's own, up to four times that or the model's positions."""
    powers = [SHORTEST * 2**exponent for exponent in range(20)]
    steps = {*powers, *(power * 3 // 2 for power in powers), own}
    return sorted(step for step in steps if step <= min(4 * max(own, SHORTEST), longest))


def draw(plan: Plan, curves: Curves, file: Path) -> None:
    """Solid with gradient checkpointing, dashed without; the limit, and the spec's own length."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    whole = plan.topology.memory_bytes / GIB
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "muster"}):
        figure, axes = pyplot.subplots(figsize=(11, 5.5), layout="constrained")
        for (strategy, checkpointing), points in curves.items():
            place = [str(known) for known in ORDER].index(strategy)
            axes.plot(
                [length for length, _ in points], [size / GIB for _, size in points],
                color=COLOURS[place], linestyle="-" if checkpointing else "--",
                linewidth=5 - 0.6 * place,  # so that what lies beneath another line is seen
                label=f"{strategy}, {'with' if checkpointing else 'without'} checkpointing",
            )  # fmt: skip
        share = plan.spec.cluster.memory_share
        axes.axhline(share * whole, color="black", linewidth=0.8)
        limit = f"{share:.0%} of {plan.topology.device_name}"
        axes.annotate(limit, (0.01, share * whole), xycoords=("axes fraction", "data"), va="bottom")
        axes.axvline(plan.spec.data.max_length, color="grey", linewidth=0.8, linestyle=":")
        axes.set_xscale("log", base=2)
        ticks = _powers(curves)
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_ylim(0, 1.6 * whole)
        axes.set_xlabel("sequence length (tokens)")
        axes.set_ylabel("memory of a device (GiB)")
        axes.set_title(
            f"{plan.spec.model.variant}, micro-batch {plan.micro_batch_size},"
            f" {plan.topology.nodes} x {plan.topology.devices_per_node} {plan.topology.device_name}"
        )
        axes.grid(visible=True, alpha=0.3)
        figure.legend(loc="outside right upper", fontsize="small")
        try:
            figure.savefig(file, metadata={"Date": None} if file.suffix.lower() == ".svg" else None)
        except OSError as error:
            raise UsageError(f"--plot {file}: cannot be written: {error.strerror}") from None
        finally:
            pyplot.close(figure)


def _powers(curves: Curves) -> Sequence[int]:
    lengths = {length for points in curves.values() for length, _ in points}
    return sorted(length for length in lengths if length & (length - 1) == 0)
