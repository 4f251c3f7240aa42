"""The forecast against the memory that QwenLM published for Qwen-7B on A100-80GB (published_memory.json).

    python benchmarks/published_memory.py

Their GB are taken as 10^9 bytes and summed over the GPUs. What differs from a run of muster's: their code has one fused
projection of queries, keys and values, PyTorch was 2.0, and their Q-LoRA is AutoGPTQ's Int4 in fp16, not NF4.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from launch.memory import Setting, adapter_of, forecast
from launch.spec import LoraSpec
from launch.variants import VARIANTS

QWEN = VARIANTS["qwen-7b"].architecture


def main() -> None:
    rows = json.loads(Path(__file__).with_suffix(".json").read_text())["rows"]
    methods: dict[str, list[float]] = {}
    for row in rows:
        if row["mem_gb"] is None or row["method"] == "Full-parameter":
            continue
        expected = predicted(row) / 1e9
        error = expected / row["mem_gb"] - 1
        methods.setdefault(row["method"], []).append(error)
        print(f"{row['method']:17} {row['seq_len']:5} tokens {row['mem_gb']:6.1f} GB {expected:6.1f} GB {error:+6.1%}")
    for method, errors in methods.items():
        mean = sum(map(abs, errors)) / len(errors)
        print(f"{method}: mean error {mean:.1%}, largest {max(errors, key=abs):+.1%}")


def predicted(row: dict[str, Any]) -> int:
    whole: list[Any] = ["embed_tokens", "lm_head"] if "emb" in row["method"] else []
    setting = Setting(
        strategy="zero2" if "multinode" in row["method"] else "single", world_size=row["gpus"], micro_batch_size=1,
        max_length=row["seq_len"], gradient_checkpointing=True, precision="bf16", gpu=True, masked=False,
        adapter=adapter_of(QWEN, LoraSpec(rank=64, modules_to_save=whole)), optimizer="adamw_torch",
        quantization="nf4" if row["method"] == "Q-LoRA" else "none",
    )  # fmt: skip
    return forecast(QWEN, setting).process_bytes * int(row["gpus"])


if __name__ == "__main__":
    main()
