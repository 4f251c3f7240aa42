"""What is checked of a sweep before it is sent."""

import json
from pathlib import Path

import pytest

from launch.cluster.job import batch_job
from launch.commands.checking import of_batch
from launch.machine.hardware import parse_gpus
from launch.plan import resolve
from launch.preflight.result import Batch
from launch.rundir import RunDir
from launch.submit.job import Request
from tests.launch.conftest import architecture_of, spec_of
from tests.launch.preflight.test_slurm import cluster

ELEMENTS = [
    ["cluster.strategy=zero3", "training.epochs=1"],
    ["cluster.strategy=zero3", "training.epochs=100"],
    ["cluster.strategy=zero3_offload", "training.epochs=1"],
]


@pytest.mark.parametrize(
    ("slurm", "status", "told"),
    [
        ({"time": "2:00:00", "mem": "100G"}, ("warn", "pass"), ("run 1 ", "100.0 GiB on each node")),
        ({"time": "6:00:00", "mem": "60G"}, ("pass", "fail"), ("6:00:00 of ", "run 2 ")),
    ],
)
def test_memory_and_time_are_those_of_the_element_that_needs_most(
    slurm: dict[str, str], status: tuple[str, str], told: tuple[str, str], tmp_path: Path
) -> None:
    """The first fits in all of them: by it alone the second would be ended by the clock, the third for its memory."""
    row = {"messages": [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "that"}]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    runs = []
    for number, (strategy, epochs) in enumerate(ELEMENTS):
        spec = spec_of(
            data={"train": str(tmp_path / "train.jsonl")}, slurm={**slurm, "requeue": False},
            cluster={"strategy": strategy.partition("=")[2]}, training={"epochs": int(epochs.partition("=")[2])},
        )  # fmt: skip
        plan = resolve(spec, architecture_of(spec), parse_gpus("8xA100-80GB", 1), data_bytes=10_000_000)
        runs.append((plan, RunDir(tmp_path / str(number))))
    batch = Batch(cluster(), batch_job(*runs[0], cluster().nodes), "#!/bin/bash\n")
    request = Request(runs, batch, tmp_path / "job.sbatch", tmp_path, ELEMENTS)
    found = {result.name: result for result in of_batch(request, tmp_path / "run.yaml", [], []).results}
    time, memory = found["slurm-time"], found["slurm-memory"]
    assert (time.status, memory.status) == status, (time, memory)
    assert time.evidence.startswith(told[0])
    assert memory.evidence.startswith(told[1])
