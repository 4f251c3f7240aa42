"""The job and the step around a process, from Slurm's environment."""

import pytest

from launch.cluster.allocation import allocated_nodes, allocation, job_name, node_name, step
from launch.errors import UsageError


def test_outside_of_a_job() -> None:
    assert allocation({}) is None
    assert allocation({"SLURM_JOB_ID": "12"}) is None, "left over: there are no nodes"


def test_slurm_that_does_not_tell_its_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        UsageError,
        match="this is a Slurm job of n\\[0-1\\], but its nodes cannot be told: scontrol is not on this machine",
    ):
        allocation({"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "n[0-1]"})


def test_a_task_of_an_array_is_called_by_both_numbers() -> None:
    assert job_name({"SLURM_JOB_ID": "14", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "2"}) == "12_2"
    assert job_name({"SLURM_JOB_ID": "14"}) == "14"


def test_a_rank_is_srun_s_or_an_error() -> None:
    found = step({"SLURM_NODEID": "1", "SLURMD_NODENAME": "n1", "SLURM_STEP_NUM_NODES": "2"})
    assert (found.node_rank, found.node, found.nodes) == (1, "n1", 2)
    with pytest.raises(UsageError, match="this is no task of srun"):
        step({"SLURM_NODEID": "0", "SLURMD_NODENAME": "n1"})


def test_a_node_is_called_as_slurm_calls_it() -> None:
    assert node_name({"SLURMD_NODENAME": "n1"}) == "n1"
    assert node_name({})


@pytest.mark.parametrize(
    ("environment", "nodes"),
    [
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "3"}, 3),
        ({"SLURM_JOB_NUM_NODES": "3"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": ""}, None),
        ({}, None),
    ],
)
def test_the_nodes_of_an_allocation(environment: dict[str, str], nodes: int | None) -> None:
    assert allocated_nodes(environment) == nodes
