"""How long preflight takes, as a whole and check by check: python -m benchmarks.preflight [SPEC ...]

Whole processes, imports included; each the median of RUNS. The limit is 10 s on one node.
"""

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/preflight.json"
RUNS, LIMIT_SECONDS, SHOWN = 5, 10.0, 8


def measured(spec: str) -> dict[str, Any]:
    """Seconds of `muster preflight SPEC --json`, and of its slowest checks, which run beside one another."""
    wholes, checks = [], {}
    for _ in range(RUNS):
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "launch", "preflight", spec, "--json"], cwd=ROOT, capture_output=True, text=True
        )
        wholes.append(time.monotonic() - began)
        for check in json.loads(done.stdout)["checks"]:
            checks.setdefault(check["name"], []).append(check["seconds"])
    medians = {name: round(statistics.median(seconds), 3) for name, seconds in checks.items()}
    slowest = dict(sorted(medians.items(), key=lambda item: -item[1])[:SHOWN])
    return {"spec": spec, "seconds": round(statistics.median(wholes), 2), "checks": len(medians), "slowest": slowest}


def main(specs: list[str]) -> None:
    rows = [measured(spec) for spec in specs or ["examples/demo.yaml"]]
    for row in rows:
        print(f"{row['spec']}: {row['seconds']:.2f} s for {row['checks']} checks")
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
    main(sys.argv[1:])
