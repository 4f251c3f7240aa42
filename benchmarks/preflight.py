"""How long preflight takes, as a whole and check by check: python -m benchmarks.preflight

Whole processes, imports included; each the median of RUNS. The limit is 10 s on one node. Its GPUs are simulated
(tests/fake_nvml): a real driver's own answers come on top, up to two seconds a GPU without persistence.
"""

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import fake_nvml

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/preflight.json"
RUNS, LIMIT_SECONDS, SHOWN = 5, 10.0, 8
SIMULATED = "h100x8"


def measured(spec: str, machine: str, driver: Mapping[str, str]) -> dict[str, Any]:
    """Seconds of `muster preflight SPEC --json`, and of its slowest checks, which run beside one another. `driver` are
    the variables of a simulated one; none where there is none."""
    wholes, checks = [], {}
    for _ in range(RUNS):
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "launch", "preflight", spec, "--json"], cwd=ROOT, capture_output=True, text=True,
            env={**os.environ, **driver},
        )  # fmt: skip
        wholes.append(time.monotonic() - began)
        if not done.stdout:
            sys.exit(done.stderr)
        for check in json.loads(done.stdout)["checks"]:
            if check["status"] != "skipped":
                checks.setdefault(check["name"], []).append(check["seconds"])
    medians = {name: round(statistics.median(seconds), 3) for name, seconds in checks.items()}
    slowest = dict(sorted(medians.items(), key=lambda item: -item[1])[:SHOWN])
    whole = round(statistics.median(wholes), 2)
    return {"spec": spec, "machine": machine, "seconds": whole, "checks": len(medians), "slowest": slowest}


def main() -> None:
    with tempfile.TemporaryDirectory() as cache:
        driver = fake_nvml.environment(Path(cache), SIMULATED)
        rows = [
            measured("examples/demo.yaml", "this one", {}),
            measured("examples/qwen-14b-8gpu.yaml", f"simulated {SIMULATED}", driver),
        ]
    for row in rows:
        print(f"{row['spec']}, {row['machine']}: {row['seconds']:.2f} s for {row['checks']} checks")
        for name, seconds in row["slowest"].items():
            print(f"  {name:20} {seconds:.3f} s")
    found = {
        "date": datetime.date.today().isoformat(), "cores": os.cpu_count(), "python": platform.python_version(),
        "runs": rows,
    }  # fmt: skip
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    if any(row["seconds"] > LIMIT_SECONDS for row in rows):
        sys.exit(f"slower than {LIMIT_SECONDS:g} s")


if __name__ == "__main__":
    main()
