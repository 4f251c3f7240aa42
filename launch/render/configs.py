"""Plan -> accelerate YAML, DeepSpeed JSON and argv; and the shipped configs, which the same functions write.

A file that is rendered for a run holds numbers only. A shipped one holds DeepSpeed's "auto" where the value is the
spec's; the worker fills it in and refuses a number that contradicts the spec (complete_deepspeed).
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from launch.plan import Plan
from launch.render.sbatch import shipped as batch_scripts
from launch.spec import OFFLOADS, SUMS_FP32, ZERO_STAGES, KeyPath, Strategy
from launch.wording import printable

SHARED: tuple[Strategy, ...] = ("ddp", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload", "fsdp2")
AUTO = "auto"
# Sections of a DeepSpeed file that say what the plan decides; all others are free.
DECIDED = (
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
    "bf16", "fp16", "communication_data_type", "data_types",
)  # fmt: skip


def deepspeed_config(strategy: Strategy, plan: Plan | None = None) -> dict[str, Any]:
    """DeepSpeed's JSON for a ZeRO strategy; with a plan all values are numbers, without one the run's own are "auto".

    Buckets are hidden_size^2 elements as transformers' own "auto" makes them: DeepSpeed's default of 5e8 would cost 1
    to 2 GB that LoRA gradients never fill. There is no optimizer block, so that training.optimizer is what runs.
    """
    offload, stage = strategy in OFFLOADS, ZERO_STAGES[strategy]
    hidden = plan.architecture.hidden_size if plan else 0
    zero: dict[str, Any] = {"stage": stage}
    if stage > 1:  # stage 1 reduces once a step: there is nothing to overlap
        zero |= {"overlap_comm": True, "contiguous_gradients": True}
    zero["reduce_bucket_size"] = hidden**2 if plan else AUTO
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": int(0.9 * hidden**2) if plan else AUTO,
            "stage3_param_persistence_threshold": 10 * hidden if plan else AUTO,
            "stage3_gather_16bit_weights_on_model_save": True,
        }
        if offload:
            zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    config: dict[str, Any] = {
        "train_batch_size": plan.global_batch_size if plan else AUTO,
        "train_micro_batch_size_per_gpu": plan.micro_batch_size if plan else AUTO,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps if plan else AUTO,
        "gradient_clipping": plan.spec.training.max_grad_norm if plan else AUTO,
        "bf16": {"enabled": plan.precision == "bf16" if plan else AUTO},
        "fp16": {"enabled": plan.precision == "fp16" if plan else AUTO},
    }
    if strategy in SUMS_FP32 and (plan is None or plan.precision != "fp32"):
        config |= {"communication_data_type": "fp32", "data_types": {"grad_accum_dtype": "fp32"}}
    config["zero_optimization"] = zero
    if offload:
        # torch's AdamW steps the offloaded adapter: DeepSpeedCPUAdam must be compiled, and a few million parameters do
        # not need it.
        config["zero_force_ds_cpu_optimizer"] = False
    return config


def complete_deepspeed(given: dict[str, Any], plan: Plan) -> tuple[dict[str, Any], list[tuple[KeyPath, str]]]:
    """Somebody's DeepSpeed JSON with each "auto" filled in from the plan, and what in it contradicts the plan."""
    resolved = deepspeed_config(plan.strategy, plan)
    contradictions: list[tuple[KeyPath, str]] = [
        ((key,), f"a block that overrides {setting} in silence: remove it")
        for key, setting in (("optimizer", "training.optimizer"), ("scheduler", "training.lr_scheduler"))
        if key in given
    ]

    def fill(value: Any, ours: Any, path: KeyPath) -> Any:
        if isinstance(value, dict):
            return {
                key: fill(item, ours.get(key) if isinstance(ours, dict) else None, (*path, key))
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [fill(item, None, (*path, str(index))) for index, item in enumerate(value)]
        if value == AUTO:
            if ours is None:
                contradictions.append((path, '"auto", but the plan has no value for it; remove it'))
            return ours
        if path[0] in DECIDED and ours is not None and value != ours:
            contradictions.append((path, f"the file says {json.dumps(value)}, the plan says {json.dumps(ours)}"))
        return value

    completed = fill({key: value for key, value in given.items() if key != "comment"}, resolved, ())
    return _added(completed, {key: resolved[key] for key in DECIDED if key in resolved}), contradictions


def _added(given: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """With what the plan decides where the file says nothing, in its sections as well."""
    both = {**ours, **given}
    return {
        key: {**ours[key], **value} if isinstance(value, dict) and isinstance(ours.get(key), dict) else value
        for key, value in both.items()
    }


def accelerate_config(
    strategy: Strategy, nodes: int, devices_per_node: int, deepspeed_file: str | None = None
) -> dict[str, Any]:
    """The YAML that `accelerate launch --config_file` reads. Precision is not in it: it is the spec's."""
    kind = {"single": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(strategy, "DEEPSPEED")
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": kind,
        "num_machines": nodes,
        "num_processes": nodes * devices_per_node,
        "machine_rank": 0,
        "main_training_function": "main",
        "rdzv_backend": "static",
        "same_network": True,
        "use_cpu": False,
    }
    if nodes > 1:
        config["main_process_ip"] = "127.0.0.1"
        config["main_process_port"] = 29500
    if kind == "DEEPSPEED":
        config["deepspeed_config"] = {
            "deepspeed_config_file": deepspeed_file or f"ds_configs/{strategy}.json",
            "deepspeed_multinode_launcher": "standard",
            "zero3_init_flag": strategy.startswith("zero3"),
        }
    if kind == "FSDP":
        config["fsdp_config"] = {
            "fsdp_version": 2,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_cpu_ram_efficient_loading": False,
            "fsdp_offload_params": False,
            "fsdp_reshard_after_forward": True,
            "fsdp_state_dict_type": "FULL_STATE_DICT",
        }
    return config


def accelerate_text(config: dict[str, Any], command: str, note: str = "") -> str:
    comment = f"# {printable(command)}\n" + (f"# {note}\n" if note else "")
    return comment + yaml.safe_dump(config, sort_keys=False)


def deepspeed_text(config: dict[str, Any]) -> str:
    return json.dumps(config, indent=2) + "\n"


def shipped() -> dict[str, str]:
    """The files of accelerate_configs/, ds_configs/ and slurm/, by relative path. `python -m launch.render` writes
    them."""
    single = "accelerate_configs/single.yaml"
    note = "One GPU, or the CPU where there is none."
    files = {single: accelerate_text(accelerate_config("single", 1, 1), _by_hand(single), note)}
    for strategy in SHARED:
        name = f"accelerate_configs/{strategy}.yaml"
        zero = strategy.startswith("zero")
        where = " Start it in the folder that holds ds_configs/." if zero else ""
        note = f"Add --num_processes N for another number of devices.{where}"
        files[name] = accelerate_text(accelerate_config(strategy, 1, 8), _by_hand(name), note)
        several = f"accelerate_configs/{strategy}_multi_node.yaml"
        command = _by_hand(several, "--machine_rank RANK --main_process_ip HOST")
        size = "--num_machines and --num_processes (over all nodes) for another size."
        note = f"On each node, RANK 0 on HOST. {size}{where}"
        files[several] = accelerate_text(accelerate_config(strategy, 2, 8), command, note)
        if zero:
            config = {"comment": _by_hand(name), **deepspeed_config(strategy)}
            files[f"ds_configs/{strategy}.json"] = deepspeed_text(config)
    return files | batch_scripts()


def _by_hand(config: str, options: str = "") -> str:
    """What a person types in a clone, with SPEC in the place of a spec."""
    return " ".join(filter(None, ("accelerate launch --config_file", config, options, "-m training SPEC")))


def rendered(plan: Plan, deepspeed_file: Path) -> dict[str, str]:
    """The run's own files by name: accelerate.yaml, and deepspeed.json where DeepSpeed runs."""
    topology = plan.topology
    config = accelerate_config(plan.strategy, topology.nodes, topology.devices_per_node, str(deepspeed_file))
    accelerate_file, run_dir = deepspeed_file.with_name("accelerate.yaml"), deepspeed_file.parent.parent
    argv = ["accelerate", "launch", "--config_file", str(accelerate_file), "-m", "training", str(run_dir)]
    files = {accelerate_file.name: accelerate_text(config, shlex.join(argv))}
    if plan.zero_stage:
        files["deepspeed.json"] = deepspeed_text(deepspeed_config(plan.strategy, plan))
    return files


def launch_argv(plan: Plan, run_dir: Path, accelerate_file: Path, attempt: int, port: int, resume: str) -> list[str]:
    """The command that trains on this machine: plain Python for one process, accelerate launch for several."""
    return node_argv(plan, run_dir, accelerate_file, attempt, (None, port), resume, 0)


def node_argv(
    plan: Plan, run_dir: Path, accelerate_file: Path, attempt: int, meeting: tuple[str | None, int], resume: str,
    node_rank: int,
) -> list[str]:  # fmt: skip
    """One node's command. Ranks meet at the host and port of `meeting`; the host is None on one machine alone."""
    worker = ["training", str(run_dir), "--attempt", str(attempt), "--resume", resume]
    if plan.world_size == 1 and not plan.zero_stage:
        return [sys.executable, "-m", *worker]
    (host, port), nodes = meeting, plan.topology.nodes
    several = ["--num_machines", str(nodes), "--machine_rank", str(node_rank), "--main_process_ip", str(host)]
    return [
        # What `accelerate launch` runs, without importing its other commands.
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(accelerate_file),
        "--num_processes", str(plan.world_size), *(several if nodes > 1 else []),
        "--main_process_port", str(port), "-m", *worker,
    ]  # fmt: skip
