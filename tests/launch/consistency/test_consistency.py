"""Somebody's own accelerate YAML and DeepSpeed JSON: each contradiction and each dead setting, with file and line."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.consistency import check, given, keys, strategy_of
from launch.errors import UsageError
from launch.machine import discover
from launch.render import SHARED, rendered, shipped
from tests.conftest import ROOT
from tests.launch.conftest import in_process as call
from tests.launch.conftest import plan_of, spec_of
from tests.launch.render.test_configs import plan_with

SHIPPED = shipped()
YAML = "accelerate_configs/zero3.yaml"
JSON = "ds_configs/zero3.json"
THRESHOLD = "stage3_param_persistence_threshold"


def files(folder: Path, launcher: dict[str, Any] | None, engine: dict[str, Any] | None) -> list[Any]:
    """Written as people do: a key a line."""
    found = []
    if launcher is not None and engine is not None and "deepspeed_config_file" in launcher.get(DS, {}):
        launcher = changed(launcher, {f"{DS}.deepspeed_config_file": str(folder / "ds.json")})
    if launcher is not None:
        (folder / "accelerate.yaml").write_text("# ours\n" + yaml.safe_dump(launcher, sort_keys=False))
        found.append(given(str(folder / "accelerate.yaml")))
    if engine is not None:
        (folder / "ds.json").write_text(json.dumps(engine, indent=2))
        found.append(given(str(folder / "ds.json")))
    return found


def changed(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """With values at dotted keys; None removes one."""
    copy: dict[str, Any] = json.loads(json.dumps(base))
    for dotted, value in changes.items():
        *above, last = dotted.split(".")
        section = copy
        for key in above:
            section = section.setdefault(key, {})
        if value is None:
            section.pop(last)
        else:
            section[last] = value
    return copy


# What agrees


@pytest.mark.parametrize("strategy", SHARED)
@pytest.mark.parametrize("size", ["", "_multi_node"])
def test_the_shipped_files_agree_with_the_plan(strategy: Any, size: str) -> None:
    plan = plan_with(strategy, 2 if size else 1)
    names = [f"accelerate_configs/{strategy}{size}.yaml"]
    names += [f"ds_configs/{strategy}.json"] if plan.zero_stage else []
    found = [given(str(ROOT / name)) for name in names]
    assert strategy_of(found) == strategy
    assert check(found, plan) == []


@pytest.mark.parametrize("strategy", SHARED)
def test_the_rendered_files_agree_with_the_plan(strategy: Any, tmp_path: Path) -> None:
    plan = plan_with(strategy)
    for name, text in rendered(plan, tmp_path / "deepspeed.json").items():
        (tmp_path / name).write_text(text)
    assert check([given(str(path)) for path in sorted(tmp_path.iterdir())], plan) == []


def test_one_process_agrees_with_a_plan_for_one() -> None:
    plan = plan_of("1xH200-141GB", 1, spec_of(data={"max_length": 1024}))
    assert check([given(str(ROOT / "accelerate_configs/single.yaml"))], plan) == []


# What does not

LAUNCHER: dict[str, Any] = yaml.safe_load(SHIPPED[YAML])
DDP: dict[str, Any] = yaml.safe_load(SHIPPED["accelerate_configs/ddp.yaml"])
FSDP: dict[str, Any] = yaml.safe_load(SHIPPED["accelerate_configs/fsdp2.yaml"])
ENGINE: dict[str, Any] = json.loads(SHIPPED[JSON])
ZERO2: dict[str, Any] = json.loads(SHIPPED["ds_configs/zero2.json"])

DS, FS, Z = "deepspeed_config", "fsdp_config", "zero_optimization"
MICRO, STEPS, BUCKET = "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "reduce_bucket_size"
SUMS = "data_types.grad_accum_dtype"
GATHER = "stage3_gather_16bit_weights_on_model_save"

# The fault, and the kind and a part of what is told of that key.
IN_YAML: list[tuple[dict[str, Any], dict[str, Any], str, str, str]] = [
    (LAUNCHER, {"num_processes": 4}, "num_processes", "contradiction", "the file says 4"),
    (LAUNCHER, {"num_processes": "8"}, "num_processes", "wrong", "without quotes"),
    (LAUNCHER, {"num_processes": "auto"}, "num_processes", "wrong", 'knows no "auto"'),
    (LAUNCHER, {"num_processes": None}, "num_processes", "wrong", "is missing"),
    (DDP, {"distributed_type": "NO"}, "num_processes", "wrong", "starts one process, not 8"),
    (LAUNCHER, {"num_machines": 2}, "num_machines", "contradiction", "the file says 2"),
    (LAUNCHER, {"num_machines": 2}, "num_machines", "wrong", "main_process_ip"),
    (LAUNCHER, {"machine_rank": 1}, "machine_rank", "wrong", "is no machine of 1"),
    (LAUNCHER, {"use_cpu": True}, "use_cpu", "dead", "ACCELERATE_USE_CPU=1"),
    (DDP, {"use_cpu": True}, "use_cpu", "dead", "ACCELERATE_USE_CPU=1"),
    (DDP, {"use_cpu": "yes"}, "use_cpu", "wrong", "no true or false"),
    (DDP, {"mixed_precision": "fp16"}, "mixed_precision", "contradiction", "computes in bf16"),
    (DDP, {"mixed_precision": False}, "mixed_precision", "wrong", "write it in quotes"),
    (LAUNCHER, {"mixed_precision": "bf16"}, "mixed_precision", "contradiction", "accelerate refuses it"),
    (LAUNCHER, {"num_proceses": 8}, "num_proceses", "unknown", "did you mean num_processes?"),
    (LAUNCHER, {f"{DS}.zero_stage": 2}, f"{DS}.zero_stage", "contradiction", "beside deepspeed_config_file"),
    (LAUNCHER, {f"{DS}.gradient_clipping": 1.0}, f"{DS}.gradient_clipping", "contradiction", "accelerate refuses"),
    (LAUNCHER, {f"{DS}.zero_stge": 2}, f"{DS}.zero_stge", "unknown", "zero_stage"),
    (LAUNCHER, {f"{DS}.zero3_init_flag": False}, f"{DS}.zero3_init_flag", "costly", "whole base"),
    (LAUNCHER, {f"{DS}.deepspeed_config_file": None}, DS, "wrong", "need a DeepSpeed file"),
    (DDP, {f"{DS}.zero_stage": 2}, DS, "dead", "while distributed_type is MULTI_GPU"),
    (DDP, {"fsdp_config.fsdp_version": 2}, "fsdp_config", "dead", "while distributed_type is MULTI_GPU"),
    (DDP, {"gpu_ids": "0,1"}, "gpu_ids", "wrong", "names 2 GPUs"),
    (DDP, {"gpu_ids": 0}, "gpu_ids", "wrong", "write it in quotes"),
    (DDP, {"tpu_name": "pod"}, "tpu_name", "dead", "for TPUs"),
    (DDP, {"downcast_bf16": True}, "downcast_bf16", "dead", "TPU"),
    (DDP, {"dynamo_config": {"dynamo_backend": "INDUCTOR"}}, "dynamo_config", "contradiction", "training.compile"),
    (DDP, {"rdzv_backend": "foo"}, "rdzv_backend", "wrong", "torchrun knows no foo"),
    (DDP, {"main_process_ip": "10.0.0.1"}, "main_process_ip", "dead", "num_machines is 1"),
    (DDP, {"distributed_type": "XLA"}, "distributed_type", "wrong", "does not train with XLA"),
    (DDP, {"distributed_type": "MULTI_CPU"}, "distributed_type", "wrong", "starts one process"),
    (DDP, {"distributed_type": "NO"}, "distributed_type", "contradiction", "this is single, the plan is ddp"),
    (FSDP, {f"{FS}.fsdp_version": 1}, f"{FS}.fsdp_version", "wrong", "set it to 2"),
    (FSDP, {f"{FS}.fsdp_sharding_strategy": "FULL_SHARD"}, f"{FS}.fsdp_sharding_strategy", "dead", "FSDP 1"),
    (FSDP, {f"{FS}.fsdp_offload_params": True}, f"{FS}.fsdp_offload_params", "contradiction", "keeps weights"),
    (
        FSDP,
        {f"{FS}.fsdp_reshard_after_forward": False},
        f"{FS}.fsdp_reshard_after_forward",
        "contradiction",
        "whole base",
    ),
    (
        FSDP,
        {f"{FS}.fsdp_activation_checkpointing": True},
        f"{FS}.fsdp_activation_checkpointing",
        "contradiction",
        "twice",
    ),
]
# Faults of what is not there: told at the section around it.
LACKING: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    (FSDP, {f"{FS}.fsdp_auto_wrap_policy": None}, f"{FS}.fsdp_auto_wrap_policy", "accelerate takes NO_WRAP"),
    (FSDP, {f"{FS}.fsdp_cpu_ram_efficient_loading": None}, f"{FS}.fsdp_cpu_ram_efficient_loading", "takes True"),
    (FSDP, {FS: {}}, f"{FS}.fsdp_version", "set it to 2"),
]
IN_JSON: list[tuple[dict[str, Any], dict[str, Any], str, str, str]] = [
    (ENGINE, {"train_batch_size": 100}, "train_batch_size", "contradiction", "the file says 100, the plan says 128"),
    (ENGINE, {MICRO: "4"}, MICRO, "wrong", "without quotes"),
    (ENGINE, {STEPS: 8}, STEPS, "contradiction", "the plan says 4"),
    (ENGINE, {"gradient_clipping": 1.0}, "gradient_clipping", "contradiction", "the plan says 0.3"),
    (ENGINE, {"train_batch_size": 64, MICRO: 4, STEPS: 4}, "train_batch_size", "wrong", "8 devices = 128, not 64"),
    (ENGINE, {"bf16.enabled": False}, "bf16.enabled", "contradiction", "the plan says true"),
    (ENGINE, {"bf16.enabled": "true"}, "bf16.enabled", "wrong", "counts as true"),
    (ENGINE, {"bf16.enable": True}, "bf16.enable", "unknown", "did you mean enabled?"),
    (ENGINE, {"bf16.enabled": True, "fp16.enabled": True}, "fp16.enabled", "wrong", "takes one of them"),
    (ENGINE, {"fp16.enabled": False, "fp16.loss_scale": 0}, "fp16.loss_scale", "dead", "fp16.enabled is false"),
    (ENGINE, {"optimizer": {"type": "AdamW"}}, "optimizer", "contradiction", "overrides training.optimizer"),
    (ENGINE, {"scheduler": {"type": "WarmupLR"}}, "scheduler", "contradiction", "overrides training.lr_scheduler"),
    (ENGINE, {f"{Z}.{GATHER}": False}, f"{Z}.{GATHER}", "wrong", "40 bytes"),
    (ENGINE, {f"{Z}.stge": 3}, f"{Z}.stge", "unknown", "ends with an error on it; did you mean stage?"),
    (ENGINE, {f"{Z}.mics_shard_size": 4}, f"{Z}.mics_shard_size", "wrong", "DeepSpeed refuses it"),
    (ENGINE, {"gradient_accumulation_step": 4}, "gradient_accumulation_step", "unknown", f"did you mean {STEPS}?"),
    (ENGINE, {f"{Z}.sub_group_size": "auto"}, f"{Z}.sub_group_size", "contradiction", "no value for it"),
    (ENGINE, {f"{Z}.{BUCKET}": 500_000_000}, f"{Z}.{BUCKET}", "costly", "costs 903.7 MiB more"),
    (ENGINE, {f"{Z}.stage3_max_live_parameters": 3e9}, f"{Z}.stage3_max_live_parameters", "costly", "keeps gathered"),
    (ENGINE, {f"{Z}.{THRESHOLD}": 1e8}, f"{Z}.{THRESHOLD}", "costly", "more on each device than 51,200, in weights"),
    (ENGINE, {"activation_checkpointing": {}}, "activation_checkpointing", "dead", "transformers recomputes"),
    (ENGINE, {"steps_per_print": 10}, "steps_per_print", "dead", "never"),
    (ENGINE, {"aio": {"block_size": 1048576}}, "aio", "dead", "nvme"),
    (ENGINE, {"amp": {"enabled": False}}, "amp", "wrong", "refuses it, enabled or not"),
    (ENGINE, {"elasticity": {"enabled": True}}, "elasticity", "wrong", "refuses it"),
    (ENGINE, {"autotuning": {"enabled": True}}, "autotuning", "contradiction", "keeps the global batch"),
    (ENGINE, {"data_efficiency": {"enabled": True}}, "data_efficiency", "contradiction", "while it trains"),
    (ENGINE, {"torch_autocast": {"enabled": True}}, "torch_autocast", "contradiction", "training.precision"),
    (ENGINE, {"hybrid_engine": {"enabled": True}}, "hybrid_engine", "contradiction", "DeepSpeed-Chat"),
    (ENGINE, {"gradient_allreduce_op": "sum"}, "gradient_allreduce_op", "contradiction", "for their mean"),
    (ENGINE, {Z: [3]}, Z, "wrong", "is no object"),
    (ENGINE, {f"{Z}.offload_optimizer.device": "nvme"}, f"{Z}.offload_optimizer.device", "contradiction", "to the cpu"),
    (ENGINE, {f"{Z}.offload_param.device": "cpu"}, f"{Z}.offload_param", "contradiction", "add offload_optimizer"),
    (ENGINE, {f"{Z}.stage": 2}, f"{Z}.stage3_prefetch_bucket_size", "dead", "nothing reads it at stage 2"),
    (ENGINE, {f"{Z}.stage": 2}, f"{Z}.stage", "contradiction", "this is zero2, the plan is zero3"),
    (ENGINE, {f"{Z}.stage": 0}, f"{Z}.stage", "wrong", "no stage that muster trains with"),
    (ENGINE, {f"{Z}.stage": "3"}, f"{Z}.stage", "wrong", "without quotes"),
    (ENGINE, {f"{Z}.stage": True}, f"{Z}.stage", "wrong", "True is no number"),
    (ENGINE, {f"{Z}.stage": 3.0}, f"{Z}.stage", "wrong", "write 3"),
    (ENGINE, {f"{Z}.{BUCKET}": -5}, f"{Z}.{BUCKET}", "wrong", "-5: DeepSpeed takes numbers of 0 and more alone"),
    (ENGINE, {f"{Z}.{BUCKET}": 1000.5}, f"{Z}.{BUCKET}", "wrong", "1000.5 is no whole number; write 1000"),
    (ENGINE, {"gradient_clipping": float("nan")}, "gradient_clipping", "wrong", "nan: DeepSpeed takes numbers"),
    (ENGINE, {"train_batch_size": float("inf")}, "train_batch_size", "wrong", "inf: DeepSpeed takes numbers"),
    (ENGINE, {"communication_data_type": "fp16"}, "communication_data_type", "contradiction", 'the plan says "fp32"'),
    (ENGINE, {SUMS: "bf16"}, SUMS, "contradiction", 'the file says "bf16", the plan says "fp32"'),
    (ZERO2, {SUMS: "bf16"}, SUMS, "contradiction", 'the file says "bf16", the plan says "fp32"'),
    (ZERO2, {f"{Z}.offload_param.device": "cpu"}, f"{Z}.offload_param", "dead", "only stage 3"),
    (ZERO2, {f"{Z}.cpu_offload": True}, f"{Z}.stage", "contradiction", "this is zero2_offload, the plan is zero2"),
    (ZERO2, {f"{Z}.prefetch_bucket_size": 1000}, f"{Z}.prefetch_bucket_size", "dead", "only stage 3"),
]


def line_of(file: Path, key: str) -> int:
    """The line of a file that a dotted key stands in."""
    lines = [re.split(r"[\":]", line.strip().strip('"'))[0] for line in file.read_text().splitlines()]
    *above, name = key.split(".")
    start = lines.index(above[0]) if above else -1
    return lines.index(name, start + 1) + 1


def told(found: list[Any], key: str, kind: str, part: str) -> Any:
    return next((p for p in found if (p.key, p.kind) == (key, kind) and part in p.problem), None)


@pytest.mark.parametrize(
    ("base", "changes", "key", "kind", "part"), IN_YAML, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_fault_in_an_accelerate_file(
    base: Any, changes: dict[str, Any], key: str, kind: str, part: str, tmp_path: Path
) -> None:
    strategy: Any = {"MULTI_GPU": "ddp", "FSDP": "fsdp2", "DEEPSPEED": "zero3"}[base["distributed_type"]]
    engine = ENGINE if strategy == "zero3" else None
    found = check(files(tmp_path, changed(base, changes), engine), plan_with(strategy))
    problem = told(found, key, kind, part)
    assert problem, found
    assert problem.file == str(tmp_path / "accelerate.yaml")
    written = changes.get(key, "") is not None
    assert problem.line == (line_of(tmp_path / "accelerate.yaml", key) if written else 1)
    # A fault tells of itself: no other file is blamed, but for a value that two things contradict.
    assert {p.file for p in found} == {problem.file}


@pytest.mark.parametrize(
    ("base", "changes", "key", "kind", "part"), IN_JSON, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_fault_in_a_deepspeed_file(
    base: Any, changes: dict[str, Any], key: str, kind: str, part: str, tmp_path: Path
) -> None:
    plan = plan_with("zero3" if base is ENGINE else "zero2")
    found = check(files(tmp_path, None, changed(base, changes)), plan)
    problem = told(found, key, kind, part)
    assert problem, found
    assert problem.line == line_of(tmp_path / "ds.json", key)


@pytest.mark.parametrize(("base", "changes", "key", "part"), LACKING, ids=lambda v: v if isinstance(v, str) else "")
def test_what_is_not_there_is_told_at_its_section(
    base: Any, changes: dict[str, Any], key: str, part: str, tmp_path: Path
) -> None:
    found = check(files(tmp_path, changed(base, changes), None), plan_with("fsdp2"))
    problem = next((p for p in found if p.key == key and part in p.problem), None)
    assert problem, found
    assert problem.line == line_of(tmp_path / "accelerate.yaml", key.split(".")[0])


def test_at_stage_1_gradients_are_added_up_in_the_run_s_type(tmp_path: Path) -> None:
    engine: dict[str, Any] = json.loads(SHIPPED["ds_configs/zero1.json"])
    for value, part in (("fp32", "another optimizer"), ("fp16", "the plan computes in bf16")):
        (problem,) = check(files(tmp_path, None, changed(engine, {SUMS: value})), plan_with("zero1"))
        assert (problem.key, problem.kind) == (SUMS, "contradiction")
        assert part in problem.problem


def test_an_offload_needs_its_switch(tmp_path: Path) -> None:
    engine: dict[str, Any] = json.loads(SHIPPED["ds_configs/zero2_offload.json"])
    del engine["zero_force_ds_cpu_optimizer"]
    (problem,) = check(files(tmp_path, None, engine), plan_with("zero2_offload"))
    assert (problem.key, problem.kind) == ("zero_force_ds_cpu_optimizer", "contradiction")


def test_a_bucket_that_is_left_out_is_deepspeed_s_own(tmp_path: Path) -> None:
    """Stage 3 has one of them, stage 2 a second one while it sends the first."""
    for engine, strategy, more in ((ENGINE, "zero3", "903.7 MiB"), (ZERO2, "zero2", "1.8 GiB")):
        (problem,) = check(files(tmp_path, None, changed(engine, {f"{Z}.{BUCKET}": None})), plan_with(strategy))
        assert problem.kind == "costly"
        assert problem.problem.startswith(f"without it DeepSpeed takes 500,000,000: costs {more} more")


def test_there_are_enough_faults() -> None:
    assert len(IN_YAML) + len(IN_JSON) >= 50


STOCK = """\
compute_environment: LOCAL_MACHINE
debug: false
distributed_type: MULTI_GPU
downcast_bf16: 'no'
enable_cpu_affinity: false
gpu_ids: all
machine_rank: 0
main_training_function: main
mixed_precision: bf16
num_machines: 1
num_processes: 8
rdzv_backend: static
same_network: true
tpu_env: []
tpu_use_cluster: false
tpu_use_sudo: false
use_cpu: false
"""


def test_what_accelerate_config_writes_agrees(tmp_path: Path) -> None:
    """The answers of its questionnaire for eight GPUs of one machine."""
    (tmp_path / "a.yaml").write_text(STOCK)
    assert check([given(str(tmp_path / "a.yaml"))], plan_with("ddp")) == []


def test_a_deepspeed_file_against_a_plan_without_it(tmp_path: Path) -> None:
    """Its batch is compared all the same."""
    found = check(files(tmp_path, None, changed(ZERO2, {MICRO: 8, "train_batch_size": 256})), plan_with("ddp"))
    assert {p.key for p in found} >= {f"{Z}.stage", MICRO, "train_batch_size"}


def test_two_files_that_do_not_go_together(tmp_path: Path) -> None:
    found = check(files(tmp_path, DDP, ZERO2), plan_with("ddp"))
    problem = next(p for p in found if p.kind == "dead")
    assert (problem.kind, problem.file) == ("dead", str(tmp_path / "ds.json"))
    assert "accelerate.yaml does not launch this file: it says MULTI_GPU" in problem.problem


def test_the_strategy_that_files_launch(tmp_path: Path) -> None:
    assert strategy_of(files(tmp_path, DDP, None)) == "ddp"
    assert strategy_of(files(tmp_path, LAUNCHER, ZERO2)) == "zero2"
    assert strategy_of(files(tmp_path, None, ENGINE)) == "zero3"
    assert strategy_of(files(tmp_path, changed(DDP, {"distributed_type": "XLA"}), None)) is None


# The libraries' own classes


def test_accelerate_s_keys_are_those_of_its_class() -> None:
    from accelerate.commands.config.config_args import ClusterConfig
    from accelerate.commands.launch import launch_command_parser

    fields = {field.name for field in dataclasses.fields(ClusterConfig)}
    assert keys.ACCELERATE - {"fp16", "dynamo_backend"} == fields
    options = {action.dest for action in launch_command_parser()._actions}
    assert options >= keys.ACCELERATE_DEEPSPEED
    assert {name for name in options if name.startswith("fsdp_")} == keys.ACCELERATE_FSDP


def test_what_accelerate_refuses_beside_a_file_is_what_its_plugin_says() -> None:
    import accelerate.utils.dataclasses as source

    text = Path(source.__file__).read_text()
    names = text[text.index("def _deepspeed_config_checks") :].split("]")[0]
    assert all(name.upper() in names for name in keys.BESIDE_FILE)
    assert names.count('"ACCELERATE_') == len(keys.BESIDE_FILE) + 1  # and mixed_precision


def test_deepspeed_s_keys_are_those_that_its_config_looks_for() -> None:
    from deepspeed.runtime import config
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    looked_for: set[str] = set()

    class Recording(dict[str, Any]):
        def __contains__(self, key: object) -> bool:
            looked_for.add(str(key))
            return super().__contains__(key)

        def get(self, key: str, default: Any = None) -> Any:
            looked_for.add(key)
            return super().get(key, default)

        def __getitem__(self, key: str) -> Any:
            looked_for.add(key)
            return super().__getitem__(key)

        def keys(self) -> Any:
            return self

    config.DeepSpeedConfig(Recording({"train_batch_size": 1}))
    assert looked_for == keys.DEEPSPEED
    assert set(config._REMOVED_TOP_LEVEL_CONFIG_KEYS) == keys.REMOVED
    assert set(config._REMOVED_ZERO_CONFIG_KEYS) == keys.REMOVED_ZERO
    assert set(DeepSpeedZeroConfig.model_fields) == keys.ZERO | keys.STAGE3
    aliases = {field.alias for field in DeepSpeedZeroConfig.model_fields.values() if field.alias}
    assert aliases == {f"stage3_{key}" for key in keys.STAGE3}
    assert set(DeepSpeedFP16Config.model_fields) == keys.FP16
    assert set(DeepSpeedBF16Config.model_fields) == keys.BF16


# Files that cannot be read, and the command


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"zero_optimization": {', ":1:24: not JSON: "),
        ("a.json", '{"train_batch_size": 1, "train_batch_size": 2}', ":1:25: train_batch_size: given twice; keep one"),
        ("a.json", '{"bf16": {"enabled"\n: 1, "enabled": 2}}', "a.json: enabled: given twice; keep one"),
        ("a.json", "{}", ": neither an accelerate config, which has distributed_type, nor a DeepSpeed config"),
        ("a.yaml", "distributed_type: [", "not YAML: "),
        ("a.yaml", "- 1\n- 2\n", "is no mapping of keys to values"),
        ("a.yaml", "", "is no mapping of keys to values"),
        ("a.yaml", "name: demo\nmodel: {}\n", "neither an accelerate config"),
        ("a.json", "\ufeff{}", "begins with a byte order mark"),
    ],
)
def test_a_file_that_is_none(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as caught:
        given(str(tmp_path / name))
    assert str(caught.value).startswith(str(tmp_path / name))
    assert message in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: cannot be read: No such file or directory"):
        given(str(tmp_path / "none.yaml"))


def test_json_that_is_no_yaml_is_read_all_the_same(tmp_path: Path) -> None:
    """A line's end before a colon."""
    (tmp_path / "a.json").write_text('{"train_batch_size"\n: 100, "zero_optimization": {"stage": 3}}\n')
    found = check([given(str(tmp_path / "a.json"))], plan_with("zero3"))
    assert [(problem.line, problem.key) for problem in found if problem.kind == "contradiction"] == [
        (1, "train_batch_size")
    ]


