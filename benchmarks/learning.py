"""Whether a run has learnt: its last evaluation against the untrained base's.

make demo && python benchmarks/learning.py runs/demo      exits 1 unless the loss on unseen documents fell by 15 %
"""

import json
import sys
from pathlib import Path

LEAST = 0.15


def main() -> None:
    rows = map(json.loads, Path(sys.argv[1], "metrics.jsonl").read_text().splitlines())
    losses = {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row}
    before, after = losses[0], losses[max(losses)]
    fall = 1 - after / before
    result = {"eval_loss_before": before, "eval_loss_after": after, "fall": fall}
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))
    if fall < LEAST:
        raise SystemExit(f"the loss fell by {fall:.1%}, less than {LEAST:.0%}")


if __name__ == "__main__":
    main()
