"""What follows from how attempts ended."""

from typing import Any

import pytest

from launch.errors import GO_ON, ExitCode
from launch.machine.hardware import Topology
from launch.plan import Plan, resolve
from launch.spec import RunSpec
from launch.supervise.decisions import (
    Asked,
    Decision,
    Ended,
    Finish,
    Past,
    Requeue,
    Restart,
    decide,
    division,
    fruitless,
    on_fewer_nodes,
    outgrown,
    smaller_batch,
)
from launch.supervise.loop import replanned


def plan(nodes: int = 1, devices: int = 1, **training: Any) -> Plan:
    from launch.model.files import read_architecture

    spec = RunSpec.model_validate(
        {
            "name": "run", "model": {"variant": "qwen2.5-7b"}, "data": {"train": "train.jsonl"},
            "training": {"optimizer": "adamw_torch", **training}, "cluster": {"nodes": nodes, "device": "cpu"},
        }
    )  # fmt: skip
    topology = Topology(
        nodes=nodes, devices_per_node=devices, device="cpu", device_name="CPU process", memory_bytes=1 << 40, bf16=False
    )
    return resolve(spec, read_architecture("qwen2.5-7b"), topology)


def past(*ended: Ended) -> list[Past]:
    return [Past(one, None) for one in ended]


def after(*ended: Ended, asked: Asked = "nobody") -> Decision:
    return decide(plan(), past(*ended), asked)


LOST = Ended(ExitCode.COMMUNICATION, "rank 1 is gone", 4)
CRASHED = Ended(ExitCode.WORKER, "rank 1 ended without a word", 4)


@pytest.mark.parametrize("ended", [LOST, CRASHED])
def test_a_rank_that_is_gone_is_a_reason_to_restart(ended: Ended) -> None:
    assert after(ended) == Restart(ended.reason)


@pytest.mark.parametrize(
    "code", [ExitCode.USAGE, ExitCode.DATA, ExitCode.NUMERICAL, ExitCode.HOST, ExitCode.PREFLIGHT, ExitCode.INTERNAL]
)
def test_what_a_restart_cannot_mend_ends_the_run(code: ExitCode) -> None:
    assert after(Ended(code, "so it is", 4)) == Finish(code, "so it is")
    assert after(Ended(code, "so it is", 4), asked="scheduler") == Finish(code, "so it is")


def test_a_network_that_is_too_slow_is_looked_into() -> None:
    slow = Ended(ExitCode.PREFLIGHT, "0.1 GB/s, 10 GB/s asked for", 0, checks=("fleet-answers",))
    assert isinstance(after(slow), Restart)
    more = Ended(ExitCode.PREFLIGHT, "and a node differs", 0, checks=("fleet-answers", "fleet-alike"))
    assert isinstance(after(more), Finish), "which a restart does not mend"


def test_a_stop() -> None:
    stopped = Ended(ExitCode.STOPPED, "stopped as asked", 4)
    assert after(stopped) == Finish(ExitCode.STOPPED, "stopped as asked")
    assert after(stopped, asked="person") == Finish(ExitCode.STOPPED, "stopped as asked")
    assert after(stopped, asked="scheduler") == Requeue("stopped as asked")
    assert after(CRASHED, asked="scheduler") == Requeue(CRASHED.reason), "it would have been stopped anyway"
    assert after(CRASHED, asked="person") == Finish(ExitCode.WORKER, CRASHED.reason)


def test_done_is_done_whoever_asks() -> None:
    done = Ended(ExitCode.DONE, "done", 22)
    assert after(done, asked="scheduler") == Finish(ExitCode.DONE, "done")


def test_only_who_does_not_go_on_by_itself_says_how_to() -> None:
    killed = Ended(ExitCode.WORKER, f"killed by signal 9{GO_ON}", 4)
    assert after(killed) == Restart("killed by signal 9")
    assert after(killed, asked="person") == Finish(ExitCode.WORKER, "killed by signal 9; continue with --resume auto")


def test_three_restarts_without_a_further_step() -> None:
    assert isinstance(after(CRASHED, CRASHED, CRASHED), Restart)
    last = after(CRASHED, CRASHED, CRASHED, CRASHED)
    assert isinstance(last, Finish)
    assert last.reason.endswith("3 restarts brought no further step (recovery.restarts)")


def test_progress_starts_the_count_anew() -> None:
    further = Ended(ExitCode.WORKER, "again", 9)
    assert fruitless(past(CRASHED, CRASHED, further)) == 1
    assert fruitless(past(CRASHED, further, CRASHED)) == 2, "a step that was trained before is no progress"
    assert fruitless(past(CRASHED, Ended(ExitCode.STOPPED, "preempted", 4), CRASHED)) == 1


