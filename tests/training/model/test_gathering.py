"""The forecast's coordinator against DeepSpeed's own, on two CPU ranks: the same is gathered at every module."""

import json
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest

from launch.memory.allocator import Pool
from launch.memory.gathering import Coordinator, Limits, Trace, Visit, window
from launch.memory.passes import enough, limits, most_gathered, trace
from launch.memory.setting import Setting, adapter_of
from launch.model.architecture import Architecture, from_config
from launch.plan.throughput import base_gathers
from launch.spec import LoraSpec
from tests.conftest import command

HIDDEN, RANKS, PASSES = 64, 2, 4
BASE = {
    "model_type": "qwen2", "hidden_size": HIDDEN, "intermediate_size": 176, "num_hidden_layers": 5,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300,
    "max_position_embeddings": 512, "tie_word_embeddings": False,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    config: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] = field(default_factory=dict)
    live: int = 10**9
    reuse: int = 10**9
    checkpointed: int = 5

    @property
    def architecture(self) -> Architecture:
        return from_config({**BASE, **self.config}, "config.json")

    @property
    def adapter(self) -> LoraSpec:
        return LoraSpec(**{"rank": 4, **self.lora})

    @property
    def limits(self) -> Limits:
        return limits(self.architecture)._replace(live=self.live, reuse=self.reuse)

    def asked(self) -> dict[str, Any]:
        zero = {
            "reduce_bucket_size": HIDDEN**2, "stage3_prefetch_bucket_size": self.limits.prefetch,
            "stage3_param_persistence_threshold": self.limits.persistent, "stage3_max_live_parameters": self.live,
            "stage3_max_reuse_distance": self.reuse,
        }  # fmt: skip
        return {
            "config": {**BASE, **self.config}, "checkpointed": self.checkpointed, "rank": self.adapter.rank,
            "targets": self.adapter.target_modules, "zero": zero,
        }  # fmt: skip

    def setting(self) -> Setting:
        return Setting(
            strategy="zero3", world_size=RANKS, micro_batch_size=1, max_length=16, precision="fp32", gpu=False,
            gradient_checkpointing=self.checkpointed > 0, checkpointed_layers=self.checkpointed,
            adapter=adapter_of(self.architecture, self.adapter),
        )  # fmt: skip

    def passes(self) -> Trace:
        return trace(self.architecture, self.setting(), self.architecture.layers)


# The pair's own limit is 400.
pytestmark = pytest.mark.timeout(500)

# A block has 43,840 elements, embeddings 19,200.
CASES = {
    "all is kept": Case(),
    "a block and a half": Case(live=60_000, reuse=60_000),
    "without checkpoints": Case(live=60_000, reuse=60_000, checkpointed=0),
    "three of five checkpointed": Case(live=60_000, reuse=60_000, checkpointed=3),
    "less than a block": Case(live=20_000, reuse=20_000),
    "less than a block, two of five checkpointed": Case(live=20_000, reuse=20_000, checkpointed=2),
    "less than a block, without checkpoints": Case(live=20_000, reuse=20_000, checkpointed=0),
    "gathered ahead, not kept": Case(live=100_000, reuse=0),
    "kept, not gathered ahead": Case(live=1, reuse=100_000, checkpointed=0),
    "Qwen3": Case({"model_type": "qwen3"}, live=60_000, reuse=60_000),
    "Llama, a large vocabulary": Case({"model_type": "llama", "vocab_size": 3000}, live=60_000, reuse=60_000),
    "tied embeddings": Case({"tie_word_embeddings": True, "vocab_size": 1000}, live=60_000, reuse=60_000),
    "two layers are adapted": Case(lora={"target_modules": ["q_proj", "down_proj"]}, live=60_000, reuse=60_000),
    "one layer is adapted": Case(lora={"target_modules": ["down_proj"]}, live=60_000, reuse=60_000),
    "two layers are adapted, without checkpoints": Case(
        lora={"target_modules": ["v_proj", "gate_proj"]}, live=60_000, reuse=60_000, checkpointed=0
    ),
    "adapters that do not stay": Case(lora={"rank": 16}, live=60_000, reuse=60_000, checkpointed=0),
}
# Where every block is gathered anew in each pass.
SHORT = [name for name in CASES if name.startswith("less than a block")]


class Watched(Coordinator):
    """Tells of each module what is gathered: F and B where it begins, forward and backward, f and b where it ends."""

    rows: list[tuple[str, int]]

    def begin(self, visit: Visit) -> None:
        super().begin(visit)
        self.rows.append(("F" if visit.forward else "B", self.gathered))

    def end(self, visit: Visit) -> None:
        super().end(visit)
        self.rows.append(("f" if visit.forward else "b", self.gathered))


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What they gathered of each case: one pair of processes for all."""
    folder = tmp_path_factory.mktemp("gathering")
    asked, found = folder / "cases.json", folder / "found.json"
    cases = [{**case.asked(), "fsdp2": name in SHORT} for name, case in CASES.items()]
    asked.write_text(json.dumps(cases))
    done = command("-m", "tests.training.model.gathered_weights", asked, found, timeout=400)
    assert done.code == 0, done.err
    return dict(zip(CASES, json.loads(found.read_text()), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_the_same_is_gathered_at_every_module(name: str, engines: dict[str, dict[str, Any]]) -> None:
    case = CASES[name]
    coordinator = Watched(case.passes(), case.limits, Pool())
    for number in range(PASSES):
        coordinator.rows = []
        coordinator.run(known=number > 0, stepped=number > 1)
    assert [list(row) for row in coordinator.rows] == engines[name]["zero3"]
    assert len(coordinator.rows) > 400


@pytest.mark.parametrize("name", SHORT)
def test_how_often_a_block_is_gathered(name: str, engines: dict[str, dict[str, Any]]) -> None:
    """Forward and backward, and under ZeRO-3 once more where it is computed again; what is outside of blocks less."""
    case = CASES[name]
    counts = [count for _, count in engines[name]["zero3"]]
    zero3 = sum(max(0, after - before) for before, after in pairwise(counts))
    blocks = case.architecture.linear_parameters
    for strategy, gathered in (("zero3", zero3), ("fsdp2", engines[name]["fsdp2"])):
        times = base_gathers(case.architecture, replace(case.setting(), strategy=strategy))
        assert times == (2 + case.checkpointed / 5 if strategy == "zero3" else 2)
        assert times * blocks < gathered <= times * (case.architecture.parameters + case.setting().adapter.pairs)


@pytest.mark.parametrize("name", ["a block and a half", "Qwen3", "tied embeddings", "two layers are adapted"])
def test_few_blocks_tell_of_all(name: str) -> None:
    case = replace(CASES[name], config={**CASES[name].config, "num_hidden_layers": 30}, checkpointed=30)
    assert enough(case.architecture, case.limits) < 10
    few, all_of_them = most_gathered(case.architecture, case.setting(), case.limits), window(case.passes(), case.limits)
    assert few.elements == pytest.approx(all_of_them.elements, rel=0.01)
    assert few.allocated == pytest.approx(all_of_them.allocated, rel=0.1)  # of 64 elements the allocator makes 128
