"""How long planning many settings takes: memory, throughput and bytes sent of each.

    python benchmarks/plan.py [--settings 10000] [--json FILE]

Target: 10,000 in under 5 s on one core.
"""

import argparse
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from launch.machine.hardware import Topology, parse_gpus
from launch.model.architecture import Architecture
from launch.model.variants import VARIANTS
from launch.plan.strategy import candidates
from launch.spec import RunSpec, Strategy

GPUS = ["8xA100-80GB", "8xH100-80GB", "4xL40S-48GB", "8xV100-32GB"]
STRATEGIES: list[Strategy] = ["ddp", "zero1", "zero2", "zero3", "fsdp2", "zero2_offload", "zero3_offload"]


def settings() -> Iterator[tuple[RunSpec, Architecture, Topology]]:
    """Specs and devices without end: each can run with checkpointing and without, and often with some of it."""
    ranks, lengths = [4, 8, 16, 64], range(256, 32768, 256)
    for rank, length, gpus, strategy, name in itertools.product(ranks, lengths, GPUS, STRATEGIES, VARIANTS):
        spec = {
            "name": "many", "model": {"variant": name}, "data": {"train": "train.jsonl", "max_length": length},
            "lora": {"rank": rank}, "cluster": {"strategy": strategy},
        }  # fmt: skip
        yield RunSpec.model_validate(spec), VARIANTS[name].architecture, parse_gpus(gpus)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the planning of many settings.")
    parser.add_argument("--settings", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    asked = list(itertools.islice(settings(), options.settings // 2))
    began, planned = time.perf_counter(), 0
    for spec, architecture, topology in asked:
        planned += len(candidates(spec, architecture, topology, "bf16", [4])[0])
    taken = time.perf_counter() - began
    result = {
        "settings": planned, "seconds": round(taken, 2), "microseconds_each": round(1e6 * taken / planned, 1),
        "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
