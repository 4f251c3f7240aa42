"""Where the time of a step goes, by family of kernels: torch.profiler over a few steps of a job of throughput.py.

    python benchmarks/profile_step.py [--jobs 7b-fixed,...] [--set JSON] [--json benchmarks/results/profile-NAME.json]
    python benchmarks/profile_step.py --cpu        a small model, where there is no GPU

Forward, loss, backward, clipping and optimizer on one sequence a step, set as muster trains it. On a GPU the seconds
are those of its kernels, and `busy` is the share of the clock that they fill: what is missing is the host's. On a CPU
they are torch's operations, each without the ones that it calls. `--set` takes values of muster's spec by dotted key.
"""

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import check_names, json_object, need_gpu, result_file
from benchmarks.levers import Side, freed
from benchmarks.throughput import ON_CPU, ON_GPU, machine
from training.model.attention import register

# By the first whose words stand in a kernel's name, or an operation's: attention's kernels are made with CUTLASS as
# matrix products are, an optimizer's apply a functor to lists as elementwise ones do to a tensor.
FAMILIES = {
    "communication": "nccl|all_?reduce|all_?gather",
    "attention": "flash|fmha|attention|sdpa|mha_",
    "unpacking of weights": "dequant|4bit|kquantize",
    "matrix products": "gemm|nvjet|cutlass|xmma|cublas|gemv|splitk|aten::(add|b|baddb)?mm|matmul|mkldnn",
    "optimizer and clipping": "multi_tensor|adam|foreach|lpnorm|linalg_vector_norm",
    "loss": "softmax|nll|cross_entropy|scatter|gather",
    "reductions": "reduce|norm|aten::(mean|sum|max|any|all)",
    "copies and casts": "memcpy|memset|copy|catarray|aten::(cat|_to_copy|to|clone|fill_|zero_)|index|embedding",
    "elementwise": "elementwise|vectorized|triton|aten::(mul|add|sub|div|neg|silu|pow|rsqrt|exp|cos|sin)",
}
STEPS = 3


def main() -> None:
    options = _options()
    need_gpu(options.cpu)
    register()
    known = ON_CPU if options.cpu else ON_GPU
    result: dict[str, Any] = {**machine(options.cpu), "steps": STEPS, "settings": options.set, "jobs": {}}
    for name in options.jobs.split(",") if options.jobs else known:
        job = replace(known[name], settings=options.set, accumulation=1, steps=STEPS)
        freed()
        try:
            found = profiled(Side(job), job.gpu)
        except torch.OutOfMemoryError as error:  # a smaller job may fit
            found = {"failed": str(error).partition(". ")[0]}
        result["jobs"][name] = found
        print(f"{name}: {json.dumps(found, indent=1)}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--jobs", help="names of benchmarks/throughput.py, separated by commas; all unless given")
    parser.add_argument("--set", default={}, type=json_object, help="values of muster's spec by dotted key, as JSON")
    parser.add_argument("--json", type=result_file)
    options = parser.parse_args()
    check_names(parser, "--jobs", options.jobs, ON_CPU if options.cpu else ON_GPU)
    return options


def profiled(side: Side, gpu: bool) -> dict[str, Any]:
    """Shares of the time, by family and of the ten longest kernels."""
    for number in range(2):  # kernels are chosen
        side.step(number)
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as watched:
        began = time.perf_counter()
        for number in range(2, 2 + STEPS):
            side.step(number)
        seconds = time.perf_counter() - began
    kind = DeviceType.CUDA if gpu else DeviceType.CPU
    took = [
        (event.name, event.self_device_time_total if gpu else event.self_cpu_time_total)
        for event in watched.events() or ()
        if event.device_type == kind and not event.is_user_annotation
    ]
    return {"step_seconds": round(seconds / STEPS, 4), **shares(took, seconds)}


def shares(took: Iterable[tuple[str, float]], seconds: float) -> dict[str, Any]:
    """Of (kernel, microseconds) by family and by kernel, the largest first; `busy` is all of them over the clock."""
    kernels: Counter[str] = Counter()
    for name, microseconds in took:
        kernels[name] += microseconds  # type: ignore[assignment]
    families: Counter[str] = Counter()
    for name, microseconds in kernels.items():
        families[family(name)] += microseconds
    total = families.total() or 1
    return {
        "busy": round(total / 1e6 / seconds, 4),
        "families": {name: round(part / total, 4) for name, part in families.most_common()},
        "kernels": {name[:100]: round(part / total, 4) for name, part in kernels.most_common(10)},
    }


def family(name: str) -> str:
    return next((each for each, words in FAMILIES.items() if re.search(words, name.lower())), "other")


if __name__ == "__main__":
    main()
