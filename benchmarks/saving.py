"""How long the training waits for a checkpoint of a real adapter, and how long its files take.

    python benchmarks/saving.py [--rank 16] [--saves 5] [--json benchmarks/results/saving-NAME.json]

An adapter of Qwen2.5-7B on all linear layers with both moments of AdamW, on the GPU where there is one. A save is made
as a run makes it: gathered (training/checkpoint/states.py), copied and written by a thread (saving.py beside it) while
gradients are computed, here products of matrices that take about a second, and the next update waits for the copy. What
the training waits is the gathering and the end of the copy; what the thread costs the computation beside it is told,
too: the same products with and without a save, in turn. Target: a wait under 50 ms.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.throughput import machine
from launch.model.adapter import adapted
from launch.model.variants import VARIANTS
from launch.spec import LoraSpec
from training.checkpoint.checkpoints import write_directory
from training.checkpoint.saving import Saver
from training.checkpoint.states import gather_adapter, gather_optimizer


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    options = _options()
    gpu = torch.cuda.is_available()
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))  # a core is left, as beside a GPU there always is
    device = torch.device("cuda" if gpu else "cpu")
    parameters, optimizer = trained(options.rank, device)
    products = computation(device)
    waits, slowed, files, sizes = [], [], [], []
    with tempfile.TemporaryDirectory(dir=".") as folder, Saver() as saver:
        for number in range(options.saves + 1):
            saver.finish()
            alone = seconds_of(products)
            began = time.perf_counter()
            adapter = gather_adapter(parameters)
            moments, _ = gather_optimizer(optimizer, parameters)

            def copy(adapter: Any = adapter, moments: Any = moments) -> Any:
                return adapter.copies(), moments.copies()

            def write(copies: Any, number: int = number) -> None:
                start = time.perf_counter()
                tensors = {"adapter_model.safetensors": copies[0], "optimizer.safetensors": copies[1]}
                sizes.append(write_directory(Path(folder, f"step-{number}"), tensors, {}))
                files.append(time.perf_counter() - start)

            saver.begin(copy, write)
            gathered = time.perf_counter() - began
            slowed.append(seconds_of(products) / alone)
            waits.append(gathered + saver.settle())
            del adapter, moments, copy
        saver.finish()
    result = {
        **machine(cpu=not gpu), "adapter_parameters": sum(p.numel() for _, p in parameters), "bytes": sizes[0],
        "first_wait_seconds": round(waits[0], 4), "wait_seconds": round(statistics.median(waits[1:]), 4),
        "files_seconds": round(statistics.median(files[1:]), 3),
        "computation_with_over_without": round(statistics.median(slowed[1:]), 3),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def computation(device: torch.device) -> Callable[[], Any]:
    """About a second of products, in place of a forward and a backward pass."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = torch.randn(size, size, device=device), torch.randn(size, size, device=device)

    def products() -> None:
        for _ in range(30):
            torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return products


def seconds_of(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def trained(rank: int, device: torch.device) -> tuple[list[tuple[str, torch.nn.Parameter]], Any]:
    """Parameters by name, and an optimizer that has stepped."""
    named = []
    for name, (inputs, outputs) in adapted(VARIANTS["qwen2.5-7b"].architecture, LoraSpec(rank=rank)).items():
        for half, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            named.append((f"{name}.lora_{half}.weight", torch.nn.Parameter(torch.randn(shape, device=device))))
    optimizer = torch.optim.AdamW([parameter for _, parameter in named], fused=True)
    for _, parameter in named:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return named, optimizer


if __name__ == "__main__":
    main()
