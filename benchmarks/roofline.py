"""A training step on paper, where no GPU is at hand: its operations counted, each as long as its FLOPs or its bytes.

    python benchmarks/roofline.py [--gpu H100-80GB] [--model qwen2.5-7b] [--length 4096] [--set JSON] [--json FILE]

Forward and backward pass of one full sequence as muster trains it, on tensors without contents (torch's fake ones). An
operation takes the longer of its FLOPs at the rate that matrices reach and of what it reads and writes at the rate that
memory reaches; launches, communication, the optimizer and what a cache keeps are left out. A fused norm is one
operation in each pass, as torch's kernels on a GPU are. So it is an estimate, and no measurement: what counts is where
the time goes, and what a lever takes away. `--set` takes values of muster's spec by dotted key, and may be given more
than once; without it the levers are told one by one.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.jobs import Job, versions
from benchmarks.profile_step import family
from benchmarks.random_model import config_of
from benchmarks.throughput import planned
from launch.machine.hardware import Rates, parse_gpus
from launch.plan.throughput import flops_per_token
from training.model import norms
from training.model.attention import register
from training.model.loading import DTYPES, adapt

# Shares of the data sheet. Matrices: the most that any shape reaches in bf16 (Bekman, "Machine Learning Engineering",
# maximum achievable matmul FLOPS: A100 0.87, H100 0.80, GH200 0.84). Attention: FlashAttention-2 on an H100
# (arXiv 2407.08608, abstract). Memory: BabelStream on A100 and H100.
MATRICES, ATTENTION, MEMORY = 0.8, 0.35, 0.9
# They make no pass over their elements, or are counted with what reads them.
FREE = ("device", "empty", "empty_like", "_unsafe_view", "_reshape_alias")
PEFT, FUSED = {"lora.implementation": "peft"}, {"lora.implementation": "fused"}
CHUNKED, WHOLE = {"training.loss": "chunked"}, {"training.gradient_checkpointing": False}
WAYS: list[dict[str, Any]] = [
    {**PEFT, "training.loss": "plain", "training.gradient_checkpointing": True},
    {**PEFT, "training.loss": "plain", **WHOLE},
    {**PEFT, **CHUNKED, **WHOLE},
    {**FUSED, **CHUNKED, **WHOLE},
    {**FUSED, **CHUNKED, **WHOLE, "model.norms": "fused"},
]


def main() -> None:
    options = _options()
    register()
    result: dict[str, Any] = {
        "gpu": options.gpu, "model": options.model, "length": options.length, "counted": True,
        "shares": {"matrices": MATRICES, "attention": ATTENTION, "memory": MEMORY}, **versions(), "ways": [],
    }  # fmt: skip
    for settings in map(json.loads, options.set) if options.set else WAYS:
        found = counted(options.model, options.length, options.gpu, settings)
        result["ways"].append({"settings": settings, **found})
        print(json.dumps(result["ways"][-1], indent=1), flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", default="H100-80GB")
    parser.add_argument("--model", default="qwen2.5-7b")
    parser.add_argument("--length", type=int, default=4096, help="tokens of the sequence")
    parser.add_argument("--set", action="append", help="values of muster's spec by dotted key, as JSON")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def counted(model: str, length: int, gpu: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a sequence's two passes, MFU, and shares of the time by family and by operation."""
    job = Job(model, True, "none", "fixed", max_length=length, settings=settings)
    topology = parse_gpus(gpu)
    plan = planned(job, topology)
    assert topology.rates is not None
    adapted = _without_contents(job, plan)
    ids = torch.zeros(1, length, dtype=torch.long)
    batch = {"input_ids": ids, "labels": ids, "position_ids": torch.arange(length)[None]}
    if plan.loss == "chunked":
        batch["label_positions"] = torch.arange(length - 1)
    kernel = patch.object(norms, "Norm", NormKernel)
    with kernel, FakeTensorMode(allow_non_fake_inputs=True), Count(topology.rates) as count:
        with torch.autocast("cpu", DTYPES[plan.precision]):
            loss = adapted(**batch, num_items_in_batch=length).loss
        loss.backward()
    seconds = count.seconds.total()
    needed = flops_per_token(job.architecture, plan.setting.adapter, length) * length
    families: Counter[str] = Counter()
    for (name, _), part in count.seconds.items():
        families[family(f"aten::{name}")] += part  # type: ignore[assignment]
    return {
        "seconds": round(seconds, 4), "mfu": round(needed / topology.rates.flops / seconds, 3),
        "tokens_per_second": round(length / seconds), "operations": count.operations,
        "families": {name: round(part / seconds, 3) for name, part in families.most_common()},
        "longest": {" ".join(key): round(part / seconds, 3) for key, part in count.seconds.most_common(10)},
    }  # fmt: skip


