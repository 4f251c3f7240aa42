"""The base's shards with an adapter added to their weights, one shard at a time."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from launch.errors import UsageError
from launch.model.adapter import UNKNOWN, changed_base
from launch.model.weights import INDEX, weight_files
from launch.plan.trained import Trained
from launch.rundir import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from launch.wording import first_line

Tensors = dict[str, torch.Tensor]

PREFIX = "base_model.model."


def merge(trained: Trained, base: Path, out: Path, dtype: torch.dtype | None, tell: Callable[[str], None]) -> None:
    """Writes the base's shards into `out`, each weight with its share of the adapter, in `dtype` or the base's own.

    Raises UsageError for an adapter of a kind that cannot be merged, or one that is not of this base.
    """
    config = trained.adapter / ADAPTER_CONFIG
    odd = [key for key in UNKNOWN if trained.config.get(key)]
    if odd:
        raise UsageError(f"{config}: {odd[0]} is set; only LoRA, rsLoRA and DoRA are merged")
    changed = changed_base(trained.config)
    if changed:
        raise UsageError(f"{config}: {changed}")
    adapter = _read(trained.adapter / ADAPTER_WEIGHTS)
    left, size = set(adapter), 0
    for path in weight_files(base, original=False):
        merged: Tensors = {}
        for name, weight in _read(path).items():
            value, used = merged_weight(name, weight, adapter, trained.config)
            merged[name] = value.to(dtype or weight.dtype).contiguous()
            left -= used
        size += sum(tensor.nbytes for tensor in merged.values())
        save_file(merged, out / path.name, metadata={"format": "pt"})
        tell(f"{path.name}: {len(merged)} tensors")
    embeddings = sorted(name for name in left if "lora_embedding" in name)
    if embeddings:
        raise UsageError(f"{trained.adapter}: {embeddings[0]}: adapters of embeddings are not merged")
    if left:
        raise UsageError(
            f"{trained.adapter}: {len(left)} of its tensors belong to no weight of {base}, {min(left)} first; is this"
            " its base?"
        )
    if (base / INDEX).is_file():
        index = json.loads((base / INDEX).read_text(encoding="utf-8"))
        index["metadata"] = {**index.get("metadata", {}), "total_size": size}
        (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _read(path: Path) -> Tensors:
    try:
        tensors: Tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path}: cannot be read: {first_line(error)}") from None
    return tensors


def _check_shape(name: str, weight: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(weight.shape) != tuple(shape):
        raise UsageError(f"{name}: the adapter's is {list(shape)}, the base's {list(weight.shape)}; is this its base?")


def merged_weight(
    name: str, weight: torch.Tensor, adapter: Tensors, config: dict[str, Any]
) -> tuple[torch.Tensor, set[str]]:
    """A base tensor with the adapter added, in fp32 where it changed, and the adapter's tensors that went into it.

    W + s B A with s = alpha / r, or alpha / sqrt(r) for rsLoRA; DoRA then gives each row its own length (arXiv
    2402.09353, equation 5).
    """
    module, _, kind = name.rpartition(".")
    a, b = (f"{PREFIX}{module}.lora_{half}.weight" for half in "AB")
    whole = {key for key in (f"{PREFIX}{name}", f"{PREFIX}{module}.base_layer.{kind}") if key in adapter}
    for key in whole:  # trained whole: modules_to_save, a bias; or the weight under a pair, which PEFT saves of lm_head
        _check_shape(name, weight, adapter[key].shape)
        weight = adapter[key]
    if kind != "weight" or a not in adapter:
        return weight, whole
    rank = adapter[a].shape[0]
    _check_shape(name, weight, (adapter[b].shape[0], adapter[a].shape[1]))
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    value = weight.float() + scale * adapter[b].float() @ adapter[a].float()
    length = f"{PREFIX}{module}.lora_magnitude_vector"
    if length in adapter:
        return value * (adapter[length].float() / value.norm(dim=1)).unsqueeze(1), {a, b, length, *whole}
    return value, {a, b, *whole}
