"""Run directories as a run writes them, with known numbers and no training."""

import json
import math
from pathlib import Path
from typing import Any

from launch.evaluation.directory import Evaluation
from launch.machine.hardware import GIB
from launch.plan import Plan
from launch.rundir import RunDir
from launch.rundir.journal import append, write_json, write_text
from launch.spec import RunSpec
from tests.launch.conftest import plan_of, spec_of

START = 1_800_000_000.0
SPIKE, SPIKED = 37, 41.5  # a step, and its gradient norm


def spec(name: str = "night", **sections: dict[str, Any]) -> RunSpec:
    return spec_of("qwen2.5-7b-instruct", **sections).model_copy(update={"name": name})


def metrics(plan: Plan, step: int) -> dict[str, Any]:
    """A logged step: a loss that falls, and one spike of the gradient norm."""
    return {
        "step": step, "epoch": round(step / 40, 4),
        "loss": 2.0 * math.exp(-step / 40) + 0.7 + 0.05 * math.sin(step * 1.7),
        "learning_rate": 2e-4 * min(1.0, step / 10),
        "grad_norm": SPIKED if step == SPIKE else 0.4 + 0.1 * math.cos(step),
        "tokens": step * 65_000, "tokens_per_second": round(31_000 + 900 * math.sin(step / 3), 1), "step_seconds": 2.1,
        "data_seconds": 0.05, "compute_seconds": 1.9, "optimizer_seconds": 0.1, "communication_seconds": 0.2,
        "mfu": 0.41, "gpu_memory_peak_bytes": 30 * GIB + step, "gpu_memory_allocated_bytes": 28 * GIB,
        "gpu_memory_reserved_bytes": 33 * GIB, "process_memory_bytes": 6 * GIB, "skipped_steps": int(step >= SPIKE),
        "time": START + 20 + 2.1 * step,
    }  # fmt: skip


def samples(gpus: int, seconds: float) -> list[dict[str, Any]]:
    return [
        {
            "node": "n0", "time": START + second, "host_memory_used_bytes": 90 * GIB, "host_cpu_percent": 12.5,
            "gpu": gpu, "utilization": 93 - gpu if second % 60 else 4, "memory_used_bytes": 34 * GIB + gpu,
            "power_watts": 610.5, "temperature": 61 + gpu, "memory_total_bytes": 80 * GIB, "sm_clock_mhz": 1755,
            "memory_clock_mhz": 2619, "power_limit_watts": 700.0, "throttle_reasons": [],
            "nvlink_tx_bytes_per_second": 2 * GIB, "nvlink_rx_bytes_per_second": GIB,
        }
        for second in range(0, int(seconds), 5) for gpu in range(gpus)
    ]  # fmt: skip


STATISTICS = {
    "rows": 5100, "samples": 5000, "sequences": 640, "tokens": 2_500_000, "trainable_tokens": 400_000,
    "quarantined_rows": 100, "counts": {"shortened": 12},
}  # fmt: skip


def events(plan: Plan, steps: int) -> list[dict[str, Any]]:
    def at(step: float) -> float:
        return START + 20 + 2.1 * step

    return [
        {"event": "started", "time": START, "attempt": 1, "strategy": plan.strategy, "world_size": plan.world_size,
         "global_batch_size": plan.global_batch_size, "steps": steps, "data": STATISTICS,
         "evaluation_data": {**STATISTICS, "rows": 90, "samples": 90, "counts": {}}},
        {"event": "verified", "time": START + 5, "engine": plan.strategy, "world_size": plan.world_size,
         "precision": "bf16", "attention": "sdpa", "optimizer": plan.optimizer,
         "global_batch_size": plan.global_batch_size, "trainable_parameters": plan.adapter_parameters},
        *({"event": "saved", "time": at(step), "step": step, "seconds": 1.2, "bytes": 161_000_000}
          for step in range(25, steps + 1, 25)),
        {"event": "skipped", "time": at(SPIKE), "step": SPIKE, "reason": "the gradient norm is 90 times its median",
         "loss": 1.6, "grad_norm": SPIKED, "threshold": 5.0, "ids": ["row-7", "row-9"]},
        {"event": "warning", "time": at(60), "kind": "loss_flat", "step": 60, "message": "the loss has not fallen",
         "advice": "raise training.learning_rate"},
    ]  # fmt: skip


