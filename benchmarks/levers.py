"""What each lever of speed gives on its own: the same model and micro-batches with it and without it, in turn.

    python benchmarks/levers.py [--cpu] [--pairs 7] [--only loss,attention] [--json benchmarks/results/levers-NAME.json]

One process. Both sides begin with the same weights and train on the same rows; a pair is a step of each, and the
printed ratio is the median of the pairs' (without over with: above 1 the lever is faster). Beside it stand the largest
relative differences of a loss and of the gradients' norm, which must be rounding, and on a GPU each side's peak of
memory.
"""

import argparse
import copy
import gc
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers.integrations.liger import apply_liger_kernel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import count, need_gpu, result_file
from benchmarks.jobs import Job, rows
from benchmarks.random_model import random_base
from benchmarks.throughput import machine, planned, written
from training.model.attention import register
from training.model.collate import collator
from training.model.loading import DTYPES, adapt

SDPA, PLAIN = {"model.attention": "sdpa"}, {"training.loss": "plain"}
RECOMPUTE = "training.gradient_checkpointing"  # "half" stands for the number that is half of the model's blocks
# Its loss alone, whose forward pass it gives to one model; its other kernels become those of the whole process.
LIGER = {
    "use_liger_kernel": True,
    "liger_kernel_config": {
        "fused_linear_cross_entropy": True, "cross_entropy": False, "rope": False, "rms_norm": False, "swiglu": False,
    },
}  # fmt: skip
# What stays the same on both sides, and what the lever sets.
LEVERS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "loss: chunked": (SDPA, PLAIN, {"training.loss": "chunked"}),
    "liger: its loss, against chunks": (
        {"lora.implementation": "peft", "model.norms": "plain", **SDPA}, {"training.loss": "chunked"},
        {**PLAIN, "training.extra": LIGER},
    ),
    "attention: varlen": ({"training.loss": "chunked"}, SDPA, {"model.attention": "varlen"}),
    "lora: fused": (
        {"training.loss": "chunked"}, {"lora.implementation": "peft"}, {"lora.implementation": "fused"}
    ),
    "lora: fused with dropout": (
        {"training.loss": "chunked", "lora.dropout": 0.05}, {"lora.implementation": "peft"},
        {"lora.implementation": "fused"},
    ),
    "norms: fused": ({"training.loss": "chunked"}, {"model.norms": "plain"}, {"model.norms": "fused"}),
    "optimizer: fused": (
        {"training.loss": "chunked"}, {"training.optimizer": "adamw_torch"}, {"training.optimizer": "adamw_torch_fused"}
    ),
    "compile: blocks": (
        {"training.loss": "chunked", "lora.implementation": "peft", "model.norms": "plain", **SDPA},
        {"training.compile": False}, {"training.compile": True},
    ),
    "checkpointing: half": ({"training.loss": "chunked"}, {RECOMPUTE: True}, {RECOMPUTE: "half"}),
    "checkpointing: none": ({"training.loss": "chunked"}, {RECOMPUTE: True}, {RECOMPUTE: False}),
}  # fmt: skip
WITH_LIGER = ("liger: its loss, against chunks",)
LENGTHS = ("mixture", "rag", "fixed")


