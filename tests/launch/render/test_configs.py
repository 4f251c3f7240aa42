"""What muster writes for accelerate and DeepSpeed, to the letter, and that both take it."""

import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.plan import Plan
from launch.render import (
    SHARED,
    accelerate_config,
    complete_deepspeed,
    deepspeed_config,
    launch_argv,
    rendered,
    shipped,
)
from launch.spec import ZERO_STAGES, Strategy
from tests.conftest import ROOT
from tests.launch.conftest import plan_of, spec_of

GOLDEN = ROOT / "tests/golden"
RUN = Path("/runs/demo")
ZERO = tuple(ZERO_STAGES)
SHIPPED = shipped()
YAML_FILES = sorted(name for name in SHIPPED if name.endswith(".yaml"))
JSON_FILES = sorted(name for name in SHIPPED if name.endswith(".json"))
PLANS = {
    "14b-8xa100-80gb-zero3": plan_of("8xA100-80GB", 1, spec_of(cluster={"strategy": "zero3"})),
    "14b-1xh200-141gb-single": plan_of("1xH200-141GB"),
}


def plan_with(strategy: Strategy, nodes: int = 1) -> Plan:
    return plan_of("8xH200-141GB", nodes, spec_of(cluster={"strategy": strategy}))


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else key)
    else:
        yield path, value


# The files of a run


def all_files(plan: Plan) -> dict[str, str]:
    """The rendered files, and the command with a word a line."""
    argv = launch_argv(plan, RUN, RUN / "rendered/accelerate.yaml", 1, 29500, "auto")
    assert argv[0] == sys.executable
    return {**rendered(plan, RUN / "rendered/deepspeed.json"), "argv.txt": "\n".join(["python", *argv[1:]]) + "\n"}


@pytest.mark.parametrize("name", PLANS)
def test_the_files_of_a_plan_are_the_golden_ones(name: str) -> None:
    """MUSTER_UPDATE_GOLDEN=1 writes them anew; the diff is then for people to read."""
    files = all_files(PLANS[name])
    if os.environ.get("MUSTER_UPDATE_GOLDEN") == "1":
        (GOLDEN / name).mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (GOLDEN / name / file).write_text(text)
    assert {path.name: path.read_text() for path in (GOLDEN / name).iterdir()} == files


def test_one_process_starts_python_and_several_start_accelerate() -> None:
    single = launch_argv(PLANS["14b-1xh200-141gb-single"], RUN, RUN / "a.yaml", 3, 29501, "never")
    assert single == [sys.executable, "-m", "training", "/runs/demo", "--attempt", "3", "--resume", "never"]
    several = launch_argv(PLANS["14b-8xa100-80gb-zero3"], RUN, RUN / "a.yaml", 3, 29501, "never")
    assert several[several.index("-m", 3) + 1 :] == single[2:]
    assert several[several.index("--num_processes") + 1] == "8"
    assert several[several.index("--main_process_port") + 1] == "29501"


def test_one_process_with_zero_needs_accelerate_too() -> None:
    plan = plan_of("1xH200-141GB", 1, spec_of(cluster={"strategy": "zero3"}))
    assert "accelerate.commands.launch" in launch_argv(plan, RUN, RUN / "a.yaml", 1, 29500, "auto")


@pytest.mark.parametrize("strategy", SHARED)
def test_two_nodes_of_eight_devices(strategy: Strategy) -> None:
    config = yaml.safe_load(rendered(plan_with(strategy, nodes=2), RUN / "ds.json")["accelerate.yaml"])
    assert (config["num_machines"], config["num_processes"], config["main_process_port"]) == (2, 16, 29500)


@pytest.mark.parametrize("strategy", ZERO)
def test_a_rendered_deepspeed_file_holds_numbers_and_no_auto(strategy: Strategy) -> None:
    plan = plan_with(strategy)
    config = json.loads(rendered(plan, RUN / "ds.json")["deepspeed.json"])
    texts = {path: value for path, value in leaves(config) if isinstance(value, str)}
    types = ("communication_data_type", "data_types.grad_accum_dtype")
    assert {path: value for path, value in texts.items() if not path.endswith(".device")} == (
        {} if strategy == "zero1" else dict.fromkeys(types, "fp32")
    )
    assert config["train_batch_size"] == 4 * 4 * 8 == plan.global_batch_size
    assert (config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]) == (4, 4)
    assert (config["gradient_clipping"], config["bf16"], config["fp16"]) == (0.3, {"enabled": True}, {"enabled": False})
    assert config["zero_optimization"]["stage"] == plan.zero_stage
    assert config["zero_optimization"]["reduce_bucket_size"] == 5120**2


