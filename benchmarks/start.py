"""How long `muster --help` and `muster plan SPEC` take as whole processes, and whether either loads torch.

    python benchmarks/start.py [--runs 15] [--json FILE]

Printed: the median of the runs. Targets: 0.3 s for help, 0.5 s for a plan.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SPEC = ROOT / "examples/qwen-14b-8gpu.yaml"
COMMANDS = {
    "python_only": ["-c", "pass"],
    "help": ["-m", "launch", "--help"],
    "plan": ["-m", "launch", "plan", str(SPEC), "--gpus", "8xA100-80GB"],
}


def seconds(arguments: list[str]) -> float:
    """With compiled modules, as an installed package has them; the first run, which compiles, is not counted."""
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=usual, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the start of the command line.")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.runs + 1):  # in turn, so that a drift of the machine's speed meets all of them
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    result = {f"{name}_seconds": round(statistics.median(values[1:]), 3) for name, values in times.items()}
    result |= {f"{name}_seconds_max": round(max(values[1:]), 3) for name, values in times.items()}
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
    text = json.dumps(result | machine, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
