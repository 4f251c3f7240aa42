"""What the planner says that a rank sends, against what two ranks of a run do send, step by step, under each engine."""

from itertools import pairwise

import pytest

from launch.plan import Plan
from launch.plan.throughput import traffic
from tests.conftest import Workspace, command, make_base, read_rows

MICRO_BATCHES = 3
# Losses and gradient norms that ranks tell one another, and what fills gathered tensors up.
SMALL = 1000


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, base_workspace: Workspace) -> Workspace:
    """Wide enough that what ranks tell one another is small beside an adapter."""
    root = tmp_path_factory.mktemp("traffic")
    make_base(root / "base", intermediate_size=128)
    (root / "train.jsonl").symlink_to(base_workspace.root / "train.jsonl")
    return Workspace(root)


def steps(strategy: str, workspace: Workspace) -> tuple[list[dict[str, int]], Plan]:
    """Bytes by kind of collective of each step but the first, in which engines make what they then keep."""
    spec = workspace.spec(
        strategy, data={"eval": None}, lora={"rank": 16}, cluster={"strategy": strategy, "devices_per_node": 2},
        training={"global_batch_size": 4 * MICRO_BATCHES, "epochs": 1, "save_steps": 100, "gradient_checkpointing": 1},
    )  # fmt: skip
    run, file = workspace.root / f"run-{strategy}", workspace.root / f"sent-{strategy}"
    launcher = ("-m", "accelerate.commands.accelerate_cli", "launch", "--config_file")
    on_cpu = "0" if strategy.startswith("zero") else "1"  # DeepSpeed would be left out in silence
    done = command(
        *launcher, f"accelerate_configs/{strategy}.yaml", "--num_processes", 2, "--main_process_port", 0,
        "-m", "tests.training.ranks.sent_bytes", spec, "--run-dir", run, SENT=str(file), ACCELERATE_USE_CPU=on_cpu,
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = read_rows(file)[1:]
    assert len(rows) == 3
    made = [{kind: after[kind] - before.get(kind, 0) for kind in after} for before, after in pairwise(rows)]
    return made, Plan.model_validate_json((run / "plan.json").read_text())


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "fsdp2"])
def test_two_ranks_send_what_the_planner_says(strategy: str, wide: Workspace) -> None:
    made, plan = steps(strategy, wide)
    expected = traffic(plan.architecture, plan.setting, plan.gradient_accumulation_steps)
    assert plan.gradient_accumulation_steps == MICRO_BATCHES
    for sent in made:
        assert 0 <= sum(sent.values()) - expected.gradients - expected.base < SMALL
    reductions = {"ddp": 2, "zero1": 2, "zero2": 2 * MICRO_BATCHES, "fsdp2": 1}
    adapter = 4 * plan.setting.adapter.pairs / 2
    reduced = made[0].get("all-reduce", 0) + made[0].get("reduce-scatter", 0)
    assert reduced == pytest.approx(reductions[strategy] * adapter, abs=SMALL)


def test_zero3_scatters_gradients_in_every_micro_batch_and_gathers_no_more_than_the_planner_says(
    wide: Workspace,
) -> None:
    """Less here: a base of a hundred thousand parameters is kept whole between the passes. How often a large one is
    gathered is in tests/training/model/test_gathering.py."""
    made, plan = steps("zero3", wide)
    expected = traffic(plan.architecture, plan.setting, plan.gradient_accumulation_steps)
    adapter = 4 * plan.setting.adapter.pairs // 2
    for sent in made:
        assert sent["reduce-scatter"] == MICRO_BATCHES * adapter
        assert 0.4 * expected.bytes < sum(sent.values()) < expected.bytes
