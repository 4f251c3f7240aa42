"""The forecast against a GPU: models of the real shapes with random weights, a step each, in a process of their own.

    python benchmarks/memory_gpu.py [--cases 7b-4096,...] [--json benchmarks/results/memory-NAME.json]
    python benchmarks/memory_gpu.py --cpu        a small model, to try the script where there is no GPU

Three numbers are compared, each with its own forecast: torch.cuda.max_memory_allocated, max_memory_reserved, and what
NVML says of the process. A step is two micro-batches, clipping and the optimizer, then an evaluation batch.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import check_names, result_file
from benchmarks.random_model import random_base
from launch.memory import Setting, adapter_of, forecast
from launch.model.architecture import Architecture, from_config
from launch.model.variants import VARIANTS
from launch.spec import LoraSpec, Optimizer, Quantization

TINY = {
    "model_type": "qwen2", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500, "max_position_embeddings": 4096,
}  # fmt: skip


class Case(NamedTuple):
    variant: str
    quantization: Quantization
    checkpointing: bool | int
    """Whether blocks are computed again, or of how many."""
    length: int
    packed: bool = False
    """A mask, and rows that reset their positions."""
    optimizer: Optimizer = "paged_adamw_32bit"
    fused: bool = False
    """Whether an adapted layer is one operation."""
    norms: bool = False
    """Whether an RMS norm is."""
    by_documents: bool = False
    """Whether attention is, with the loss in chunks: what muster has for a GPU, with the two above."""


CASES: dict[str, Case] = {
    "7b-512": Case("qwen2.5-7b", "none", True, 512),
    "7b-2048": Case("qwen2.5-7b", "none", True, 2048),
    "7b-4096": Case("qwen2.5-7b", "none", True, 4096),
    "7b-8192": Case("qwen2.5-7b", "none", True, 8192),
    "7b-4096-packed": Case("qwen2.5-7b", "none", True, 4096, packed=True),
    "7b-4096-kept": Case("qwen2.5-7b", "none", False, 4096),
    "7b-4096-kept-fused": Case("qwen2.5-7b", "none", False, 4096, fused=True),
    "7b-4096-kept-norms": Case("qwen2.5-7b", "none", False, 4096, fused=True, norms=True),
    "7b-4096-kept-ours": Case(
        "qwen2.5-7b", "none", False, 4096, packed=True, fused=True, norms=True, by_documents=True
    ),
    "7b-4096-half": Case("qwen2.5-7b", "none", 14, 4096),
    "7b-4096-half-packed": Case("qwen2.5-7b", "none", 14, 4096, packed=True),
    "7b-4096-kept-packed": Case("qwen2.5-7b", "none", False, 4096, packed=True),
    "7b-2048-torch": Case("qwen2.5-7b", "none", True, 2048, optimizer="adamw_torch"),
    "7b-4096-torch": Case("qwen2.5-7b", "none", True, 4096, optimizer="adamw_torch"),
    "7b-4096-kept-torch": Case("qwen2.5-7b", "none", False, 4096, optimizer="adamw_torch"),
    "7b-nf4-512": Case("qwen2.5-7b", "nf4", True, 512),
    "7b-nf4-4096": Case("qwen2.5-7b", "nf4", True, 4096),
    "7b-nf4-8192": Case("qwen2.5-7b", "nf4", True, 8192),
    "7b-nf4-4096-kept": Case("qwen2.5-7b", "nf4", False, 4096),
    "7b-nf4-4096-kept-fused": Case("qwen2.5-7b", "nf4", False, 4096, fused=True),
    "qwen-7b-2048": Case("qwen-7b", "none", True, 2048),
    "8b-qwen3-4096": Case("qwen3-8b", "none", True, 4096),
    "14b-512": Case("qwen2.5-14b", "none", True, 512),
    "14b-4096": Case("qwen2.5-14b", "none", True, 4096),
    "14b-8192": Case("qwen2.5-14b", "none", True, 8192),
    "14b-2048-half": Case("qwen2.5-14b", "none", 24, 2048),
    "14b-2048-kept": Case("qwen2.5-14b", "none", False, 2048),
    "14b-2048-torch": Case("qwen2.5-14b", "none", True, 2048, optimizer="adamw_torch"),
    "14b-4096-torch": Case("qwen2.5-14b", "none", True, 4096, optimizer="adamw_torch"),
    "14b-nf4-4096": Case("qwen2.5-14b", "nf4", True, 4096),
    "14b-nf4-8192": Case("qwen2.5-14b", "nf4", True, 8192),
}
TINY_CASES: dict[str, Case] = {
    "tiny-256-half": Case("tiny", "none", 1, 256),
    "tiny-256": Case("tiny", "none", True, 256),
    "tiny-256-packed": Case("tiny", "none", False, 256, packed=True, optimizer="adamw_torch"),
    "tiny-256-fused": Case("tiny", "none", False, 256, fused=True),
    "tiny-256-norms": Case("tiny", "none", False, 256, fused=True, norms=True),
    "tiny-256-ours": Case("tiny", "none", False, 256, packed=True, fused=True, norms=True, by_documents=True),
    "tiny-nf4-256": Case("tiny", "nf4", True, 256),
}
RANK, MICRO_BATCHES = 16, 2


def main() -> None:
    options = _options()
    known = TINY_CASES if options.cpu else CASES
    if options.one:
        print(json.dumps(measured(known[options.one], gpu=not options.cpu)))
        return
    rows: dict[str, dict[str, Any]] = {}
    machine: dict[str, Any] = {}
    for name in options.cases.split(",") if options.cases else known:
        rows[name] = _in_own_process(name, options.cpu)
        machine |= rows[name].pop("machine", {})  # this process leaves the GPU alone, or it would be measured, too
        print(_line(name, rows[name]), flush=True)
        if options.json:  # after each case, for a machine may be taken away
            options.json.write_text(json.dumps({"cases": rows, **machine}, indent=2) + "\n")
    if options.cpu:
        print("no GPU: nothing was measured, the script alone was tried")
    failed = [name for name, row in rows.items() if "failed" in row]
    if failed:
        sys.exit(f"{len(failed)} of {len(rows)} cases failed: {', '.join(failed)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare the memory forecast with a GPU.")
    parser.add_argument("--cases", help="names, separated by commas; all unless given")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--json", type=result_file)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    check_names(parser, "--cases", options.cases, TINY_CASES if options.cpu else CASES)
    return options


def _in_own_process(name: str, cpu: bool) -> dict[str, Any]:
    argv = [sys.executable, __file__, "--one", name, *(["--cpu"] if cpu else [])]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return {"failed": done.returncode}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _line(name: str, row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"{name:22} failed with exit code {row['failed']}"
    parts = []
    for key, size in row["measured"].items():
        expected = row["forecast"][key]
        told = "-" if size is None else f"{size / 2**30:6.2f} {expected / size - 1:+6.1%}"
        parts.append(f"{key.removesuffix('_bytes')} {told}")
    return f"{name:22} {', '.join(parts)}, peak in {row['phase']}, {row['seconds']} s a step"


def measured(case: Case, gpu: bool) -> dict[str, Any]:
    import torch

    architecture = from_config(TINY, "tiny") if case.variant == "tiny" else VARIANTS[case.variant].architecture
    lora = LoraSpec(rank=RANK)
    layers = architecture.layers if case.checkpointing is True else int(case.checkpointing)
    setting = Setting(
        strategy="single", world_size=1, micro_batch_size=1, max_length=case.length, gradient_checkpointing=layers > 0,
        checkpointed_layers=layers, precision="bf16", gpu=gpu, adapter=adapter_of(architecture, lora),
        quantization=case.quantization, masked=case.packed, optimizer=case.optimizer, fused_lora=case.fused,
        fused_norms=case.norms, attention="varlen" if case.by_documents else "sdpa", chunked_loss=case.by_documents,
    )  # fmt: skip
    expected = forecast(architecture, setting)
    before = _used() if gpu else None
    device = torch.device("cuda" if gpu else "cpu")
    model = _model(architecture, case, layers, lora, device)
    seconds = _train(model, architecture, case, device)
    return {
        "forecast": {key: getattr(expected, key) for key in ("peak_bytes", "reserved_bytes", "process_bytes")},
        "measured": _memory(gpu, before), "phase": expected.phase, "seconds": round(seconds, 3),
        "machine": _versions(gpu),
    }  # fmt: skip


def _model(architecture: Architecture, case: Case, layers: int, lora: LoraSpec, device: Any) -> Any:
    """As training/model/loading.py builds it."""
    import torch
    from peft import get_peft_model

    from training.model.attention import register
    from training.model.fused import fuse
    from training.model.loading import lora_config
    from training.model.loss import chunk_loss
    from training.model.norms import fuse_norms
    from training.model.recompute import checkpoint_blocks

    register()
    attention = "varlen" if case.by_documents else "sdpa"
    base = random_base(architecture, case.quantization, device, torch.bfloat16, attention)
    model = get_peft_model(base, lora_config(lora))
    if case.fused:
        fuse(model)
    if case.norms:
        fuse_norms(model)
    checkpoint_blocks(model.get_base_model(), 0, layers)
    if case.by_documents:
        chunk_loss(model.get_base_model())
    return model.train()


def _train(model: Any, architecture: Architecture, case: Case, device: Any) -> float:
    """Seconds of the last of three optimizer steps, as transformers' Trainer makes them on one device."""
    import torch

    kind: Any = torch.optim.AdamW
    if case.optimizer == "paged_adamw_32bit":
        from bitsandbytes.optim import PagedAdamW32bit

        kind = PagedAdamW32bit
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    update = kind(trained, lr=1e-4)
    rows = _batch(case, architecture, device)
    autocast = torch.autocast(device.type, torch.bfloat16)
    taken = 0.0
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(MICRO_BATCHES):
            with autocast:
                result = model(**rows)
                loss = result.loss
            del result
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.3)
        update.step()
        update.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken = time.perf_counter() - began
    with torch.no_grad(), autocast:
        model.eval()(**rows)
    return taken


