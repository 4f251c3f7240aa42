"""Training on CPU cores that somebody else uses as well: how long torch's threads spin before they sleep.

    python benchmarks/contention.py [--pairs 5] [--json benchmarks/results/contention-cpu.json]

One small LoRA model is trained for some seconds with libgomp's own number of spins and with the one that `training`
sets, in turn, in processes of their own: on a machine that is left alone, and beside one process that computes all the
time on one of the cores. Printed are steps per second and the ratio, pair by pair.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SECONDS, NAME = 6.0, "GOMP_SPINCOUNT"
THEIRS = "300000"  # libgomp's own, where threads are no more than cores (libgomp manual, GOMP_SPINCOUNT)
BUSY = "while True: pass"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(steps_per_second())
        return
    from benchmarks.throughput import machine

    result = {**machine(cpu=True), "alone": paired(options.pairs)}
    with subprocess.Popen([sys.executable, "-c", BUSY]) as other:
        try:
            result["beside_a_busy_process"] = paired(options.pairs)
        finally:
            other.kill()
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def paired(pairs: int) -> dict[str, Any]:
    found = [(_measured({NAME: THEIRS}), _measured({})) for _ in range(pairs)]
    ratios = [ours / theirs for theirs, ours in found]
    return {
        "steps_per_second": [round(statistics.median(side), 2) for side in zip(*found, strict=True)],
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_min": round(min(ratios), 2), "ratio_max": round(max(ratios), 2),
    }  # fmt: skip


def _measured(variables: dict[str, str]) -> float:
    usual = {name: value for name, value in os.environ.items() if name not in (NAME, "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, __file__, "--one"], env={**usual, **variables}, capture_output=True, text=True, check=True
    )
    return float(done.stdout.splitlines()[-1])


def steps_per_second() -> float:
    """Of the process that asks, with a thread on each core; what was set is what `training` leaves in place."""
    import training  # before torch: it says how torch's threads wait

    assert training.__doc__
    from benchmarks.jobs import Job
    from benchmarks.levers import Side
    from training.model.attention import register

    register()
    side = Side(Job("small", False, max_length=512, accumulation=1, steps=8))
    side.step(0)
    began, number = time.monotonic(), 0
    while time.monotonic() - began < SECONDS:
        number += 1
        side.step(number)
    return number / (time.monotonic() - began)


if __name__ == "__main__":
    main()