def main() -> None:
    options = _options()
    need_gpu(options.cpu)
    register()
    if options.cpu:
        torch.set_num_threads(1)  # the seconds of a process are then those of its work
    result: dict[str, Any] = {**machine(options.cpu), "pairs": options.pairs, "levers": {}}
    for name in options.levers:
        for lengths in options.lengths.split(","):
            try:
                found = measured(LEVERS[name], lengths, options)
            except torch.OutOfMemoryError as error:  # the others may fit
                found = {"failed": str(error).partition(". ")[0]}
            result["levers"][f"{name}, {lengths}"] = found
            print(f"{name}, {lengths}: {json.dumps(found)}", flush=True)
            if options.json:
                options.json.write_text(json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--pairs", type=count, default=7)
    parser.add_argument("--only", help="how names of levers begin, separated by commas; by default all that run here")
    parser.add_argument("--lengths", default=",".join(LENGTHS))
    parser.add_argument("--json", type=result_file)
    options = parser.parse_args()
    here = [name for name in LEVERS if name not in WITH_LIGER or (not options.cpu and find_spec("liger_kernel"))]
    asked_for = options.only.split(",") if options.only else here
    for asked in asked_for:
        if not asked or not any(name.startswith(asked) for name in here):
            parser.error(f"--only: {asked!r} begins none of those that run here: {', '.join(here)}")
    options.levers = [name for name in here if name.startswith(tuple(asked_for))]
    for asked in options.lengths.split(","):
        if asked not in LENGTHS:
            parser.error(f"--lengths: {asked!r} is not known; known are {', '.join(LENGTHS)}")
    return options


def measured(lever: tuple[dict[str, Any], ...], lengths: str, options: argparse.Namespace) -> dict[str, Any]:
    both, off, on = lever
    job = Job("small", False, "none", lengths, max_length=2048, accumulation=1, steps=options.pairs)
    if not options.cpu:
        job = Job("qwen2.5-7b", True, "none", lengths, accumulation=1, steps=options.pairs)
    half = {RECOMPUTE: job.architecture.layers // 2}
    jobs = [
        replace(job, settings={**both, **own, **(half if own.get(RECOMPUTE) == "half" else {})}) for own in (off, on)
    ]
    freed()
    first = Side(jobs[0])
    sides = [first, Side(jobs[1], first)]
    for side in sides:
        side.step(0)  # kernels are chosen, or compiled
    pairs = [[side.step(number) for side in sides] for number in range(1, options.pairs + 1)]
    ratios = [without[0] / with_it[0] for without, with_it in pairs]
    return {
        "ratio_median": round(statistics.median(ratios), 3), "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "loss_difference": _difference(pairs, 1), "gradient_norm_difference": _difference(pairs, 2),
        "seconds": [round(statistics.median(pair[number][0] for pair in pairs), 4) for number in range(2)],
        "peak_bytes": [side.peak for side in sides],
    }  # fmt: skip


def _difference(pairs: list[list[tuple[float, float, float]]], place: int) -> float:
    """The largest relative one."""
    return max(abs(without[place] - with_it[place]) / abs(without[place]) for without, with_it in pairs)


def clock(gpu: bool) -> float:
    """On a CPU the process's own seconds: what others do on a shared machine does not count, a wait does not either."""
    return time.perf_counter() if gpu else time.process_time()


def freed() -> None:
    """What the last models held, which refer to themselves and would wait for Python's collector."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Side:
    """A model that is set one way, its optimizer, and the rows. `beside` is a side whose base it trains on as well."""

    def __init__(self, job: Job, beside: "Side | None" = None):
        torch.manual_seed(1)
        self.plan, self.device, self.peak = planned(job), torch.device("cuda" if job.gpu else "cpu"), 0
        base = random_base(
            job.architecture, job.quantization, self.device, DTYPES[self.plan.precision], self.plan.attention,
            beside.weights if beside else None,
        )  # fmt: skip
        self.weights = {name: parameter.data for name, parameter in base.named_parameters()}
        torch.manual_seed(2)  # the adapter is the same, whether the base was drawn or not
        self.model = adapt(base, self.plan).to(self.device).train()
        extra = self.plan.spec.training.extra
        if extra.get("use_liger_kernel"):
            apply_liger_kernel(self.model, extra["liger_kernel_config"])
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        fused = self.plan.optimizer == "adamw_torch_fused"
        self.optimizer = torch.optim.AdamW(self.trained, lr=2e-4, fused=fused)
        self.collate = collator(self.plan, 0)
        with tempfile.TemporaryDirectory() as folder:
            data = written(Path(folder, "rows"), rows(job), job.max_length)
            self.rows = [copy.deepcopy(data[number]) for number in range(len(data))]

    def step(self, number: int) -> tuple[float, float, float]:
        """(seconds, loss, the gradients' norm) of one optimizer step on one sequence."""
        torch.manual_seed(number)  # dropout drops the same on both sides, on a CPU
        batch = self.collate([self.rows[number % len(self.rows)]])
        batch.pop("indices")
        batch = {name: value.to(self.device) if torch.is_tensor(value) else value for name, value in batch.items()}
        gpu = self.device.type == "cuda"
        if gpu:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        began = clock(gpu)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=gpu):
            loss = self.model(**batch, num_items_in_batch=1000).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, 0.3)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if gpu:
            torch.cuda.synchronize()
            self.peak = max(self.peak, torch.cuda.max_memory_allocated())
        return clock(gpu) - began, float(loss.detach()), float(norm)


if __name__ == "__main__":
    main()
