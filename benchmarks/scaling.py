"""What more GPUs give and cost, from the planner's model: docs/scaling.md.

    python -m benchmarks.scaling > docs/scaling.md

Nothing here was measured on more than one GPU. The page states the inputs; whoever has other ones changes them here.
"""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from benchmarks.latency import collectives, gathering, reducing, waiting
from benchmarks.stragglers import INTERRUPTIONS, LOST, RESTART, SAVE_STEPS, SPREAD, SPREADS, goodput, slowest
from launch.machine.hardware import CATALOGUE, PCIE5, Gpu, Topology, gpu_topology
from launch.memory import Setting, adapter_of
from launch.model.variants import VARIANTS
from launch.plan.batch import micro_batch_sizes
from launch.plan.strategy import Candidate, candidates, choose, setting_of
from launch.plan.throughput import HIDDEN
from launch.spec import RunSpec

# Dollars of a GPU-hour: an H100 SXM on demand at smaller clouds (pricegpu.pages.dev, "H100 vs A100 Cloud Pricing",
# early 2026: 2.49 to 3.99), and in a block reserved at a large one (Amazon EC2 Capacity Blocks for ML, p5.48xlarge,
# rates of the last quarter of 2024).
PRICES = (2.49, 4.92)
MODELS = ("qwen2.5-7b", "qwen2.5-14b")
COUNTS = tuple(2**power for power in range(11))
PER_NODE = 8
LENGTH, RANK, ACCUMULATION = 4096, 16, 4
# Where doubling the GPUs gives less than this, they are said not to pay: a token costs half as much again.
PAYS = 4 / 3
DEARER = (1.1, 1.5)
# Where the base of the 14B fits each GPU, and where it is gathered block by block; sequences of an optimizer step.
WHOLE, GATHERED = "H100-80GB", "RTX4090-24GB"
BATCHES = (128, 512, 1024)


class Stand(NamedTuple):
    """What is asked where it stops paying."""

    model: str
    gpu: str
    strategy: str


STANDS = (Stand(MODELS[1], WHOLE, "auto"), Stand(MODELS[1], WHOLE, "fsdp2"), Stand(MODELS[1], GATHERED, "auto"))


class Network(NamedTuple):
    name: str
    link: float | None
    """Bytes/s between GPUs of a node; None for the catalogue's."""
    gbps: float
    """Gigabits/s that one node sends to others."""


NETWORKS = (
    Network("NVLink, 400G InfiniBand", None, 400), Network("NVLink, 100G Ethernet", None, 100),
    Network("PCIe, 400G InfiniBand", PCIE5, 400), Network("PCIe, 100G Ethernet", PCIE5, 100),
)  # fmt: skip


def gpu_with(name: str, network: Network) -> Gpu:
    gpu = CATALOGUE[name]
    if network.link is None:
        return gpu
    return gpu.model_copy(update={"rates": gpu.rates.model_copy(update={"link": network.link})})


def asked(model: str, network: Network, quantization: str, strategy: str, sequences: int | None) -> RunSpec:
    """`sequences` of an optimizer step; None for four micro-batches of each GPU."""
    batch = {"gradient_accumulation_steps": ACCUMULATION} if sequences is None else {"global_batch_size": sequences}
    micro = {"micro_batch_size": "auto"} if sequences is not None else {"micro_batch_size": 1}
    return RunSpec.model_validate(
        {
            "name": "scaling", "model": {"variant": model, "quantization": quantization}, "lora": {"rank": RANK},
            "data": {"train": "rows.jsonl", "max_length": LENGTH},
            "training": {**micro, **batch, "optimizer": "adamw_torch_fused", "loss": "chunked"},
            "cluster": {"network_gbps": network.gbps, "strategy": strategy},
        }
    )  # fmt: skip


