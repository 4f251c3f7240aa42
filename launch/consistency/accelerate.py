"""An accelerate YAML against a plan."""

from collections.abc import Iterator
from typing import Any

from launch.consistency import keys
from launch.consistency.given import Given, Problem, nearest
from launch.plan import Plan
from launch.render import accelerate_config
from launch.spec import ZERO_STAGES, Strategy
from launch.wording import plural

# FSDP 1's own.
FSDP1 = (
    "fsdp_sharding_strategy", "fsdp_use_orig_params", "fsdp_sync_module_states", "fsdp_backward_prefetch",
    "fsdp_forward_prefetch",
)  # fmt: skip
NUMBERS = ("num_processes", "num_machines", "machine_rank", "main_process_port")
FLAGS = ("use_cpu", "same_network", "debug", "enable_cpu_affinity", "tpu_use_cluster", "tpu_use_sudo")
SECTIONS = {"deepspeed_config": "DEEPSPEED", "fsdp_config": "FSDP", "megatron_lm_config": "MEGATRON_LM"}
TPU = ("tpu_name", "tpu_zone", "tpu_use_cluster", "tpu_use_sudo", "tpu_vm", "tpu_env", "commands", "command_file")
CHANGES = {
    "parallelism_config": "muster trains with data parallelism alone",
    "mpirun_config": "ranks would be started by mpirun; muster's workers are torchrun's",
    "fp8_config": "training.precision decides the type that is computed in",
    "dynamo_config": "the whole model would be compiled; the spec's training.compile compiles each block",
    "dynamo_backend": "the whole model would be compiled; the spec's training.compile compiles each block",
}
DEEPSPEED, FSDP = "deepspeed_config", "fsdp_config"


def strategy(given: Given, deepspeed: Strategy | None) -> Strategy | None:
    """The one that it launches; for DeepSpeed that of its JSON. None for what muster does not train with."""
    match given.get("distributed_type"):
        case "NO":
            return "single"
        case "MULTI_GPU":
            return "ddp"
        case "FSDP":
            return "fsdp2"
        case "DEEPSPEED":
            return deepspeed
    return None


def problems(given: Given, plan: Plan, deepspeed: Strategy | None) -> Iterator[Problem]:
    """`deepspeed` is what the DeepSpeed file beside it launches."""
    yield from _keys(given)
    yield from _types(given)
    yield from _dead(given)
    yield from _devices(given, plan)
    yield from _processes(given)
    yield from _engine(given, plan, deepspeed)
    yield from _precision(given, plan)


def _section(given: Given, name: str) -> dict[str, Any]:
    found = given.get(name)
    return found if isinstance(found, dict) else {}


def _keys(given: Given) -> Iterator[Problem]:
    for key in given.values:
        if key not in keys.ACCELERATE:
            told = f"accelerate ends with an error on it{nearest(key, keys.ACCELERATE)}"
            yield given.says((key,), "unknown", told)
    for name, known in ((DEEPSPEED, keys.ACCELERATE_DEEPSPEED), (FSDP, keys.ACCELERATE_FSDP)):
        for key in _section(given, name):
            full = key if name != FSDP or key.startswith("fsdp") else f"fsdp_{key}"
            if full not in known:
                yield given.says((name, key), "unknown", f"accelerate reads no such key{nearest(full, known)}")


def _types(given: Given) -> Iterator[Problem]:
    for wanted, kind, name in ((NUMBERS, int, "whole number"), (FLAGS, bool, "true or false")):
        for key in wanted:
            value = given.get(key)
            if value is not None and type(value) is not kind:
                yield given.says((key,), "wrong", f"{value!r} is no {name}; write it without quotes")
    for key in ("gpu_ids", "mixed_precision"):
        value = given.get(key)
        if value is not None and not isinstance(value, str):
            told = f"YAML reads it as {str(value).lower()} and accelerate breaks on it; write it in quotes"
            yield given.says((key,), "wrong", told)
    for path, value in given.leaves():
        if value == "auto" and path != ("gpu_ids",):
            yield given.says(path, "wrong", 'accelerate knows no "auto" here; write the value')