def _batch(case: Case, architecture: Architecture, device: Any) -> dict[str, Any]:
    """One row; where packed, of four documents of a length."""
    import torch

    from training.model.collate import Collator

    ids = torch.randint(0, architecture.vocab_size, (case.length,))
    spans = [case.length // 4] * 4 if case.packed else [case.length]
    collate = Collator(0, case.packed, case.by_documents, case.by_documents, masks_by_name=True)
    batch = collate([{"index": 0, "input_ids": ids, "labels": ids, "lengths": spans}])
    batch.pop("indices")
    return {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}


def _memory(gpu: bool, before: int | None) -> dict[str, int | None]:
    """`before`: bytes of the GPU that were taken when nothing of this process was there."""
    import torch

    if not gpu:
        return {"peak_bytes": None, "reserved_bytes": None, "process_bytes": None}
    used = None
    with contextlib.suppress(Exception):
        import pynvml

        handle = pynvml.nvmlDeviceGetHandleByIndex(torch.cuda.current_device())
        own = [p.usedGpuMemory for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle) if p.pid == os.getpid()]
        # In a container a process does not know its pid on the host: alone on the GPU it is what was added. NVML counts
        # what the driver keeps for itself as used.
        used = own[0] if own and own[0] else (_used() or 0) - (before or 0)
    return {
        "peak_bytes": torch.cuda.max_memory_allocated(), "reserved_bytes": torch.cuda.max_memory_reserved(),
        "process_bytes": used,
    }  # fmt: skip


def _used() -> int | None:
    """Bytes of the first GPU, by NVML, which makes no context on it."""
    with contextlib.suppress(Exception):
        import pynvml

        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)
    return None


def _versions(gpu: bool) -> dict[str, Any]:
    import torch

    found = {"device": torch.cuda.get_device_name() if gpu else "cpu", "date": time.strftime("%Y-%m-%d")}
    for package in ("torch", "transformers", "peft", "bitsandbytes"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found | {"cuda": torch.version.cuda}


if __name__ == "__main__":
    main()
