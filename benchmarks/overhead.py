"""Step time of `muster run`'s training loop against a bare PyTorch loop over the same model and batches.

    python benchmarks/overhead.py [--pairs 5] [--steps 30] [--json FILE]

One process. Both loops train copies of one small LoRA model on the same micro-batches with the same optimizer and
clipping, in turn (A B A B ...), so that a machine whose speed drifts slows both. Printed: the median of the ratios,
pair by pair. The muster side is AdapterTrainer as a worker runs it, with its recorder writing the ledger, metrics every
25 steps, and no checkpoint or evaluation inside the measured steps (neither is the loop's own).
"""

import argparse
import copy
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from launch.errors import MusterError
from launch.machine.discover import topology
from launch.model.files import read_architecture
from launch.plan import Plan, resolve
from launch.rundir import RunDir
from launch.spec.file import parse_spec
from training.data.encoding.template import ChatFiles
from training.data.encoding.tokenizer import load_tokenizer
from training.data.sequences.order import MicroBatches
from training.data.sequences.tokens import Sequences, prepare
from training.loop.arguments import training_arguments
from training.loop.trainer import AdapterTrainer
from training.model.collate import collator
from training.model.loading import load
from training.ranks.control import Control
from training.ranks.engine import connect, launched

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 3
MICRO_BATCH, ACCUMULATION = 2, 4
# By the wall, and of the process alone, which a machine that others use does not stretch. With OMP_NUM_THREADS=1 the
# second is what the work takes.
Times = tuple[float, float]


class StepClock(TrainerCallback):
    def __init__(self) -> None:
        self.times: list[Times] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(now())


def now() -> Times:
    return time.perf_counter(), time.process_time()


def bare_loop(model: Any, batches: list[list[dict[str, torch.Tensor]]], clip: float, rate: float) -> list[Times]:
    """The least that trains the same: forward, backward, clip, AdamW."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    model.train()
    times = []
    for step in batches:
        items = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in step)
        for batch in step:
            loss = model(
                **{name: value for name, value in batch.items() if name != "indices"},
                num_items_in_batch=torch.tensor(items),
            ).loss
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        optimizer.zero_grad()
        times.append(now())
    return times


def muster_loop(plan: Plan, model: Any, tokenizer: Any, rows: Sequences) -> list[Times]:
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        arguments = training_arguments(plan, run, len(rows), False, None, resuming=True)
        arguments.save_strategy = "no"
        trainer = AdapterTrainer(plan, run, Control(0, 1, run.stop), model, tokenizer, arguments, rows, None)
        clock = StepClock()
        trainer.add_callback(clock)
        trainer.train()
        return clock.times


def step_time(times: list[Times]) -> Times:
    """Mean seconds a step after the warm-up, by the wall and of the process."""
    steps = len(times) - 1 - WARM_UP
    return (times[-1][0] - times[WARM_UP][0]) / steps, (times[-1][1] - times[WARM_UP][1]) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    plan, base = planned(options.steps)
    connect(plan, launched())
    pairs = in_turn(plan, base, options.pairs)
    result = {
        **summary(pairs), "threads": torch.get_num_threads(), "pairs": options.pairs, "steps": options.steps,
        "cores": len(os.sched_getaffinity(0)), "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__, "python": platform.python_version(), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def planned(steps: int) -> tuple[Plan, str]:
    """The plan and its base's folder."""
    base = ROOT / "build/tiny-base"
    if not base.exists():
        raise SystemExit("build/tiny-base is missing; make it: python examples/tiny_base.py build/tiny-base")
    spec = parse_spec(
        f"name: overhead\nmodel: {{variant: {base}}}\nlora: {{dropout: 0.0}}\n"
        f"data: {{train: {ROOT}/examples/security-rag/train.jsonl, max_length: 2048, packing: false}}\n"
        f"training: {{max_steps: {steps}, micro_batch_size: {MICRO_BATCH}, gradient_accumulation_steps: {ACCUMULATION},"
        " optimizer: adamw_torch, warmup_ratio: 0.0}\n",
        "overhead",
    )
    return resolve(spec, read_architecture(str(base)), topology(spec.cluster)), str(base)


def in_turn(plan: Plan, base: str, pairs: int) -> list[tuple[Times, Times]]:
    """(muster, bare) seconds a step of each pair."""
    tokenizer, training = load_tokenizer(base), plan.spec.training
    with tempfile.TemporaryDirectory() as folder:
        rows = prepare(plan.spec.data, ChatFiles.of(tokenizer), Path(folder), writer=True).train
        batches = batched(plan, tokenizer, rows)
        original, found = load(plan), []
        for pair in range(pairs + 1):
            ours = step_time(muster_loop(plan, copy.deepcopy(original), tokenizer, rows))
            bare = step_time(
                bare_loop(copy.deepcopy(original), batches, training.max_grad_norm, training.learning_rate)
            )
            if pair:  # the first pair warms the machine up
                found.append((ours, bare))
                both = f"muster {ours[0] * 1000:.1f} ms, bare {bare[0] * 1000:.1f} ms a step"
                ratios = f"ratio {ours[0] / bare[0]:.3f}, by CPU seconds {ours[1] / bare[1]:.3f}"
                print(f"pair {pair}: {both}, {ratios}", file=sys.stderr)
    return found


def batched(plan: Plan, tokenizer: Any, rows: Sequences) -> list[list[dict[str, torch.Tensor]]]:
    """The micro-batches of each step, as muster's sampler and collator make them."""
    collate = collator(plan, tokenizer.pad_token_id)
    sampler = MicroBatches(len(rows), plan.spec.training.seed, 0, 1, MICRO_BATCH, ACCUMULATION)
    wanted = ACCUMULATION * (plan.spec.training.max_steps or 0)
    micro = [collate([rows[index] for index in indices]) for indices in list(sampler)[:wanted]]
    return [micro[start : start + ACCUMULATION] for start in range(0, len(micro), ACCUMULATION)]


def summary(pairs: list[tuple[Times, Times]]) -> dict[str, float]:
    """Ratios pair by pair, by the wall and of the process, and the seconds themselves."""
    wall, own = ([ours[kind] / bare[kind] for ours, bare in pairs] for kind in range(2))
    ours, bare = ([pair[side][0] for pair in pairs] for side in range(2))
    return {
        "ratio_median": round(statistics.median(wall), 4),
        "ratio_min": round(min(wall), 4), "ratio_max": round(max(wall), 4),
        "ratio_by_cpu_seconds": round(statistics.median(own), 4),
        "ratio_by_cpu_seconds_min": round(min(own), 4), "ratio_by_cpu_seconds_max": round(max(own), 4),
        "muster_ms": round(1000 * statistics.median(ours), 2), "bare_ms": round(1000 * statistics.median(bare), 2),
    }  # fmt: skip


if __name__ == "__main__":
    try:
        main()
    except MusterError as error:
        raise SystemExit(str(error)) from None
