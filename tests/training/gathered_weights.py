"""What DeepSpeed gathers of a small model under ZeRO-3 on two CPU ranks, module by module.

    python -m tests.training.gathered_weights CASES.json FILE

CASES.json is a list of {config, checkpointing, rank, targets, zero}; FILE gets for each the last pass's [kind,
elements]: F and B where a module begins, forward and backward, f and b where it ends, and what is gathered then.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

# The third pass is the first of which DeepSpeed knows the order; the sixth follows a step of the optimizer.
PASSES, ACCUMULATION = 6, 2


def main(rank: int, port: int, cases: list[dict[str, Any]], file: str) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_SIZE="2", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), DS_ACCELERATOR="cpu",
    )  # fmt: skip
    torch.set_num_threads(1)
    import deepspeed

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    found = [recorded(case) for case in cases]
    if rank == 0:
        Path(file).write_text(json.dumps(found))


def recorded(case: dict[str, Any]) -> list[tuple[str, int]]:
    import deepspeed
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**case["config"])
    config.use_cache = False
    base = AutoModelForCausalLM.from_config(config)
    if case["checkpointing"]:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    lora = LoraConfig(r=case["rank"], target_modules=case["targets"], lora_dropout=0.05, task_type="CAUSAL_LM")
    model = get_peft_model(base, lora).train()
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
        ids = torch.randint(0, case["config"]["vocab_size"], (1, 16))
        engine.backward(engine(input_ids=ids, labels=ids).loss)
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
    from launch.local import free_port

    asked = json.loads(Path(sys.argv[1]).read_text())
    torch.multiprocessing.spawn(main, args=(free_port(), asked, sys.argv[2]), nprocs=2)
