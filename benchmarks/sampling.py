"""What the sampler of a node costs: its share of a core, its memory, and its effect on a training's steps.

    python benchmarks/sampling.py [--seconds 60] [--pairs 90] [--real-time] [--json benchmarks/results/sampling.json]

The GPUs are tests/fake_nvml's: the calls go through nvidia-ml-py into a C library, but no driver works behind them. The
counters of PCIe traffic take their 20 ms each, asleep.

The step time is of AdapterTrainer on a small model and packed rows, so that every step is as long. It and the sampler
are held to one core, so that whatever the sampler takes, it takes from the training. In one training the sampler runs
and is halted (SIGSTOP) by turns; printed is the median of the ratios of neighbours, of time by the clock and of the
training's own CPU time a step. The first feels everything else that the machine does (see load_average); the second
less so, and lacks the sampler's own time, which share_of_a_core has. --real-time (as root) gives both a real-time
priority, the sampler the higher one: then nobody else takes that core, and the sampler takes it at once. It samples
every second there, five times as often as by default; `at_the_default_95` is a fifth of what that adds.
"""

import argparse
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from launch.errors import MusterError
from launch.machine.discover import topology
from launch.model.files import read_architecture
from launch.plan import resolve
from launch.rundir import RunDir
from launch.spec.file import parse_spec
from tests import fake_nvml
from tests.conftest import make_base, write_rows
from training.data.encoding.template import ChatFiles
from training.data.encoding.tokenizer import load_tokenizer
from training.data.sequences.tokens import prepare
from training.loop.arguments import training_arguments
from training.loop.trainer import AdapterTrainer
from training.model.loading import load
from training.ranks.control import Control
from training.ranks.engine import connect, launched

ROOT = Path(__file__).resolve().parent.parent
SETTLE = 1.5  # seconds after which imports are over
EVERY, DEFAULT = 1.0, 5.0  # seconds from one sample to the next: in this training, and by default
BLOCK = 1.0  # seconds of training with the sampler, then without it


def start(folder: Path, gpus: int, seconds: float) -> "subprocess.Popen[bytes]":
    """The sampler on a machine with 8 GPUs, or without a driver."""
    changes = {"delay.nvmlDeviceGetPcieThroughput": 20}
    driver = fake_nvml.environment(folder / "fake", "h100x8", changes) if gpus else {}
    argv = ["-m", "launch.sampling", str(folder), "--gpus", str(gpus), "--seconds", str(seconds)]
    return subprocess.Popen(
        [sys.executable, *argv], stdin=subprocess.PIPE, env={**os.environ, **driver, "PYTHONPATH": str(ROOT)}, cwd=ROOT
    )


def cpu_seconds(pid: int) -> float:
    """User and system time of all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def ticks(pid: int) -> float:
    """The same of the process as the kernel accounts it, ended threads included, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def share(gpus: int, every: float, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        process = start(Path(name), gpus, every)
        time.sleep(SETTLE)
        began, before, started = time.monotonic(), ticks(process.pid), cpu_seconds(process.pid)
        time.sleep(seconds)
        wall, used = time.monotonic() - began, ticks(process.pid) - before
        resident = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        rows = len((Path(name) / "resources.jsonl").read_text().splitlines())
    return {
        "gpus": gpus, "sample_seconds": every, "wall_seconds": round(wall, 1), "rows": rows,
        "cpu_seconds": round(used, 2), "share_of_a_core": round(used / wall, 5),
        "start_up_cpu_seconds": round(started, 3), "resident_bytes": resident,
    }  # fmt: skip


class Turns(TrainerCallback):
    """Halts the sampler and lets it go on, block by block; ends the training after enough of them."""

    def __init__(self, pid: int, pairs: int):
        self.pid, self.blocks_wanted = pid, 2 * pairs + 2
        self.blocks: list[tuple[bool, float, float]] = []
        """Whether the sampler ran, and the mean seconds of a step: by the clock, and of this process's CPU."""
        self.runs = True
        self.begin()

    def begin(self) -> None:
        self.steps, self.began, self.cpu = 0, time.perf_counter(), time.process_time()

    def on_step_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
        self.steps += 1
        passed = time.perf_counter() - self.began
        if passed >= BLOCK:
            self.blocks.append((self.runs, passed / self.steps, (time.process_time() - self.cpu) / self.steps))
            # Pairs are on-off, off-on, ...: a machine that slows down steadily favours neither.
            if len(self.blocks) % 2:
                self.runs = not self.runs
                os.kill(self.pid, signal.SIGCONT if self.runs else signal.SIGSTOP)
            self.begin()
        control.should_training_stop = len(self.blocks) >= self.blocks_wanted


def ratios(blocks: list[tuple[bool, float, float]], value: int) -> dict[str, Any]:
    """With the sampler over without it, pair by pair; the first pair warms up."""
    found = []
    for first, second in zip(blocks[2::2], blocks[3::2], strict=False):
        with_it, without = (first, second) if first[0] else (second, first)
        found.append(with_it[value] / without[value])
    low, high = interval(found)
    return {
        "ratio_median": round(statistics.median(found), 5), "ratio_median_95": [round(low, 5), round(high, 5)],
        "at_the_default_95": [round(1 + (bound - 1) * EVERY / DEFAULT, 5) for bound in (low, high)],
        "ratio_min": round(min(found), 4), "ratio_max": round(max(found), 4),
    }  # fmt: skip


def interval(values: list[float]) -> tuple[float, float]:
    """95 % of the medians of resampled values (bootstrap)."""
    draw = random.Random(0)  # noqa: S311
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(5000))
    return medians[125], medians[-126]