def test_the_same_error_at_the_same_step() -> None:
    error = Ended(ExitCode.WORKER, "rank 0: KeyError", 4, error="KeyError")
    assert isinstance(after(error), Restart)
    assert isinstance(after(error, error), Finish)
    assert isinstance(after(Ended(ExitCode.WORKER, "", 3, error="KeyError"), error), Restart)


def test_halving_the_micro_batch_keeps_the_global_one() -> None:
    made, seen = plan(micro_batch_size=8, gradient_accumulation_steps=3), []
    while (spec := smaller_batch(made)) is not None:
        made = replanned(made, spec)
        seen.append((made.micro_batch_size, made.gradient_accumulation_steps, made.gradient_checkpointing))
        assert made.global_batch_size == 24
    assert seen == [(4, 6, False), (2, 12, False), (1, 24, False), (1, 24, True)]


def test_so_many_checkpointed_blocks_stay_so_many_until_the_micro_batch_is_one() -> None:
    made, seen = plan(micro_batch_size=4, gradient_checkpointing=9), []
    while (spec := smaller_batch(made)) is not None:
        told, made = division(made, spec), replanned(made, spec)
        seen.append((made.micro_batch_size, made.checkpointed_layers))
    assert seen == [(2, 9), (1, 9), (1, 28)]
    assert told == (
        "out of GPU memory at micro-batch 1: activations of all 28 blocks, not of 9 alone, are recomputed from here on"
    )


def test_a_micro_batch_that_cannot_be_halved_becomes_a_divisor() -> None:
    spec = smaller_batch(plan(micro_batch_size=5, gradient_accumulation_steps=3))
    assert spec is not None
    assert spec.training.micro_batch_size == 1


def test_out_of_memory_with_nothing_left_to_give() -> None:
    small = plan(micro_batch_size=1, gradient_checkpointing=True)
    ended = Ended(ExitCode.GPU_MEMORY, "CUDA out of memory", 0)
    decision = decide(small, past(ended), "nobody")
    assert decision == Finish(
        ExitCode.GPU_MEMORY, "CUDA out of memory\nthe micro-batch is 1 and activations are recomputed already"
    )


def test_what_ran_out_of_memory_is_not_tried_again() -> None:
    big, small = plan(micro_batch_size=4), plan(micro_batch_size=2)
    ended = Ended(ExitCode.GPU_MEMORY, "CUDA out of memory", 0)
    assert outgrown(big, [Past(ended, big)])
    assert not outgrown(small, [Past(ended, big)])
    assert not outgrown(plan(micro_batch_size=4, gradient_checkpointing=True), [Past(ended, big)])
    assert not outgrown(big, [Past(CRASHED, big)])
    some, more = (plan(micro_batch_size=4, gradient_checkpointing=layers) for layers in (9, 10))
    assert outgrown(some, [Past(ended, some)])
    assert outgrown(some, [Past(ended, more)])
    assert not outgrown(more, [Past(ended, some)])


@pytest.mark.parametrize(
    ("nodes", "healthy", "expected"),
    [(4, 3, 2), (4, 2, 2), (4, 1, None), (3, 2, 2), (2, 1, 1), (6, 5, 4)],
)
def test_fewer_nodes_at_the_same_global_batch(nodes: int, healthy: int, expected: int | None) -> None:
    made = plan(nodes=nodes, global_batch_size=12 if nodes in (3, 6) else 16, micro_batch_size=1)
    spec = on_fewer_nodes(made, healthy)
    assert (None if spec is None else spec.cluster.nodes) == expected
    if spec is not None:
        fewer = replanned(made, spec)
        assert (fewer.topology.nodes, fewer.global_batch_size) == (expected, made.global_batch_size)
        assert spec.training.gradient_checkpointing == "auto"  # fewer nodes may need more of it


def test_a_site_or_a_spec_that_does_not_requeue_ends_with_75() -> None:
    made = plan()
    slurm = made.spec.slurm.model_copy(update={"requeue": False})
    kept = made.model_copy(update={"spec": made.spec.model_copy(update={"slurm": slurm})})
    assert decide(kept, past(CRASHED), "scheduler") == Finish(ExitCode.STOPPED, CRASHED.reason)


def test_out_of_memory_before_a_time_limit_is_for_the_next_start() -> None:
    ended = Ended(ExitCode.GPU_MEMORY, "CUDA out of memory", 4)
    assert decide(plan(micro_batch_size=4), past(ended), "scheduler") == Requeue("CUDA out of memory")
    smallest = plan(micro_batch_size=1, gradient_checkpointing=True)
    assert isinstance(decide(smallest, past(ended), "scheduler"), Finish)


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3", "zero3_offload"])
def test_a_smaller_batch_keeps_the_strategy(strategy: str) -> None:
    made = plan(micro_batch_size=4)
    made = made.model_copy(update={"strategy": strategy})
    spec = smaller_batch(made)
    assert spec is not None
    assert spec.cluster.strategy == strategy