def _without_contents(job: Job, plan: Any) -> Any:
    """The model as muster trains it, of fake tensors on a CPU."""
    from transformers import AutoModelForCausalLM

    config = config_of(job.architecture)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(
            config, dtype=DTYPES[plan.precision], attn_implementation=plan.attention
        )
    base.model.rotary_emb = type(base.model.rotary_emb)(config)
    adapted = adapt(base, plan).train()
    with FakeTensorMode():
        for module in adapted.modules():
            for name, parameter in module.named_parameters(recurse=False):
                fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                module._parameters[name] = torch.nn.Parameter(fake, requires_grad=parameter.requires_grad)
    return adapted


@torch.library.custom_op("on_paper::rms_norm", mutates_args=())
def _norm(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("on_paper::rms_norm_backward", mutates_args=())
def _norm_backward(gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:  # noqa: ARG001 - which it reads
    return torch.empty_like(x)


_norm.register_fake(torch.empty_like)
_norm_backward.register_fake(lambda _, x: torch.empty_like(x))


class NormKernel(torch.autograd.Function):
    """What a GPU's kernels of an RMS norm read and write; nothing is computed."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *_: Any) -> torch.Tensor:
        ctx.save_for_backward(x)
        return _norm(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _norm_backward(gradients[0], *ctx.saved_tensors), None, None


class Count(TorchDispatchMode):
    """Seconds of each operation, by its name and its result."""

    def __init__(self, rates: Rates):
        super().__init__()
        self.rates, self.operations = rates, 0
        self.seconds: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name, made = function.overloadpacket.__name__, [one for one in tree_leaves(result) if torch.is_tensor(one)]
        view = any(one.alias_info is not None and not one.alias_info.is_write for one in function._schema.returns)
        if view or name in FREE or not made:
            return result
        touched = [one for one in tree_leaves((args, kwargs)) if torch.is_tensor(one)] + made
        memory = sum(map(_bytes, touched)) / (MEMORY * self.rates.memory)
        computing = _flops(function, name, args, kwargs or {}, result)
        rate = self.rates.flops * (ATTENTION if "attention" in name else MATRICES)
        described = f"{str(made[0].dtype).removeprefix('torch.')} {'x'.join(map(str, made[0].shape))}"
        self.seconds[name, described] += max(computing / rate, memory)  # type: ignore[assignment]
        self.operations += 1
        return result


def _bytes(tensor: torch.Tensor) -> int:
    """What is read or written of it: an expanded dimension lies there once."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return torch.Size(sizes).numel() * tensor.element_size()


def _flops(function: Any, name: str, args: Any, kwargs: Any, result: Any) -> float:
    """Of a product of matrices, or of causal attention: half of the square forward, 2.5 times as much backward."""
    if "attention" in name:
        query = args[1] if "backward" in name else args[0]
        batch, heads, length, width = query.shape
        return 2.0 * batch * heads * length * length * width * (2.5 if "backward" in name else 1)
    counted = torch.ops.aten.addmm if name == "addmm_" else function.overloadpacket
    formula = flop_registry.get(counted)
    return float(formula(*args, **kwargs, out_val=result)) if formula else 0.0


if __name__ == "__main__":
    main()