def _dead(given: Given) -> Iterator[Problem]:
    kind = given.get("distributed_type")
    for section, owner in SECTIONS.items():
        if given.get(section) and kind != owner:
            yield given.says((section,), "dead", f"nothing reads it while distributed_type is {kind}")
    for key in TPU:
        if given.get(key) and kind != "XLA":
            yield given.says((key,), "dead", f"nothing reads it while distributed_type is {kind}: it is for TPUs")
    if given.get("downcast_bf16") not in (None, False, "no") and kind != "XLA":
        yield given.says(("downcast_bf16",), "dead", "nothing reads it but a TPU")
    for key, why in CHANGES.items():
        if given.get(key) not in (None, {}, "NO", "no"):
            yield given.says((key,), "contradiction", f"{why}; remove it")
    if given.get("rdzv_backend", default="static") not in ("static", "c10d", "etcd", "etcd-v2"):
        yield given.says(("rdzv_backend",), "wrong", f"torchrun knows no {given.get('rdzv_backend')}; use static")
    if given.get("num_machines", default=1) == 1:
        for key in ("main_process_ip", "machine_rank"):
            if given.get(key) not in (None, 0):
                yield given.says((key,), "dead", "nothing reads it while num_machines is 1")


def _devices(given: Given, plan: Plan) -> Iterator[Problem]:
    machines, processes, topology = given.get("num_machines", default=1), given.get("num_processes"), plan.topology
    planned = f"{plural(topology.nodes, 'node')} x {topology.devices_per_node} {topology.device_name}"
    if type(machines) is int and machines != topology.nodes:
        yield given.says(("num_machines",), "contradiction", f"the file says {machines}, the plan is for {planned}")
    if type(processes) is int and processes != plan.world_size:
        told = f"the file says {processes}, over all machines, the plan is for {planned}"
        yield given.says(("num_processes",), "contradiction", told)
    if given.get("use_cpu") is True and topology.device == "gpu" and given.get("distributed_type") == "NO":
        yield given.says(("use_cpu",), "contradiction", "the plan is for GPUs")


def _processes(given: Given) -> Iterator[Problem]:
    """What starts other processes than the file says, or none."""
    machines, processes = given.get("num_machines", default=1), given.get("num_processes")
    kind, rank, names = given.get("distributed_type"), given.get("machine_rank", default=0), given.get("gpu_ids")
    if kind == "NO" and type(processes) is int and processes > 1:
        told = f"distributed_type NO starts one process, not {processes}, and says nothing; use MULTI_GPU"
        yield given.says(("num_processes",), "wrong", told)
    if kind != "NO" and processes is None:
        yield given.says(("num_processes",), "wrong", "is missing: accelerate needs the processes of all machines")
    if given.get("use_cpu") is True and kind != "NO":
        told = f"nothing reads it with {kind}; for processes on the CPU set ACCELERATE_USE_CPU=1 (ZeRO needs nothing)"
        yield given.says(("use_cpu",), "dead", told)
    if type(machines) is int and type(rank) is int and not 0 <= rank < max(1, machines):
        yield given.says(("machine_rank",), "wrong", f"{rank} is no machine of {machines}; they count from 0")
    if type(machines) is int and machines > 1:
        if not given.get("main_process_ip"):
            told = "needs main_process_ip, the address of machine 0: without it all wait for one another"
            yield given.says(("num_machines",), "wrong", told)
        launcher = given.get(DEEPSPEED, "deepspeed_multinode_launcher")
        if kind == "DEEPSPEED" and launcher != "standard":
            told = f"{launcher or 'pdsh, the default'} would start workers over ssh; muster's are started on each node"
            yield given.says((DEEPSPEED, "deepspeed_multinode_launcher"), "contradiction", f"{told}: standard")
    if isinstance(names, str) and names != "all" and type(processes) is int and type(machines) is int:
        here = [name for name in names.split(",") if name.strip()]
        if len(here) * machines != processes:
            told = f"names {plural(len(here), 'GPU')} of each machine, num_processes is {processes} over {machines}"
            yield given.says(("gpu_ids",), "wrong", told)


