"""Seconds from `muster run` to the first step, and from a resume to the next one, above the libraries' own imports.

    python benchmarks/first_step.py [--runs 5] [--json benchmarks/results/first-step-cpu.json]

Whole processes, in turn: an interpreter that imports what a worker needs of torch, transformers, peft and accelerate,
without DeepSpeed and bitsandbytes, which this run has no use for, and ends; a run of the small model until its first
row in samples.jsonl, which is written when a step has ended; then kill -9 and the same command again, until the next
row. Targets: 3 s and 5 s above the imports.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.throughput import ROOT, machine

IMPORTS = (
    "import sys; sys.modules.update(bitsandbytes=None, deepspeed=None);"
    "import torch, peft, accelerate, safetensors.torch, datasets;"
    "from torch.distributed.fsdp import FSDPModule;"
    "from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, EarlyStoppingCallback, Trainer;"
    "from transformers.integrations import get_reporting_integration_callbacks"
)
SPEC = {
    "name": "first-step", "model": {"variant": str(ROOT / "build/tiny-base")},
    "data": {"train": str(ROOT / "examples/security-rag/train.jsonl"), "max_length": 1024},
    "training": {"micro_batch_size": 1, "gradient_accumulation_steps": 1, "max_steps": 10_000, "save_steps": 2,
                 "optimizer": "adamw_torch"},
    "cluster": {"devices_per_node": 1},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not (ROOT / "build/tiny-base").exists():
        raise SystemExit("build/tiny-base is missing; make it: python examples/tiny_base.py build/tiny-base")
    found: dict[str, list[float]] = {"imports": [], "first": [], "resumed": []}
    with tempfile.TemporaryDirectory() as folder:
        spec, run = Path(folder, "spec.yaml"), Path(folder, "run")
        spec.write_text(json.dumps(SPEC))  # JSON is YAML
        for number in range(options.runs + 1):
            taken = [imports(), until_step(spec, run, fresh=True), until_step(spec, run, fresh=False)]
            if number:  # the first one reads files that no cache has
                for name, seconds in zip(found, taken, strict=True):
                    found[name].append(seconds)
                print(" ".join(f"{name} {seconds:.2f}" for name, seconds in zip(found, taken, strict=True)), flush=True)
    result = {**machine(cpu=True), "runs": options.runs, **summary(found)}
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def summary(found: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, of the differences run by run."""
    result = {f"{name}_seconds": round(statistics.median(values), 2) for name, values in found.items()}
    for name in ("first", "resumed"):
        above = [whole - alone for whole, alone in zip(found[name], found["imports"], strict=True)]
        result[f"{name}_above_imports"] = round(statistics.median(above), 2)
    return result


def imports() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - began


def until_step(spec: Path, run: Path, fresh: bool) -> float:
    """Seconds until the ledger has a step of this attempt; a fresh run is killed once it has a checkpoint, too."""
    ledger, checkpoints, began = run / "samples.jsonl", run / "checkpoints", time.time()
    before = 0 if fresh else max(int(path.name.split("-")[1]) for path in checkpoints.glob("step-*"))
    resume, first = "never" if fresh else "auto", 0.0
    argv = [sys.executable, "-m", "launch", "run", str(spec), "--run-dir", str(run), "--resume", resume]
    with subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:  # fmt: skip
        while process.poll() is None and not (first and (not fresh or list(checkpoints.glob("step-*")))):
            # What an attempt before this one wrote does not count: a resume drops its rows beyond the checkpoint.
            own = ledger.exists() and ledger.stat().st_mtime > began
            if own and not first and _last_step(ledger) > before:
                first = time.time() - began
            time.sleep(0.01)
        if process.poll() is not None:
            raise SystemExit(f"the run ended with {process.returncode}: python -m launch diagnose {run}")
        os.killpg(process.pid, signal.SIGKILL)
    time.sleep(1)  # its workers die with it
    return first


def _last_step(ledger: Path) -> int:
    lines = ledger.read_text().splitlines()
    return json.loads(lines[-1])["step"] if lines else 0


if __name__ == "__main__":
    main()