def test_a_merge_in_yaml_is_no_key(tmp_path: Path) -> None:
    text = SHIPPED["accelerate_configs/ddp.yaml"]
    (tmp_path / "a.yaml").write_text(text.replace("num_machines: 1\n", "<<: {num_machines: 1}\n"))
    assert check([given(str(tmp_path / "a.yaml"))], plan_with("ddp")) == []


def test_a_section_that_holds_nothing(tmp_path: Path) -> None:
    for name in ("fsdp_config", "deepspeed_config", "dynamo_config"):
        (tmp_path / "a.yaml").write_text(SHIPPED["accelerate_configs/ddp.yaml"] + f"{name}: null\n")
        assert check([given(str(tmp_path / "a.yaml"))], plan_with("ddp")) == []


@pytest.mark.parametrize("section", ["fsdp_config", "deepspeed_config"])
def test_a_key_that_is_no_text(section: str, tmp_path: Path) -> None:
    """YAML reads 1 as a number, no as false."""
    text = SHIPPED["accelerate_configs/fsdp2.yaml"].replace("fsdp_config:", f"{section}:\n  1: 2\n  no: 3")
    (tmp_path / "a.yaml").write_text(text)
    found = check([given(str(tmp_path / "a.yaml"))], plan_with("fsdp2"))
    told = {problem.key for problem in found if problem.kind == "unknown"}
    assert {f"{section}.1", f"{section}.False"} <= told


