"""The planner's throughput against what others measured (published_memory.json, and those below).

    python benchmarks/published_throughput.py

UTILISATION and LAUNCH of launch/plan/throughput.py come from QwenLM's six rows of LoRA on 7B and from NeMo's; the other
36 had no part in it.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.published_memory import COMMON, METHODS, MODELS, adapter_as_theirs
from launch.machine.hardware import parse_gpus
from launch.memory import Setting, adapter_of
from launch.model.variants import VARIANTS
from launch.plan.throughput import throughput
from launch.spec import LoraSpec

QWENLM_ACCUMULATION = 8
QWENLM_NETWORK = 12.5e9  # bytes/s; not stated, and of no weight here
QWEN25_7B = VARIANTS["qwen2.5-7b"].architecture
# Of the models in the table the sizes that muster is for.
MUSTERS = ("Qwen-7B", "Qwen-14B")
# NVIDIA NeMo AutoModel's published LoRA benchmark: rank 16, one H100, 4096 tokens, no checkpointing.
NEMO_TOKENS_PER_SECOND = 14_110


def main() -> None:
    for row in json.loads(Path(__file__).with_name("published_memory.json").read_text())["rows"]:
        if row["method"] in METHODS and row["model"] in MUSTERS:
            low, expected, high = qwenlm(row)
            tell(f"A100 {row['model']} {row['method']} {row['seq_len']}", row["s_per_iter"], low, expected, high)
    low, expected, high = nemo()
    tell("H100 Qwen2.5-7B LoRA 4096 (NeMo)", 4096 / NEMO_TOKENS_PER_SECOND, low, expected, high)


def tell(name: str, measured: float, low: float, expected: float, high: float) -> None:
    within = "within the band" if low <= measured <= high else "outside the band"
    print(f"{name:40} {measured:6.2f} s {expected:6.2f} s {expected / measured - 1:+6.1%} {within}")


def qwenlm(row: dict[str, Any]) -> tuple[float, float, float]:
    """Seconds of an iteration: fewest, expected, most."""
    architecture = MODELS[row["model"]]
    setting = replace(
        COMMON, world_size=row["gpus"], max_length=row["seq_len"],
        adapter=adapter_as_theirs(architecture, row["method"]), **METHODS[row["method"]],
    )  # fmt: skip
    return _seconds(architecture, setting, "A100-80GB", row["nodes"], QWENLM_ACCUMULATION)


def nemo() -> tuple[float, float, float]:
    adapter = adapter_of(QWEN25_7B, LoraSpec(rank=16))
    setting = Setting(
        strategy="single", world_size=1, micro_batch_size=1, max_length=4096, gradient_checkpointing=False,
        precision="bf16", gpu=True, adapter=adapter,
    )  # fmt: skip
    return _seconds(QWEN25_7B, setting, "H100-80GB", 1, 1)


def _seconds(architecture: Any, setting: Setting, gpu: str, nodes: int, steps: int) -> tuple[float, float, float]:
    topology = parse_gpus(f"{setting.world_size // nodes}x{gpu}", nodes)
    found = throughput(architecture, setting, topology, steps, QWENLM_NETWORK)
    assert found is not None
    tokens = steps * setting.tokens * setting.world_size
    return tokens / found.high, found.step_seconds, tokens / found.low


if __name__ == "__main__":
    main()
