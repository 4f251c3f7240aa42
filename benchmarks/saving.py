"""How long the training waits for a checkpoint of a real adapter, and how long its files take.

    python benchmarks/saving.py [--rank 16] [--saves 5] [--json benchmarks/results/saving-NAME.json]

An adapter of Qwen2.5-7B on all linear layers with both moments of AdamW, on the GPU where there is one. The wait is the
copy to host memory (training/states.py); the files are written, synced and renamed by the thread that a run has
(training/saving.py), while this process computes. Target: a wait under 50 ms.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.throughput import machine
from launch.adapter import adapted
from launch.spec import LoraSpec
from launch.variants import VARIANTS
from training.checkpoint import write_directory
from training.saving import Saver
from training.states import gather_adapter, gather_optimizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    gpu = torch.cuda.is_available()
    parameters, optimizer = trained(options.rank, torch.device("cuda" if gpu else "cpu"))
    waits, files, sizes = [], [], []
    with tempfile.TemporaryDirectory(dir=".") as folder, Saver() as saver:
        for number in range(options.saves + 1):
            saver.finish()
            began = time.perf_counter()
            adapter = gather_adapter(parameters)
            moments, _ = gather_optimizer(optimizer, parameters)
            waits.append(time.perf_counter() - began)

            def write(adapter: Any = adapter, moments: Any = moments, number: int = number) -> None:
                start = time.perf_counter()
                tensors = {"adapter_model.safetensors": adapter, "optimizer.safetensors": moments}
                sizes.append(write_directory(Path(folder, f"step-{number}"), tensors, {}))
                files.append(time.perf_counter() - start)

            saver.begin(write)
            del adapter, moments, write
        saver.finish()
    result = {
        **machine(cpu=not gpu), "adapter_parameters": sum(p.numel() for _, p in parameters), "bytes": sizes[0],
        "first_wait_seconds": round(waits[0], 4), "wait_seconds": round(statistics.median(waits[1:]), 4),
        "files_seconds": round(statistics.median(files[1:]), 3),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


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
