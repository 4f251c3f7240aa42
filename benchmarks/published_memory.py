"""The forecast against the memory that QwenLM published for LoRA on A100-80GB (published_memory.json).

    python benchmarks/published_memory.py [ROWS.json]

ROWS.json has `rows` of {model, method, gpus, nodes, seq_len, mem_gb}, mem_gb in 10^9 bytes, summed over the GPUs. What
they ran is not what muster runs, so each method is described below as their repository has it (QwenLM/Qwen, finetune/
and README.md, "Profiling of Memory and Speed"): these are facts of their software, the same for every row of a method.
Q-LoRA's rows do not judge the forecast: they are compared with gptq.py.
"""

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import zero3
from benchmarks.gptq import qlora_bytes
from launch.memory import Setting, adapter_of, forecast
from launch.memory.forecast import FRAMEWORK_BYTES
from launch.memory.setting import Adapter
from launch.model.architecture import Architecture
from launch.model.variants import VARIANTS
from launch.spec import LoraSpec

QWEN_7B, QWEN_14B = VARIANTS["qwen-7b"].architecture, VARIANTS["qwen-14b"].architecture
# The other two from their config.json on the hub.
SMALLEST = {"hidden_size": 2048, "layers": 24, "heads": 16, "kv_heads": 16, "intermediate_size": 5504}
LARGEST = {"hidden_size": 8192, "layers": 80, "heads": 64, "kv_heads": 64, "intermediate_size": 24576}
MODELS = {
    "Qwen-1.8B": QWEN_7B.model_copy(update=SMALLEST),
    "Qwen-7B": QWEN_7B,
    "Qwen-14B": QWEN_14B,
    "Qwen-72B": QWEN_14B.model_copy(update=LARGEST),
}
# finetune.py: rank 64 on c_attn, c_proj, w1 and w2, which are all linear layers of a block; torch's AdamW.
RANK = 64
# Micro-batch 1, every row padded to the length, which needs no mask. adapter_precision: PEFT gave adapters the type of
# their base until 0.8. logits_precision: their modeling_qwen.py casts no logits. update_copies: PyTorch 2.0.
COMMON = Setting(
    strategy="single", world_size=1, micro_batch_size=1, max_length=0, gradient_checkpointing=True, precision="bf16",
    gpu=True, masked=False, optimizer="adamw_torch", adapter_precision="bf16", logits_precision=None, update_copies=2,
)  # fmt: skip
# ds_config_zero2.json: reduce_bucket_size 2e8, twice with overlap_comm; its AdamW is DeepSpeed's FusedAdam.
# Gradients are added up in the run's type, as by default.
ZERO2: dict[str, Any] = {
    "strategy": "zero2", "bucket_elements": 200_000_000, "optimizer": "adamw_torch_fused", "fp32_sums": False,
}  # fmt: skip
QLORA, SHARDED = "Q-LoRA", "LoRA + ZeRO-3"
METHODS: dict[str, dict[str, Any]] = {
    # finetune_lora_single_gpu.sh: autocast computes the loss in fp32.
    "LoRA": {"logits_precision": "fp32"},
    "LoRA (emb)": {"logits_precision": "fp32"},
    # finetune_qlora_single_gpu.sh: fp16 under DeepSpeed, on a GPTQ base of 4 bits, which muster does not train. Its
    # rows are told by its own allocations, one by one (gptq.py); these settings are for published_throughput.py.
    QLORA: {**ZERO2, "precision": "fp16", "quantization": "nf4"},
    # finetune_lora_ds.sh, whose micro-batch is 2. The README says 1 for all, but its seconds per iteration are 1.75
    # times those of one GPU at every length, which neither a micro-batch of 1 nor the network explains.
    "LoRA (multinode)": {**ZERO2, "micro_batch_size": 2},
    # The same with ds_config_zero3.json, whose buckets are "auto" as muster's are: hidden_size^2 elements.
    SHARDED: {"strategy": "zero3", "optimizer": "adamw_torch_fused", "fp32_sums": False},
}
# What gptq.py does not explain of a GPU, fitted: one number for all Q-LoRA rows of four models.
UNEXPLAINED = 300_000_000


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".json")
    every = [row for row in json.loads(file.read_text())["rows"] if row["mem_gb"]]
    rows = [row for row in every if row["method"] in METHODS and row["model"] in MODELS]
    for name, count in Counter(f"{row['model']} {row['method']}" for row in every if row not in rows).items():
        print(f"{name}: {count} rows left out, of a model or a method that is not known here", file=sys.stderr)
    if not rows:
        sys.exit(f"{file}: no row is of {', '.join(MODELS)} with {', '.join(METHODS)}")
    errors: dict[str, list[float]] = {}
    for row in rows:
        expected = predicted(row) / 1e9
        error = expected / row["mem_gb"] - 1
        name = f"{row['model']} {row['method']}"
        errors.setdefault(name, []).append(error)
        print(f"{name:25} {row['seq_len']:5} tokens {row['mem_gb']:6.1f} GB {expected:6.1f} GB {error:+6.1%}")
    together = [error for found in errors.values() for error in found]
    for name, found in {**errors, "all rows": together}.items():
        print(f"{name}: mean error {_mean(found):.1%}, largest {max(found, key=abs):+.1%}")


def predicted(row: dict[str, Any]) -> int:
    """Bytes of all GPUs of a row."""
    architecture, devices = MODELS[row["model"]], int(row["gpus"])
    if row["method"] == QLORA:
        return (qlora_bytes(architecture, RANK, row["seq_len"]) + FRAMEWORK_BYTES + UNEXPLAINED) * devices
    setting = replace(
        COMMON, world_size=devices, max_length=row["seq_len"], adapter=adapter_as_theirs(architecture, row["method"]),
        **METHODS[row["method"]],
    )  # fmt: skip
    if row["method"] == SHARDED:
        setting = replace(setting, window=zero3.gathered(architecture, RANK))
    return forecast(architecture, setting).process_bytes * devices


def adapter_as_theirs(architecture: Architecture, method: str) -> Adapter:
    """Their c_attn makes queries, keys and values of one pair."""
    whole: list[Any] = ["embed_tokens", "lm_head"] if "emb" in method else []
    adapter = adapter_of(architecture, LoraSpec(rank=RANK, modules_to_save=whole))
    fused = 2 * RANK * architecture.hidden_size * architecture.layers
    return replace(adapter, pairs=adapter.pairs - fused)


def _mean(errors: list[float]) -> float:
    return sum(map(abs, errors)) / len(errors)


if __name__ == "__main__":
    main()
