"""What two CPU ranks pay for adding up an adapter's gradients, measured, and what the planner says.

    python benchmarks/communication.py [--runs 5] [--repeats 7] [--json benchmarks/results/communication-cpu.json]

Two processes with a core each train one LoRA model under DistributedDataParallel over gloo. Steps that exchange
gradients and steps that do not take turns; what an exchange costs is the difference of a pair; the same bytes added up
outside of a step are timed, too. The planner's estimate is its traffic (launch/plan/throughput.py) over the link's
rate, which is preflight's own all-reduce probe on the same two ranks (training/ranks/exchange.py: 8 MiB that have
nothing to do with the model), beside the seconds of a step without an exchange. Nothing is fitted to the outcome. Each
run has processes of its own: runs differ more than the pairs within one.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.jobs import Job
from benchmarks.random_model import random_base
from benchmarks.throughput import machine
from launch.memory import Setting, adapter_of
from launch.plan.throughput import traffic
from launch.spec import LoraSpec
from training.model.loading import lora_config
from training.ranks.exchange import all_reduce

WORLD, LENGTH, RANK = 2, 32, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runs = [run(options.repeats) for _ in range(options.runs)]
    medians = {name: statistics.median(one[name] for one in runs) for name in runs[0] if name.startswith("estimate_")}
    result = {**machine(cpu=True), "ranks": WORLD, "length": LENGTH, "lora_rank": RANK, **medians, "runs": runs}
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def run(repeats: int) -> dict[str, Any]:
    """What two ranks have measured, compared with the estimate."""
    with tempfile.TemporaryDirectory() as folder:
        processes.spawn(work, (folder, repeats), nprocs=WORLD)
        ranks = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(WORLD)]
    return compared(ranks)


def work(rank: int, folder: str, repeats: int) -> None:
    """One rank: pairs of steps, and before and after each pair the probe."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD, init_method=f"file://{folder}/meet")
    model, parameters = _model()
    ids = torch.randint(0, 6144, (1, LENGTH))
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    step(model, ids, optimizer, exchanging=True)
    found: dict[str, list[float]] = {"with": [], "without": [], "alone": [], "probe_bytes_per_second": []}
    for _ in range(repeats):
        found["probe_bytes_per_second"].append(all_reduce(torch.device("cpu"), WORLD, 60)[1] * 1e9)
        found["with"].append(step(model, ids, optimizer, exchanging=True))
        found["without"].append(step(model, ids, optimizer, exchanging=False))
        found["alone"].append(alone(4 * sum(parameter.numel() for parameter in parameters)))
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    os._exit(0)  # as training/ranks/exchange.py does, which says why


def _model() -> tuple[Any, list[Any]]:
    from peft import get_peft_model
    from torch.nn.parallel import DistributedDataParallel

    torch.manual_seed(1)
    base = random_base(Job("small", False).architecture, "none", torch.device("cpu"), torch.float32)
    model = get_peft_model(base, lora_config(_lora())).train()
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    return wrapped, [parameter for parameter in model.parameters() if parameter.requires_grad]


def _lora() -> LoraSpec:
    return LoraSpec(rank=RANK, dropout=0.0)


def step(model: Any, ids: torch.Tensor, optimizer: Any, exchanging: bool) -> float:
    """Seconds of a step that both ranks begin together."""
    dist.barrier()
    began = time.perf_counter()
    if exchanging:
        model(input_ids=ids, labels=ids).loss.backward()
    else:
        with model.no_sync():
            model(input_ids=ids, labels=ids).loss.backward()
    taken = time.perf_counter() - began
    optimizer.step()
    optimizer.zero_grad()
    return taken


def alone(size: int) -> float:
    """Seconds to add up so many bytes, in DDP's buckets: a first one of 1 MiB, then 25 MiB each."""
    sizes = [min(size, 1 << 20)]
    while sum(sizes) < size:
        sizes.append(min(size - sum(sizes), 25 << 20))
    buckets = [torch.ones(each // 4) for each in sizes]
    dist.barrier()
    began = time.perf_counter()
    for bucket in buckets:
        dist.all_reduce(bucket)
    return time.perf_counter() - began


def compared(ranks: list[dict[str, list[float]]]) -> dict[str, Any]:
    """Medians over the pairs, of both ranks the slower one's seconds."""
    both = {name: [max(pair) for pair in zip(*(rank[name] for rank in ranks), strict=True)] for name in ranks[0]}
    cost = statistics.median(w - wo for w, wo in zip(both["with"], both["without"], strict=True))
    share = statistics.median((w - wo) / w for w, wo in zip(both["with"], both["without"], strict=True))
    architecture = Job("small", False).architecture
    setting = Setting(
        strategy="ddp", world_size=WORLD, micro_batch_size=1, max_length=LENGTH, gradient_checkpointing=False,
        precision="fp32", gpu=False, adapter=adapter_of(architecture, _lora()),
    )  # fmt: skip
    sent = traffic(architecture, setting, accumulation=1).gradients
    computing, link = statistics.median(both["without"]), statistics.median(both["probe_bytes_per_second"])
    estimated, bare = sent / link, statistics.median(both["alone"])
    return {
        "sent_bytes": sent, "probe_bytes_per_second": round(link), "step_seconds_without_exchange": round(computing, 4),
        "exchange_seconds": round(cost, 4), "exchange_alone_seconds": round(bare, 4),
        "estimated_exchange_seconds": round(estimated, 4),
        "share_in_the_step": round(share, 4), "share_of_the_bytes_alone": round(_share(bare, computing), 4),
        "estimated_share": round(_share(estimated, computing), 4),
        "estimate_over_in_the_step": round(_share(estimated, computing) / share, 3),
        "estimate_over_alone": round(_share(estimated, computing) / _share(bare, computing), 3),
    }  # fmt: skip


def _share(moving: float, computing: float) -> float:
    return moving / (computing + moving)


if __name__ == "__main__":
    main()
