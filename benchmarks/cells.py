"""Every way to hold the base and every option of the adapter, under every strategy that may have it, on two CPU ranks.

    python benchmarks/cells.py [--out benchmarks/results/cells-cpu.json] [--only nf4,dora]

Each cell trains a few steps of a tiny model and is compared with one process by the losses of steps and evaluations.
What muster refuses is recorded with its words. Takes about half a minute a cell on two cores.
"""

import argparse
import json
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from launch.machine.discover import installed
from launch.spec import Strategy
from tests.conftest import Workspace, make_base, muster, read_rows, write_rows

STRATEGIES: tuple[Strategy, ...] = ("ddp", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload", "fsdp2")
NF4, INT8 = ({"model": {"quantization": name}} for name in ("nf4", "int8"))
CELLS: dict[str, dict[str, dict[str, Any]]] = {
    "nf4": NF4,
    "int8": INT8,
    "rslora": {"lora": {"use_rslora": True}},
    "dora": {"lora": {"use_dora": True}},
    "dora on nf4": {"lora": {"use_dora": True}, **NF4},
    "dora on int8": {"lora": {"use_dora": True}, **INT8},
    "pissa": {"lora": {"init_lora_weights": "pissa"}},
    "loftq on nf4": {"lora": {"init_lora_weights": "loftq"}, **NF4},
    "lora+": {"lora": {"loraplus_lr_ratio": 16.0}},
    "modules_to_save": {"lora": {"modules_to_save": ["embed_tokens", "lm_head"]}},
    "modules_to_save on nf4": {"lora": {"modules_to_save": ["embed_tokens", "lm_head"]}, **NF4},
    "layers_to_transform": {"lora": {"layers_to_transform": [1]}},
    "pattern": {"lora": {"target_modules": r".*layers\.0\..*(q|up)_proj"}},
    "bias": {"lora": {"bias": "all"}},
    "neftune": {"training": {"extra": {"neftune_noise_alpha": 5.0}}},
}
STEPS = {"max_steps": 4, "epochs": None, "save_steps": 4}
TOLERANCE = 1e-4
# NEFTune draws its noise on each rank: two ranks are another draw of it.
RANDOM = ("neftune",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default=",".join(CELLS), help="cells by name, with commas between them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = cells(Path(folder), arguments.only.split(","))
    result = {"date": str(date.today()), "hardware": "CPU, 2 ranks", "versions": installed(), "cells": found}
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    far = [
        f"{name} under {strategy}"
        for name, row in found.items()
        for strategy, cell in row.items()
        if "failed" in cell or (name not in RANDOM and cell.get("difference", 0) > TOLERANCE)
    ]
    sys.exit(f"not as one process: {', '.join(far)}" if far else 0)


def cells(root: Path, names: list[str]) -> dict[str, dict[str, dict[str, Any]]]:
    # bitsandbytes' CPU kernels want widths that are multiples of 64, as all real models have.
    make_base(root / "base", intermediate_size=128)
    write_rows(root / "train.jsonl", 42, "train")
    write_rows(root / "eval.jsonl", 9, "eval", first=1000)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name in names:
        reference = trained(root, name, "single")
        found[name] = {}
        for strategy in STRATEGIES:
            cell = trained(root, name, strategy)
            if "losses" in cell:
                pairs = zip(cell.pop("losses"), reference["losses"], strict=True)
                cell["difference"] = max(abs(one - other) / other for one, other in pairs)
            found[name][strategy] = cell
            print(f"{name} under {strategy}: {cell}", file=sys.stderr, flush=True)
    return found


def trained(root: Path, name: str, strategy: str) -> dict[str, Any]:
    """{losses}, {refused} or {failed} of one cell."""
    sections = json.loads(json.dumps(CELLS[name]))
    sections["training"] = {**STEPS, **sections.get("training", {})}
    sections["cluster"] = {"strategy": strategy, "devices_per_node": 1 if strategy == "single" else 2, "device": "cpu"}
    run = root / f"{name}-{strategy}".replace(" ", "-").replace("+", "plus")
    done = muster("run", Workspace(root).spec(run.name, **sections), "--run-dir", run)
    if done.code == 2:
        lines = [line.split(": ", 2)[-1] for line in done.err.splitlines() if line.startswith("error: ")]
        return {"refused": "; ".join(lines)}
    if done.code:
        return {"failed": done.err.strip().splitlines()[-2:]}
    rows = read_rows(run / "metrics.jsonl")
    return {"losses": [row["loss"] if "loss" in row else row["eval_loss"] for row in rows]}


if __name__ == "__main__":
    main()