def test_tabs_in_json_do_not_move_a_place(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{\n\t"train_batch_size":\t100,\n\t"zero_optimization":\t{"stage": 3}\n}\n')
    (problem, *_) = check([given(str(tmp_path / "a.json"))], plan_with("zero3"))
    assert (problem.line, problem.column, problem.key) == (2, 2, "train_batch_size")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(discover, "gpus", list)
    (tmp_path / "spec.yaml").write_text(
        "name: demo\nmodel: {variant: qwen2.5-14b-instruct}\ndata: {train: t.jsonl, max_length: 2048}\n"
    )
    (tmp_path / "ds_configs").mkdir()
    for name in (YAML, JSON):
        (tmp_path / Path(name).name if name == YAML else tmp_path / name).write_text(SHIPPED[name])
    return tmp_path


GPUS = ("--gpus", "8xA100-80GB")


def test_files_that_agree(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The DeepSpeed file that the YAML names is read too, and the plan is made for the strategy that they launch."""
    done = call(capsys, "plan", "spec.yaml", *GPUS, "--check", "zero3.yaml")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "zero3.yaml: agrees with the plan for 1 x 8 A100-80GB, zero3",
        "ds_configs/zero3.json: agrees with the plan for 1 x 8 A100-80GB, zero3",
    ]
    both = call(capsys, "plan", "spec.yaml", *GPUS, "--check", "zero3.yaml", "ds_configs/zero3.json", "--json")
    assert (both.code, json.loads(both.out)) == (0, [])


def test_every_problem_is_told_with_file_and_line_in_one_go(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "zero3.yaml").write_text(SHIPPED[YAML].replace("num_processes: 8", "num_processes: 4"))
    (folder / JSON).write_text(SHIPPED[JSON].replace('"gradient_clipping": "auto"', '"gradient_clipping": 1.0'))
    done = call(capsys, "plan", "spec.yaml", *GPUS, "--check", "zero3.yaml")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == [
        "compared with the plan for 1 x 8 A100-80GB, zero3",
        "error: ds_configs/zero3.json:6:3: gradient_clipping: the file says 1.0, the plan says 0.3",
        "error: zero3.yaml:6:1: num_processes: the file says 4, over all machines, the plan is for 1 node x 8"
        " A100-80GB",
    ]
    listed = call(capsys, "plan", "spec.yaml", *GPUS, "--check", "zero3.yaml", "--json")
    assert listed.code == 2
    assert [(row["file"], row["line"], row["kind"]) for row in json.loads(listed.out)] == [
        ("zero3.yaml", 6, "contradiction"),
        ("ds_configs/zero3.json", 6, "contradiction"),
    ]


def test_a_strategy_that_the_spec_names_is_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", "spec.yaml", *GPUS, "-s", "cluster.strategy=ddp", "--check", "zero3.yaml")
    assert done.code == 2
    assert "zero3.yaml:4:1: distributed_type: this is zero3, the plan is ddp" in done.err


def test_a_waste_is_a_warning(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / JSON).write_text(SHIPPED[JSON].replace('"reduce_bucket_size": "auto"', '"reduce_bucket_size": 500000000'))
    done = call(capsys, "plan", "spec.yaml", *GPUS, "--check", "zero3.yaml")
    assert done.code == 0
    assert done.err.startswith("warning: ds_configs/zero3.json:21:5: zero_optimization.reduce_bucket_size: costs ")


def test_a_deepspeed_file_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / JSON).unlink()
    done = call(capsys, "plan", "spec.yaml", *GPUS, "--check", "zero3.yaml")
    assert done.code == 2
    assert done.err.startswith(
        "error: zero3.yaml:13:3: deepspeed_config.deepspeed_config_file: ds_configs/zero3.json is not there;"
    )


def test_a_strategy_that_cannot_be_run_is_told_and_the_spec_s_own_plan_is_compared(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("-s", "lora.init_lora_weights=pissa")  # which zero3 cannot do
    done = call(capsys, "plan", "spec.yaml", *GPUS, *options, "--check", "zero3.yaml")
    assert done.code == 2
    assert "the files launch zero3, which this spec cannot run here: " in done.err
    assert re.search(r"zero3\.yaml:4:1: distributed_type: this is zero3, the plan is \w+", done.err)


def test_files_for_gpus_on_a_machine_without_any(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", "spec.yaml", "--check", "zero3.yaml", "--json")
    assert (done.code, json.loads(done.out)["strategy"]) == (4, None)
    assert done.err.endswith("these files are for 8 devices: name them with --gpus 8xA100-80GB\n")


def test_every_file_that_cannot_be_read_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", "spec.yaml", *GPUS, "--check", "no.yaml", "none.json")
    assert (done.code, [line.split(": ")[1] for line in done.err.splitlines()]) == (2, ["no.yaml", "none.json"])
    listed = call(capsys, "plan", "spec.yaml", *GPUS, "--check", "no.yaml", "none.json", "--json")
    assert (listed.code, listed.err) == (2, done.err)
    assert [(row["file"], row["kind"], row["problem"]) for row in json.loads(listed.out)] == [
        (name, "wrong", "cannot be read: No such file or directory") for name in ("no.yaml", "none.json")
    ]


def test_a_file_beside_one_that_names_another(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.json").write_text(SHIPPED[JSON])
    done = call(capsys, "plan", "spec.yaml", *GPUS, "--check", "zero3.yaml", "mine.json")
    assert done.code == 2
    assert "zero_optimization: zero3.yaml does not launch this file: it names ds_configs/zero3.json" in done.err


@pytest.mark.parametrize("option", [("--plot", "a.svg"), ("--compare", "8xA100-80GB"), ("--render", "torchrun")])
def test_check_goes_alone(option: tuple[str, str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", "spec.yaml", *option, "--check", "zero3.yaml")
    assert (done.code, done.err.startswith("error: --check and ")) == (2, True)


def test_files_without_check_are_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", "spec.yaml", "zero3.yaml")
    assert (done.code, done.err) == (
        2,
        "error: zero3.yaml: plan takes one SPEC; files to compare with it come after --check\n",
    )