def _engine(given: Given, plan: Plan, deepspeed: Strategy | None) -> Iterator[Problem]:
    kind, named = given.get("distributed_type"), strategy(given, deepspeed)
    if kind == "MULTI_CPU":
        told = "starts one process and says nothing; use MULTI_GPU with ACCELERATE_USE_CPU=1"
        yield given.says(("distributed_type",), "wrong", told)
    elif named is None and kind != "DEEPSPEED":
        told = f"muster does not train with {kind}; use NO, MULTI_GPU, FSDP or DEEPSPEED"
        yield given.says(("distributed_type",), "wrong", told)
    elif named is not None and named != plan.strategy:
        yield given.says(("distributed_type",), "contradiction", f"this is {named}, the plan is {plan.strategy}")
    if kind == "DEEPSPEED":
        yield from _deepspeed(given, ZERO_STAGES.get(deepspeed, 0) if deepspeed else None)
    if kind == "FSDP":
        yield from _fsdp(given, plan)


def _deepspeed(given: Given, stage: int | None) -> Iterator[Problem]:
    if not given.get(DEEPSPEED, "deepspeed_config_file"):
        told = "muster's workers need a DeepSpeed file, as accelerate_configs/zero2.yaml names one"
        yield given.says((DEEPSPEED,), "wrong", told)
    else:
        for key in keys.BESIDE_FILE:
            if given.has(DEEPSPEED, key):
                told = "accelerate refuses it beside deepspeed_config_file; it belongs into that file"
                yield given.says((DEEPSPEED, key), "contradiction", told)
    flag = given.get(DEEPSPEED, "zero3_init_flag", default=False)
    if stage is not None and stage < 3 and flag is True:
        yield given.says((DEEPSPEED, "zero3_init_flag"), "dead", f"nothing reads it at stage {stage}")
    if stage == 3 and flag is False:
        told = "each rank then loads the whole base before it is divided; use true"
        yield given.says((DEEPSPEED, "zero3_init_flag"), "costly", told)


def _fsdp(given: Given, plan: Plan) -> Iterator[Problem]:
    topology, section = plan.topology, _section(given, FSDP)
    ours: dict[str, Any] = accelerate_config("fsdp2", topology.nodes, topology.devices_per_node)[FSDP]
    version = section.get("fsdp_version", 1)
    if version != 2:
        yield given.says((FSDP, "fsdp_version"), "wrong", f"{version}: muster trains with FSDP 2; set it to 2")
        return
    for key in FSDP1:
        if key in section:
            yield given.says((FSDP, key), "dead", "only FSDP 1 reads it")
    # What accelerate takes where the file says nothing (commands/launch.py), and why the plan has it otherwise.
    decided = {
        "fsdp_offload_params": (False, "the plan keeps weights on the GPUs"),
        "fsdp_reshard_after_forward": (True, "each device would keep the whole base after a forward pass"),
        "fsdp_cpu_ram_efficient_loading": (True, "the base's tensors would be loaded on rank 0 alone"),
        "fsdp_auto_wrap_policy": ("NO_WRAP", "the whole model would be gathered at once"),
        "fsdp_activation_checkpointing": (False, "training.gradient_checkpointing decides; both recompute twice"),
    }
    for key, (default, why) in decided.items():
        value, wanted = section.get(key, default), ours.get(key, False)
        if value != wanted:
            said = f"the file says {value}" if key in section else f"without it accelerate takes {value}"
            use = str(wanted).lower() if isinstance(wanted, bool) else wanted
            yield given.says((FSDP, key), "contradiction", f"{said}: {why}; use {use}")


def _precision(given: Given, plan: Plan) -> Iterator[Problem]:
    value = given.get("mixed_precision")
    if not isinstance(value, str):
        return
    if given.get("distributed_type") == "DEEPSPEED":
        if given.get(DEEPSPEED, "deepspeed_config_file"):
            told = "accelerate refuses it beside deepspeed_config_file; training.precision decides"
            yield given.says(("mixed_precision",), "contradiction", told)
    elif {"no": "fp32"}.get(value, value) != plan.precision:
        told = f"the file says {value}, the plan computes in {plan.precision}"
        yield given.says(("mixed_precision",), "contradiction", told)