def effect(pairs: int, real_time: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        run, base = RunDir(Path(name)), Path(name, "base")
        make_base(base, intermediate_size=512)
        write_rows(Path(name, "train.jsonl"), 256, "train")
        spec = parse_spec(
            f"name: sampling\nmodel: {{variant: {base}}}\nlora: {{dropout: 0.0}}\n"
            f"data: {{train: {name}/train.jsonl, max_length: 256, packing: true}}\n"
            "training: {max_steps: 1000000, micro_batch_size: 2, gradient_accumulation_steps: 1,"
            " optimizer: adamw_torch, warmup_ratio: 0.0}\n",
            "sampling",
        )
        plan = resolve(spec, read_architecture(str(base)), topology(spec.cluster))
        connect(plan, launched())
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        torch.set_num_threads(1)
        tokenizer = load_tokenizer(str(base))
        rows = prepare(spec.data, ChatFiles.of(tokenizer), Path(name), writer=True).train
        arguments = training_arguments(plan, run, len(rows), False, None, resuming=True)
        arguments.save_strategy = "no"
        model = load(plan)
        trainer = AdapterTrainer(plan, run, Control(0, 1, run.stop), model, tokenizer, arguments, rows, None)
        sampler = start(Path(name), 8, EVERY)
        if real_time:  # threads that they start later inherit it
            os.sched_setscheduler(sampler.pid, os.SCHED_RR, os.sched_param(2))
        time.sleep(SETTLE)
        if real_time:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        turns = Turns(sampler.pid, pairs)
        trainer.add_callback(turns)
        try:
            trainer.train()
        finally:
            if real_time:
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            sampler.kill()
    return {
        "clock": ratios(turns.blocks, 1), "cpu": ratios(turns.blocks, 2), "pairs": pairs, "block_seconds": BLOCK,
        "sample_seconds": EVERY, "step_ms": round(1000 * statistics.median(block[1] for block in turns.blocks), 2),
        "load_average": round(os.getloadavg()[0], 1), "real_time": real_time,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pairs", type=int, default=90)
    parser.add_argument("--real-time", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    result = {
        "with_8_gpus": share(8, 5.0, options.seconds),
        "with_8_gpus_every_second": share(8, 1.0, options.seconds),
        "without_gpus": share(0, 5.0, options.seconds),
        "limits": {"share_of_a_core": 0.01, "step_time": 1.005},
        "step_time": effect(options.pairs, options.real_time),
        "cores": cores, "machine": platform.processor() or platform.machine(),
        "nvml": "tests/fake_nvml, h100x8", "nvidia_ml_py": version("nvidia-ml-py"), "psutil": version("psutil"),
        "torch": torch.__version__, "python": platform.python_version(), "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except MusterError as error:
        raise SystemExit(str(error)) from None