def write_run(root: Path, steps: int = 120, gpus: int = 2, name: str = "night", finished: bool = True,
              **sections: dict[str, Any]) -> RunDir:  # fmt: skip
    """A run on GPUs, finished or, as far as its directory tells, ended without a word."""
    place = RunDir(root)
    place.attempt(1).root.mkdir(parents=True)
    asked = spec(name, **sections)
    plan = plan_of(f"{gpus}xH100-80GB", spec=asked)
    write_text(place.spec, f"name: {name}\nmodel: {{variant: qwen2.5-7b-instruct}}\ndata: {{train: train.jsonl}}\n")
    write_text(place.plan, plan.model_dump_json())
    write_text(place.attempt(1).plan, plan.model_dump_json())
    write_json(place.preflight, {"verdict": "all 12 checks pass", "checks": [
        {"name": "packages", "status": "pass", "evidence": "torch 2.13.0, transformers 5.23.0"},
        {"name": "driver", "status": "pass", "evidence": "580.65.06 for CUDA 13.0"},
        {"name": "nccl", "status": "skipped", "evidence": "one process"}]})  # fmt: skip
    for row in metric_rows(plan, steps):
        append(place.metrics, row)
    for row in events(plan, steps):
        append(place.events, row)
    for row in samples(gpus, 20 + 2.1 * steps):
        append(place.resources, row)
    append(place.samples, {"step": steps, "epoch": 0, "ids": ["row-1"]})
    if finished:
        finish(place, steps)
    return place


def metric_rows(plan: Plan, steps: int, every: int = 40) -> list[dict[str, Any]]:
    """With an evaluation at step 0 and every so many steps."""
    rows = [{"step": 0, "epoch": 0, "eval_loss": 2.31, "time": START + 19.0}]
    for step in range(1, steps + 1):
        rows.append(metrics(plan, step))
        if step % every == 0:
            scores = {"eval_loss": 2.31 - step / 400, "eval_answer_f1": 0.3 + step / 1000, "eval_rouge_l": 0.25}
            rows.append({"step": step, "epoch": step / 40, **scores, "time": START + 20.5 + 2.1 * step})
    return rows


def finish(place: RunDir, steps: int) -> None:
    seconds = 20 + 2.1 * steps
    append(place.events, {"event": "finished", "time": START + seconds, "step": steps, "seconds": seconds, "tokens": 1})
    write_json(place.attempt(1).outcome, {"exit_code": 0, "class": "done", "reason": "done", "step": steps,
                                          "seconds": seconds, "nodes": [], "checks": []})  # fmt: skip
    place.adapter.mkdir()


def evaluate(
    place: RunDir, question: str = "Which port does SSH use?", answer: str = "Port 22 [d1].", number: str = "001",
    of: str = "adapter", **scores: object,
) -> None:  # fmt: skip
    """An evaluation of the adapter, or of what `of` names in the run's directory, with one question."""
    done = Evaluation(place.evaluations / number)
    done.root.mkdir(parents=True)
    numbers = {"loss": 2.31, "perplexity": 10.07, "answer_f1": 0.31, "rouge_l": 0.25, "citation_precision": None,
               "citation_recall": 0.5, "invented_citations": 3, "cut_off": 1}  # fmt: skip
    better = {**numbers, "loss": 1.2, "answer_f1": 0.72, "citation_precision": 0.9}
    whose = {"adapter_path": str(place.root / of), "questions": 1, "data": "eval.jsonl"}
    write_json(done.report, {**whose, "base": numbers, "adapter": better, **scores})
    row = {"id": "e1", "question": question, "reference": answer, "base": {"answer": "It is 80."},
           "adapter": {"answer": answer}}  # fmt: skip
    done.answers.write_text(json.dumps(row) + "\n")
