"""What DeepSpeed's engines make of a step's micro-batches in bf16, on two CPU ranks.

    python -m tests.training.ranks.summed_gradients CASES.json FILE

CASES.json is a list of DeepSpeed configs, each with `saved`, PEFT's modules_to_save. FILE gets for each {error, sent,
buckets, gradients, resumed}: how far an update is from the fp32 mean of all ranks' micro-batches, relative to its norm;
the bytes of a micro-batch's collectives; those of the buckets and of a rank's summed gradients; and whether a run that
goes on from gathered states ends with the weights and moments of one that was never interrupted.
"""

import sys
from types import SimpleNamespace
from typing import Any

import torch

from launch.render import DECIDED
from tests.training.ranks.sent_bytes import Sent
from tests.training.ranks.two_ranks import answer_all

SHAPES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300, "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}  # fmt: skip
MICRO_BATCHES = 32


def answer(case: dict[str, Any], rank: int) -> dict[str, Any]:
    return {**measured(case, rank), "resumed": resumes(case, rank)}


def made(saved: list[str]) -> Any:
    """The model as DeepSpeed's engines compute with it, all in bf16; both matrices of each pair are in use."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen2", **SHAPES)
    config.use_cache = False
    lora = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM", modules_to_save=saved or None)
    model = get_peft_model(AutoModelForCausalLM.from_config(config), lora, autocast_adapter_dtype=False).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model.to(torch.bfloat16)


def batches(rank: int, count: int) -> list[dict[str, torch.Tensor]]:
    """Every second token is always the same: gradients have a common direction, as those of texts do."""
    generator = torch.Generator().manual_seed(rank)
    made = []
    for _ in range(count):
        ids = torch.randint(0, 300, (1, 24), generator=generator)
        ids[:, ::2] = torch.arange(12)
        made.append({"input_ids": ids, "labels": ids})
    return made


def started(config: dict[str, Any], accumulation: int, optimizer: Any, **options: float) -> Any:
    import deepspeed

    model = made(config["saved"])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sizes = dict(zip(DECIDED[:3], (2 * accumulation, 1, accumulation), strict=True))
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer(trained, **options),
        config={
            **{key: value for key, value in config.items() if key != "saved"}, **sizes, "gradient_clipping": 0.0,
            "zero_allow_untested_optimizer": True,
        },
    )  # fmt: skip
    return engine


def named(engine: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, parameter) for name, parameter in engine.module.named_parameters() if parameter.requires_grad]


def measured(config: dict[str, Any], rank: int) -> dict[str, Any]:
    from training.checkpoint.states import gather_adapter

    given = batches(rank, MICRO_BATCHES)
    sharded = config["zero_optimization"]["stage"] == 3
    expected = mean_by_engine(config, given) if sharded else mean(config["saved"], given)
    engine = started(config, MICRO_BATCHES, torch.optim.SGD, lr=1.0)
    before, sent, buckets = gather_adapter(named(engine)).copies(), list[int](), seen_buckets(engine.optimizer)
    for batch in given:
        loss = engine(**batch).loss
        with Sent(2) as counted:
            engine.backward(loss)
        sent.append(counted.bytes["all-reduce"] + counted.bytes["reduce-scatter"])
        gradients = held(engine.optimizer)
        engine.step()
    after = gather_adapter(named(engine)).copies()
    engine.destroy()
    update = torch.cat([(before[name] - after[name]).flatten() for name in expected])
    wanted = torch.cat([gradient.flatten() for gradient in expected.values()])
    error = float((update - wanted).norm() / wanted.norm())
    return {"error": error, "sent": sent[-2], "buckets": max(buckets), "gradients": gradients}


def mean(saved: list[str], given: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Of a model without an engine."""
    model, total = made(saved), dict[str, torch.Tensor]()
    for batch in given:
        model.zero_grad()
        (model(**batch).loss / len(given)).backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                total[name] = total.get(name, 0) + parameter.grad.float()
    for gradient in total.values():
        torch.distributed.all_reduce(gradient.div_(2))
    return total


def mean_by_engine(config: dict[str, Any], given: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Of the engine's own micro-batches, each a step that changes nothing: ZeRO-3's linear layers round otherwise."""
    from deepspeed.utils import safe_get_full_grad

    engine, total = started({**config, "communication_data_type": "fp32"}, 1, torch.optim.SGD, lr=0.0), {}
    for batch in given:
        engine.backward(engine(**batch).loss)
        for name, parameter in named(engine):
            total[name] = total.get(name, 0) + safe_get_full_grad(parameter).float() / len(given)
        engine.step()
    engine.destroy()
    return total


def seen_buckets(zero: Any) -> list[int]:
    """Their bytes, whenever ZeRO-2 sends one, which it makes anew in each micro-batch; ZeRO-3 keeps its own."""
    rows, stage3 = list[int](), hasattr(zero, "grad_partitions_flat_buffer")
    name = "reduce_ready_partitions_and_remove_grads" if stage3 else "reduce_ipg_grads"
    reduce = getattr(zero, name)

    def watched(*args: Any, **options: Any) -> Any:
        buffers = [bucket.buffer for bucket in zero.ipg_buckets.values()]
        rows.append(sum(tensor.nbytes for buffer in buffers for tensor in ([buffer] if stage3 else buffer)))
        return reduce(*args, **options)

    setattr(zero, name, watched)
    return rows


def held(zero: Any) -> int:
    """Bytes of this rank's gradients."""
    if hasattr(zero, "grad_partitions_flat_buffer"):
        return int(zero.grad_partitions_flat_buffer.nbytes)
    return sum(tensor.nbytes for tensors in zero.averaged_gradients.values() for tensor in tensors or ())


def resumes(config: dict[str, Any], rank: int) -> bool:
    from training.checkpoint.states import gather_adapter, gather_optimizer, scatter_adapter, scatter_optimizer

    def step(engine: Any, number: int) -> None:
        for batch in batches(10 * number + rank, 2):
            engine.backward(engine(**batch).loss)
            engine.step()

    def states(engine: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], int]:
        moments, updates = gather_optimizer(SimpleNamespace(optimizer=engine.optimizer), named(engine))
        return gather_adapter(named(engine)).copies(), moments.copies(), updates

    whole = started(config, 2, torch.optim.AdamW, lr=1e-3)
    for number in (1, 2):
        step(whole, number)
    adapter, moments, updates = states(whole)
    second = started(config, 2, torch.optim.AdamW, lr=1e-3)
    step(second, 5)  # as the rehearsal does
    scatter_adapter(named(second), adapter)
    scatter_optimizer(SimpleNamespace(optimizer=second.optimizer), named(second), moments, updates)
    for engine in (whole, second):
        for number in (3, 4):
            step(engine, number)
    ended = [states(engine) for engine in (whole, second)]
    for engine in (whole, second):
        engine.destroy()
    same = [torch.equal(one[name], ended[1][part][name]) for part, one in enumerate(ended[0][:2]) for name in one]
    return updates == 2 and ended[0][2] == ended[1][2] == 4 and all(same)


if __name__ == "__main__":
    answer_all(answer, *sys.argv[1:])