def place(gpu: str, count: int, network: Network) -> Topology:
    nodes = max(1, count // PER_NODE)
    return gpu_topology(gpu_with(gpu, network), nodes, count // nodes)


@cache
def ways(
    model: str, gpu: str, count: int, network: Network, quantization: str = "none", strategy: str = "auto",
    sequences: int | None = None,
) -> tuple[Candidate, ...]:  # fmt: skip
    """All that the planner tries."""
    spec = asked(model, network, quantization, strategy, sequences)
    sizes = micro_batch_sizes(spec, count)
    return tuple(candidates(spec, VARIANTS[model].architecture, place(gpu, count, network), "bf16", sizes)[0])


def best(*where: object, **more: object) -> Candidate | None:
    return choose(list(ways(*where, **more)))  # type: ignore[arg-type]


def rate(found: Candidate) -> float:
    assert found.throughput is not None
    return found.throughput.tokens_per_second


def dollars(tokens_per_second: float, count: int, price: float) -> float:
    """Of a billion tokens."""
    return price * count * 1e9 / (3600 * tokens_per_second)


# The tables


def growing(model: str) -> list[str]:
    """Each GPU with a batch of its own, so that an optimizer step grows with the GPUs."""
    lines = [f"| GPUs | {' | '.join(network.name for network in NETWORKS)} |", "|---" * (len(NETWORKS) + 1) + "|"]
    alone = best(model, "H100-80GB", 1, NETWORKS[0])
    assert alone is not None
    for count in COUNTS:
        cells = []
        for network in NETWORKS:
            found = best(model, "H100-80GB", count, network)
            assert found is not None
            tokens = rate(found)
            low, high = (dollars(tokens, count, price) for price in PRICES)
            cells.append(f"{tokens:,.0f} ({tokens / count / rate(alone):.1%}) ${low:,.0f} to {high:,.0f}")
        lines.append(f"| {count:,} | {' | '.join(cells)} |")
    return lines


def divided(model: str, gpu: str, sequences: int) -> list[str]:
    """One optimizer step of so many sequences shared by all: what a person waits for."""
    lines = [f"| GPUs | {' | '.join(network.name for network in NETWORKS)} |", "|---" * (len(NETWORKS) + 1) + "|"]
    for count in (count for count in COUNTS if count <= sequences):
        found = [best(model, gpu, count, network, sequences=sequences) for network in NETWORKS]
        lines.append(f"| {count:,} | {' | '.join(_step(one) for one in found)} |")
    return lines


def _step(found: Candidate | None) -> str:
    if found is None or found.throughput is None:
        return "-"
    return f"{found.throughput.step_seconds:,.2f} s {found.strategy}"


def step_seconds(where: Stand, count: int, network: Network, sequences: int) -> float | None:
    """Of the planner's way to share a batch, with what its model leaves out: all wait for the slowest GPU, and for each
    collective's latency, of which as much is hidden behind computation as of its bytes. None where nothing fits."""
    found = best(where.model, where.gpu, count, network, "none", where.strategy, sequences)
    if found is None or found.throughput is None:
        return None
    setting, architecture = _setting(where, found, count, network, sequences), VARIANTS[where.model].architecture
    late = waiting(architecture, setting, found.gradient_accumulation_steps, place(where.gpu, count, network))
    return found.throughput.step_seconds * slowest(count, SPREAD) + (1 - HIDDEN) * late


def _setting(where: Stand, found: Candidate, count: int, network: Network, sequences: int) -> Setting:
    spec = asked(where.model, network, "none", where.strategy, sequences)
    return setting_of(
        spec, place(where.gpu, count, network), "bf16", adapter_of(VARIANTS[where.model].architecture, spec.lora),
        found.strategy, found.checkpointed_layers, found.micro_batch_size,
    )  # fmt: skip


def stops(where: Stand, network: Network, sequences: int) -> tuple[int, ...]:
    """The most GPUs that made a step at least PAYS times as fast as half of them; and the most at which a token costs
    no more than each of DEARER times what it does where it is cheapest."""
    seconds = {count: step_seconds(where, count, network, sequences) for count in COUNTS if count <= sequences}
    fitting = {count: taken for count, taken in seconds.items() if taken is not None}
    pays = max(many for few, many in pairwise(fitting) if fitting[few] >= PAYS * fitting[many])
    costs = {count: count * taken for count, taken in fitting.items()}
    return pays, *(max(c for c in costs if costs[c] <= times * min(costs.values())) for times in DEARER)


def stopping() -> list[str]:
    lines = [f"| GPU | batch | {' | '.join(network.name for network in NETWORKS)} |", "|---" * 6 + "|"]
    for where in STANDS:
        for sequences in BATCHES:
            found = [stops(where, network, sequences) for network in NETWORKS]
            cells = [" / ".join(f"{count:,}" for count in each) for each in found]
            name = where.gpu if where.strategy == "auto" else f"{where.gpu}, {where.strategy}"
            lines.append(f"| {name} | {sequences:,} | {' | '.join(cells)} |")
    return lines


# A model, how it is held, and a GPU: from what fits everywhere to what has to be divided.
PLACES = (
    ("qwen2.5-7b", "none", "H100-80GB"), ("qwen2.5-14b", "none", "H100-80GB"), ("qwen2.5-7b", "none", "L40S-48GB"),
    ("qwen2.5-14b", "none", "L40S-48GB"), ("qwen2.5-14b", "nf4", "RTX4090-24GB"),
    ("qwen2.5-7b", "none", "RTX4090-24GB"), ("qwen2.5-14b", "none", "RTX4090-24GB"),
)  # fmt: skip
COMPARED = ("ddp", "zero2", "zero3", "fsdp2", "zero3_offload")


def strategies() -> list[str]:
    """Tokens/s of each strategy on 16 GPUs, the winner in bold; a dash where it does not fit."""
    lines = [f"| model, GPU | network | {' | '.join(COMPARED)} |", "|---" * (len(COMPARED) + 2) + "|"]
    for model, quantization, gpu in PLACES:
        for network in (NETWORKS[0], NETWORKS[1]):
            fastest = {}
            for strategy in COMPARED:
                found = best(model, gpu, 2 * PER_NODE, network, quantization, strategy)
                fastest[strategy] = None if found is None else rate(found)
            most = max((tokens for tokens in fastest.values() if tokens), default=None)
            cells = [_cell(tokens, most) for tokens in fastest.values()]
            held = "bf16" if quantization == "none" else quantization
            lines.append(f"| {model} {held}, {gpu} | {int(network.gbps)}G | {' | '.join(cells)} |")
    return lines


def _cell(tokens: float | None, most: float | None) -> str:
    if tokens is None:
        return "-"
    return f"**{tokens:,.0f}**" if tokens == most else f"{tokens:,.0f}"


def simulated() -> list[str]:
    """Shares of the tokens/s that waiting for the slowest, by spread, and interruptions leave."""
    lines = [f"| GPUs | {' | '.join(f'spread {spread:.0%}' for spread in SPREADS)} | interruptions |", "|---" * 5 + "|"]
    for count in (8, 64, 256, 1024):
        found = best("qwen2.5-14b", "H100-80GB", count, NETWORKS[0])
        assert found is not None
        assert found.throughput is not None
        waits = " | ".join(f"{1 / slowest(count, spread):.1%}" for spread in SPREADS)
        lines.append(f"| {count:,} | {waits} | {goodput(count, found.throughput.step_seconds):.2%} |")
    return lines


def latencies() -> dict[str, float]:
    """What the page tells of 1,024 GPUs: milliseconds of a ring, over PCIe as well, and of a tree; the seconds that
    `collectives` gathers of a step wait for on STANDS' last GPU, and what is left of them as a share of the step in
    percent; and how many times as fast the last doubling makes it on 100G."""
    count, where = COUNTS[-1], STANDS[-1]
    fast, slow = NETWORKS[0], NETWORKS[1]
    found = best(where.model, where.gpu, count, fast, "none", where.strategy, count)
    step, full = step_seconds(where, count, fast, count), step_seconds(where, count, slow, count)
    half = step_seconds(where, count // 2, slow, count)
    assert found is not None
    assert step is not None
    assert full is not None
    assert half is not None
    setting = _setting(where, found, count, fast, count)
    gathers, _ = collectives(VARIANTS[where.model].architecture, setting, found.gradient_accumulation_steps)
    nvlink, pcie = place(WHOLE, count, fast), place(where.gpu, count, fast)
    waits = gathers * gathering(pcie)
    return {
        "ring": 1000 * gathering(nvlink), "pcie": 1000 * gathering(pcie), "tree": 1000 * reducing(nvlink),
        "collectives": int(gathers), "waits": waits, "share": 100 * (1 - HIDDEN) * waits / step, "last": half / full,
    }  # fmt: skip


def page() -> str:
    tables = {
        "seven": growing(MODELS[0]), "fourteen": growing(MODELS[1]), "step": divided(MODELS[1], WHOLE, 128),
        "small": divided(MODELS[1], GATHERED, 128), "stopping": stopping(), "strategies": strategies(),
        "simulated": simulated(),
    }  # fmt: skip
    return Path(__file__).with_name("scaling_page.md").read_text(encoding="utf-8").format(
        rank=RANK, length=LENGTH, low=PRICES[0], high=PRICES[1], accumulation=ACCUMULATION, rate=INTERRUPTIONS,
        lost=LOST, restart=RESTART, save=SAVE_STEPS, **latencies(),
        **{name: "\n".join(lines) for name, lines in tables.items()},
    )  # fmt: skip


if __name__ == "__main__":
    print(page(), end="")