def test_stage_3_numbers_follow_the_hidden_size() -> None:
    zero = deepspeed_config("zero3", plan_with("zero3"))["zero_optimization"]
    assert zero["stage3_prefetch_bucket_size"] == int(0.9 * 5120**2)
    assert zero["stage3_param_persistence_threshold"] == 10 * 5120


@pytest.mark.parametrize("strategy", ZERO)
@pytest.mark.parametrize("nodes", [1, 2])
def test_deepspeed_takes_the_rendered_file(strategy: Strategy, nodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepspeed.runtime import config as deepspeed

    monkeypatch.setattr(deepspeed.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(deepspeed.dist, "get_world_size", lambda: 8 * nodes)
    plan = plan_with(strategy, nodes)
    taken = deepspeed.DeepSpeedConfig(json.loads(rendered(plan, RUN / "ds.json")["deepspeed.json"]))
    assert taken.train_batch_size == plan.global_batch_size
    assert (taken.train_micro_batch_size_per_gpu, taken.gradient_accumulation_steps) == (4, 4)
    assert (taken.zero_optimization_stage, taken.gradient_clipping) == (plan.zero_stage, 0.3)
    assert (taken.zero_config.offload_optimizer is not None) == plan.offload
    assert taken.bfloat16_config.enabled
    assert not taken.float16_config.enabled


@pytest.mark.parametrize("strategy", ZERO)
def test_transformers_takes_the_rendered_file(strategy: Strategy) -> None:
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    plan = plan_with(strategy)
    taken = HfTrainerDeepSpeedConfig(json.loads(rendered(plan, RUN / "ds.json")["deepspeed.json"]))
    assert (taken.is_zero3(), taken.is_offload()) == (plan.zero_stage == 3, plan.offload)


# The shipped files


def test_the_shipped_files_are_what_render_writes() -> None:
    on_disk = {
        f"{folder}/{path.name}": path.read_text()
        for folder in ("accelerate_configs", "ds_configs", "slurm")
        for path in (ROOT / folder).iterdir()
        if path.suffix in (".yaml", ".json", ".sbatch")
    }
    assert on_disk == SHIPPED


def test_there_is_a_file_for_each_strategy_on_one_node_and_on_several() -> None:
    expected = {f"accelerate_configs/{strategy}{size}.yaml" for strategy in SHARED for size in ("", "_multi_node")}
    assert set(YAML_FILES) == expected | {"accelerate_configs/single.yaml"}
    assert set(JSON_FILES) == {f"ds_configs/{strategy}.json" for strategy in ZERO}


@pytest.mark.parametrize("name", YAML_FILES)
def test_the_first_comment_of_a_yaml_is_a_command_that_uses_it(name: str) -> None:
    from accelerate.commands.launch import launch_command_parser

    first = SHIPPED[name].splitlines()[0]
    words = shlex.split(first.removeprefix("# ").replace("RANK", "1"))
    assert words[:2] == ["accelerate", "launch"]
    arguments = launch_command_parser().parse_args(words[2:])
    assert arguments.config_file == name
    assert (arguments.module, arguments.training_script, arguments.training_script_args) == (True, "training", ["SPEC"])


@pytest.mark.parametrize("name", JSON_FILES)
def test_the_first_comment_of_a_json_is_a_command_that_uses_it(name: str) -> None:
    key, command = next(iter(json.loads(SHIPPED[name]).items()))
    words = shlex.split(command)
    assert (key, words[:3]) == ("comment", ["accelerate", "launch", "--config_file"])
    assert yaml.safe_load(SHIPPED[words[3]])["deepspeed_config"]["deepspeed_config_file"] == name


@pytest.mark.parametrize("name", YAML_FILES)
def test_accelerate_takes_each_shipped_yaml(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    strategy = Path(name).stem.removesuffix("_multi_node")
    several = name.endswith("_multi_node.yaml")
    config = load_config_from_file(str(ROOT / name))
    kinds = {"single": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP"}
    assert config.distributed_type.value == kinds.get(strategy, "DEEPSPEED")
    assert (config.num_machines, config.num_processes) == (2, 16) if several else (1, 1 if strategy == "single" else 8)
    assert (config.mixed_precision, config.use_cpu) == (None, False)
    # With c10d torchrun numbers the nodes itself, and --machine_rank would say nothing.
    assert config.rdzv_backend == "static"
    assert (config.main_process_ip, config.main_process_port) == (("127.0.0.1", 29500) if several else (None, None))
    assert bool(config.deepspeed_config) == (strategy in ZERO)
    assert config.fsdp_config.get("fsdp_version") == (2 if strategy == "fsdp2" else None)


def test_zero3_builds_the_model_in_shards() -> None:
    flags = {strategy: accelerate_config(strategy, 1, 8)["deepspeed_config"]["zero3_init_flag"] for strategy in ZERO}
    assert {strategy for strategy, flag in flags.items() if flag} == {"zero3", "zero3_offload"}


# Somebody's DeepSpeed file


@pytest.mark.parametrize("strategy", ZERO)
def test_each_auto_of_a_shipped_file_is_filled_in_from_the_plan(strategy: Strategy) -> None:
    plan = plan_with(strategy)
    completed, contradictions = complete_deepspeed(json.loads(SHIPPED[f"ds_configs/{strategy}.json"]), plan)
    assert contradictions == []
    assert completed == deepspeed_config(strategy, plan)


def completed(given: dict[str, Any], strategy: Strategy = "zero3") -> tuple[dict[str, Any], list[str]]:
    filled, contradictions = complete_deepspeed(given, plan_with(strategy))
    return filled, [f"{'.'.join(path)}: {problem}" for path, problem in contradictions]


def test_what_the_plan_decides_is_added_and_what_it_does_not_stays() -> None:
    zero = {"stage": 3, "sub_group_size": 1e9, "overlap_comm": False}
    config, contradictions = completed({"zero_optimization": zero, "wall_clock_breakdown": True})
    assert contradictions == []
    assert config == {
        "train_batch_size": 128,
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 0.3,
        "bf16": {"enabled": True},
        "fp16": {"enabled": False},
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero,
        "wall_clock_breakdown": True,
    }


@pytest.mark.parametrize("value", ["bf16", None])
def test_gradients_are_added_up_in_fp32_whatever_a_file_leaves_out(value: str | None) -> None:
    config, contradictions = completed({"data_types": {}, "bf16": {}})
    assert contradictions == []
    assert (config["data_types"], config["bf16"]) == ({"grad_accum_dtype": "fp32"}, {"enabled": True})
    _, contradictions = completed({"data_types": {"grad_accum_dtype": value}})
    assert contradictions == [f'data_types.grad_accum_dtype: the file says {json.dumps(value)}, the plan says "fp32"']


def test_a_run_in_fp32_needs_no_types_and_takes_the_shipped_files() -> None:
    plan = plan_with("zero2").model_copy(update={"precision": "fp32"})
    config = deepspeed_config("zero2", plan)
    assert not {"communication_data_type", "data_types"} & set(config)
    shipped = json.loads(SHIPPED["ds_configs/zero2.json"])
    types = {"communication_data_type": "fp32", "data_types": {"grad_accum_dtype": "fp32"}}
    assert complete_deepspeed(shipped, plan) == ({**config, **types}, [])


def test_numbers_that_contradict_the_plan() -> None:
    given = {
        "train_batch_size": 64,
        "gradient_clipping": 1.0,
        "gradient_accumulation_steps": 4,
        "fp16": {"enabled": True},
    }
    assert completed(given)[1] == [
        "train_batch_size: the file says 64, the plan says 128",
        "gradient_clipping: the file says 1.0, the plan says 0.3",
        "fp16.enabled: the file says true, the plan says false",
    ]


@pytest.mark.parametrize("block", ["optimizer", "scheduler"])
def test_a_block_that_would_override_the_spec(block: str) -> None:
    setting = {"optimizer": "training.optimizer", "scheduler": "training.lr_scheduler"}[block]
    assert completed({block: {"type": "AdamW"}})[1] == [
        f"{block}: a block that overrides {setting} in silence: remove it"
    ]


def test_an_auto_that_the_plan_has_no_value_for() -> None:
    assert completed({"zero_optimization": {"stage": 3, "stage3_max_live_parameters": "auto"}})[1] == [
        'zero_optimization.stage3_max_live_parameters: "auto", but the plan has no value for it; remove it'
    ]


def test_an_auto_in_a_list() -> None:
    given = {"curriculum": {"steps": ["auto"]}}
    assert "auto" not in json.dumps(completed(given)[0]) or completed(given)[1]


def test_a_folder_s_name_does_not_end_the_comment_that_it_stands_in() -> None:
    place = Path("/runs/a\nnum_processes: 1\n#")
    text = rendered(plan_with("ddp"), place / "rendered/deepspeed.json")["accelerate.yaml"]
    assert yaml.safe_load(text) == accelerate_config("ddp", 1, 8)


def test_the_first_comment_of_a_rendered_yaml_is_a_command_that_uses_it() -> None:
    from accelerate.commands.launch import launch_command_parser

    text = rendered(plan_with("zero3"), RUN / "rendered/deepspeed.json")["accelerate.yaml"]
    arguments = launch_command_parser().parse_args(shlex.split(text.splitlines()[0].removeprefix("# "))[2:])
    assert arguments.config_file == str(RUN / "rendered/accelerate.yaml")
    assert arguments.training_script_args == [str(RUN)]
