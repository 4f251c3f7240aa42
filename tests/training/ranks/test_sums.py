"""Gradients of a step's micro-batches under ZeRO and FSDP2 in bf16, as muster sets them up, on two CPU ranks: they are
added up as DDP does, and what that takes is what the planner says."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.machine.workers import free_port
from launch.memory import static
from launch.memory.setting import Setting, adapter_of
from launch.model.architecture import from_config
from launch.plan.throughput import traffic
from launch.render import deepspeed_config
from launch.spec import SUMS_FP32, LoraSpec
from tests.conftest import Workspace, command
from tests.training.model.test_initial import plan_for
from tests.training.ranks.summed_gradients import MICRO_BATCHES, SHAPES

pytestmark = pytest.mark.timeout(500)  # the pair's own limit is 400

ARCHITECTURE = from_config({"model_type": "qwen2", **SHAPES}, "config.json")
ADAPTER = adapter_of(ARCHITECTURE, LoraSpec(rank=8))
# DeepSpeed's own way, for comparison.
PLAIN = "zero2 without the types"
HEAD = "lm_head"


@pytest.fixture(scope="module")
def found(base_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """One pair of processes for all."""
    plan = plan_for(base_workspace).model_copy(update={"precision": "bf16"})
    configs = {strategy: deepspeed_config(strategy, plan) for strategy in (*SUMS_FP32, "zero1")}
    types = ("communication_data_type", "data_types")
    configs[PLAIN] = {key: value for key, value in configs["zero2"].items() if key not in types}
    configs = {name: {**config, "saved": []} for name, config in configs.items()}
    configs |= {f"{name}, {HEAD}": {**configs[name], "saved": [HEAD]} for name in ("zero2", "zero3")}
    folder = tmp_path_factory.mktemp("sums")
    asked, file = folder / "cases.json", folder / "found.json"
    asked.write_text(json.dumps(list(configs.values())))
    done = command("-m", "tests.training.ranks.summed_gradients", asked, file, timeout=400)
    assert done.code == 0, done.err
    return dict(zip(configs, json.loads(file.read_text()), strict=True))


def setting(strategy: Any) -> Setting:
    return Setting(
        strategy=strategy, world_size=2, micro_batch_size=1, max_length=24, gradient_checkpointing=False,
        precision="bf16", gpu=False, accumulates=True, adapter=ADAPTER,
    )  # fmt: skip


@pytest.mark.parametrize("strategy", [*SUMS_FP32, f"zero2, {HEAD}", f"zero3, {HEAD}"])
def test_a_step_is_the_fp32_mean_of_its_micro_batches(strategy: str, found: dict[str, dict[str, Any]]) -> None:
    """An output head that is trained is larger than a bucket, and goes by itself."""
    assert found[strategy]["error"] < 1e-5


@pytest.mark.parametrize("way", [PLAIN, "zero1"])
def test_the_run_s_own_type_loses_some_of_them(way: str, found: dict[str, dict[str, Any]]) -> None:
    assert 2e-3 < found[way]["error"] < 2e-2


@pytest.mark.parametrize("strategy", [*SUMS_FP32, "zero1"])
def test_a_run_goes_on_as_if_never_interrupted(strategy: str, found: dict[str, dict[str, Any]]) -> None:
    assert found[strategy]["resumed"]


@pytest.mark.parametrize("strategy", SUMS_FP32)
def test_what_is_held_and_sent_is_what_the_planner_says(strategy: Any, found: dict[str, dict[str, Any]]) -> None:
    here = setting(strategy)
    bucket, pairs = SHAPES["hidden_size"] ** 2, ADAPTER.pairs
    gathered_weights = static.gathers(ARCHITECTURE, here).allocated
    assert found[strategy]["gradients"] == static.gradients(here) == 4 * pairs // 2
    # ZeRO-2 has two, of the run's type, and a copy of one for each exchange; ZeRO-3 one.
    copied = 4 * min(bucket, pairs) if "zero2" in strategy else 0
    assert found[strategy]["buckets"] == 4 * bucket == static.buffers(ARCHITECTURE, here) - copied - gathered_weights
    one, two = (traffic(ARCHITECTURE, here, steps).gradients for steps in (1, 2))
    gathered = 0 if "zero2" in strategy else 2 * 2 * pairs // 2
    assert found[strategy]["sent"] == two - one - gathered


def test_without_the_types_less_is_held_and_sent(found: dict[str, dict[str, Any]]) -> None:
    here = replace(setting("zero2"), fp32_sums=False)
    assert not here.sums_fp32
    one, two = (traffic(ARCHITECTURE, here, steps).gradients for steps in (1, 2))
    assert found[PLAIN]["sent"] == two - one == found["zero2"]["sent"] // 2
    assert static.gradients(here) == 2 * ADAPTER.pairs // 2
    assert MICRO_BATCHES > 16


def test_fsdp2_sums_gradients_in_fp32_though_it_computes_in_bf16(tmp_path: Path) -> None:
    """Over micro-batches and ranks; accelerate's own policy sums in bf16, and the error grows with their number."""
    done = command("-m", "tests.training.ranks.scattered_gradients", free_port(), tmp_path / "found.json")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "found.json").read_text())
    assert max(found["as training has it"]) < 1e-6
    assert found["as accelerate has it"][-1] > 1e-3
