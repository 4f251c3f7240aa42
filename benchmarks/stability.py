"""The stability guard on the demo: false alarms over many healthy seeds, and what it decides where there is a fault.

python benchmarks/stability.py [SEEDS]     # 20 by default, a run on each core at a time: about a minute each
"""

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/stability-cpu.json"
EVENTS = ("skipped", "rolled_back", "learning_rate_lowered", "warning")
# Half the epoch has passed, and the loss has fallen from 5.2 to about 3.8.
NAN_GRADIENT = """\
if step == 24 and not hasattr(trainer, "poisoned"):
    trainer.poisoned = True
    module = [m for m in trainer.peft_model.modules() if hasattr(m, "lora_B")][3]
    def poison(module, inputs, output):
        handle.remove()
        output.register_hook(lambda gradient: gradient * float("nan"))
    handle = module.register_forward_hook(poison)
"""


def demo(folder: Path, name: str, *options: str, **variables: str) -> dict[str, Any]:
    """Trains, and tells what the guard did."""
    run = folder / name
    argv = [sys.executable, "-m", "launch", "run", str(ROOT / "examples/demo.yaml"), "--run-dir", str(run), *options]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    counted = {event: sum(row["event"] == event for row in events) for event in EVENTS}
    told = [row for row in events if row["event"] == "skipped"]
    return {
        "exit_code": done.returncode, "steps": max(row["step"] for row in rows), **counted,
        "skipped_steps": [row["step"] for row in told], "reasons": sorted({row["reason"] for row in told}),
        "eval_loss": [row["eval_loss"] for row in rows if "eval_loss" in row][-1],
    }  # fmt: skip


def noise() -> dict[str, Any]:
    """A row of a kind that no other has: its answer is noise, and several times as long as theirs."""
    text = "".join(chr(33 + (number * number * 7919) % 89) for number in range(1500))
    document = {"id": "d0", "text": "Noise."}
    return {"id": "noise", "question": "What is this?", "documents": [document], "answer": text}


def with_faults(folder: Path, pool: ThreadPoolExecutor) -> dict[str, Future[dict[str, Any]]]:
    sys.path.insert(0, str(ROOT))
    from tests.faults import before_steps

    poisoned = folder / "poisoned.jsonl"
    rows = (ROOT / "examples/security-rag/train.jsonl").read_text()
    poisoned.write_text(rows + json.dumps(noise()) + "\n")
    return {
        "an extreme row": pool.submit(demo, folder, "poisoned", "-s", f"data.train={poisoned}"),
        "a gradient that is not a number": pool.submit(
            demo, folder, "nan", **before_steps(folder / "fault", NAN_GRADIENT)
        ),
        "a learning rate 1000 times too high": pool.submit(demo, folder, "steep", "-s", "training.learning_rate=2.0"),
    }


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    subprocess.run([sys.executable, ROOT / "examples/tiny_base.py", ROOT / "build/tiny-base"], check=True)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(os.cpu_count()) as pool:
        folder = Path(name)
        broken = with_faults(folder, pool)
        sound = [pool.submit(demo, folder, f"seed-{seed}", "-s", f"training.seed={seed}") for seed in range(seeds)]
        faults = {fault: run.result() for fault, run in broken.items()}
        healthy = []
        for seed, run in enumerate(sound):
            healthy.append(run.result())
            print(json.dumps({"seed": seed, **healthy[-1]}), flush=True)
    alarms = sum(one[event] for one in healthy for event in EVENTS)
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "packages": {package: version(package) for package in ("torch", "transformers", "peft")},
        "healthy": {"seeds": seeds, "steps": sum(one["steps"] for one in healthy), "alarms": alarms},
        "faults": faults,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if alarms or any(one["exit_code"] for one in healthy):
        raise SystemExit(f"{alarms} false alarms")


if __name__ == "__main__":
    main()
