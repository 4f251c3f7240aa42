"""What DeepSpeed's ZeRO-3 gathers of a small model on two CPU ranks, module by module, and FSDP2 in all.

    python -m tests.training.model.gathered_weights CASES.json FILE

CASES.json is a list of {config, checkpointed, rank, targets, zero, fsdp2}; FILE gets for each {zero3, fsdp2}. `zero3`
has the last pass's [kind, elements]: F and B where a module begins, forward and backward, f and b where it ends, and
what is gathered then. `fsdp2` is how many elements it gathered in a pass, null where that was not asked for.
"""

import sys
from typing import Any

import torch

from tests.training.ranks.two_ranks import answer_all

# DeepSpeed knows the order from the second pass on; the third follows a step of the optimizer.
PASSES, ACCUMULATION = 4, 2


def answer(case: dict[str, Any], rank: int) -> dict[str, Any]:
    return {"zero3": recorded(case), "fsdp2": gathered_by_fsdp2(case) if case["fsdp2"] else None}


def made(case: dict[str, Any]) -> Any:
    """The model as training/model/loading.py makes it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from training.model.recompute import checkpoint_blocks

    config = AutoConfig.for_model(**case["config"])
    config.use_cache = False
    base = AutoModelForCausalLM.from_config(config)
    lora = LoraConfig(r=case["rank"], target_modules=case["targets"], lora_dropout=0.05, task_type="CAUSAL_LM")
    model = get_peft_model(base, lora).train()
    checkpoint_blocks(base, 0, case["checkpointed"])
    return model


def batch(case: dict[str, Any]) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, case["config"]["vocab_size"], (1, 16))
    return {"input_ids": ids, "labels": ids}


def gathered_by_fsdp2(case: dict[str, Any]) -> int:
    """As accelerate_configs/fsdp2.yaml has it: each block by itself, and what is outside of them together."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather

    model, counted = made(case), list[int]()
    for block in model.get_base_model().model.layers:
        fully_shard(block, reshard_after_forward=True)
    fully_shard(model, reshard_after_forward=True)
    plain = DefaultAllGather.__call__

    def counting(self: Any, output_tensor: torch.Tensor, *args: Any, **options: Any) -> Any:
        counted.append(output_tensor.nbytes // 4)  # fp32
        return plain(self, output_tensor, *args, **options)

    DefaultAllGather.__call__ = counting
    try:
        model(**batch(case)).loss.backward()
    finally:
        DefaultAllGather.__call__ = plain
    return sum(counted)


def recorded(case: dict[str, Any]) -> list[tuple[str, int]]:
    import deepspeed

    model = made(case)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    options = {
        "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": ACCUMULATION,
        "zero_optimization": {"stage": 3, "overlap_comm": True, "contiguous_gradients": True, **case["zero"]},
        "zero_allow_untested_optimizer": True,
    }  # fmt: skip
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(trained), config=options)
    rows = watch(engine)
    for _ in range(PASSES):
        rows.clear()
        engine.backward(engine(**batch(case)).loss)
        engine.step()
    kept = list(rows)
    engine.destroy()
    return kept


def watch(engine: Any) -> list[tuple[str, int]]:
    """The rows that a pass of the engine will make."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    coordinator = engine.optimizer.parameter_offload.get_param_coordinator()
    fetch, release = coordinator.fetch_sub_module, coordinator.release_sub_module
    parameters, rows = list(engine.module.parameters()), list[tuple[str, int]]()

    def gathered() -> int:
        return sum(p.ds_numel for p in parameters if p.ds_status != ZeroParamStatus.NOT_AVAILABLE)

    def fetching(module: Any, forward: bool) -> None:
        fetch(module, forward)
        rows.append(("F" if forward else "B", gathered()))

    def releasing(module: Any, forward: bool = False) -> None:
        release(module, forward)
        rows.append(("f" if forward else "b", gathered()))

    coordinator.fetch_sub_module, coordinator.release_sub_module = fetching, releasing
    return rows


if __name__ == "__main__":
    answer_all(answer, *sys.argv[1:])
