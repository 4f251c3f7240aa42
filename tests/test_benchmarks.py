"""The harness of benchmarks/throughput.py: the same job on each side, and what is counted of it."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.jobs import TRAINED, WARM_UP, Clock, Job, Measured, between, rows
from benchmarks.throughput import ON_CPU, ON_GPU, planned, written
from launch.variants import VARIANTS
from tests.conftest import ROOT, environment

SHORT = Job("small", False, "none", "mixture", max_length=256, accumulation=2, steps=2)


def test_the_jobs_are_those_of_the_real_shapes() -> None:
    assert {job.model for job in ON_GPU.values()} == {"qwen2.5-7b", "qwen2.5-14b"}
    assert {(job.quantization, job.lengths) for job in ON_GPU.values()} == {
        (held, lengths) for held in ("none", "nf4") for lengths in ("fixed", "mixture")
    }
    assert all(job.max_length == 4096 and job.rank == 16 for job in ON_GPU.values())
    assert ON_GPU["7b-fixed"].architecture == VARIANTS["qwen2.5-7b"].architecture
    assert {job.lengths for job in ON_CPU.values()} == {"fixed", "mixture", "rag"}


def test_the_same_rows_each_time_and_enough_of_them() -> None:
    made, again = rows(SHORT), rows(SHORT)
    assert all((one.ids == other.ids).all() for one, other in zip(made, again, strict=True))
    assert sum(len(row.ids) for row in made) >= SHORT.accumulation * (SHORT.steps + WARM_UP) * SHORT.max_length
    assert all(0 < row.trained_from < len(row.ids) <= SHORT.max_length for row in made)
    assert all(0 < share <= 1 for share in TRAINED.values())
    assert {len(row.ids) for row in rows(replace(SHORT, lengths="fixed"))} == {256}


def test_rows_become_muster_s_sequences(tmp_path: Path) -> None:
    made = rows(SHORT)
    sequences = written(tmp_path / "rows", made, SHORT.max_length)
    assert sequences.statistics.tokens == sum(len(row.ids) for row in made)
    first = sequences[0]
    whole = made[int(sequences.names(0)[0].split("-")[1])]
    assert (first["input_ids"][: len(whole.ids)] == whole.ids).all()
    assert (first["labels"][whole.trained_from : len(whole.ids)] == whole.ids[whole.trained_from :]).all()


def test_settings_reach_the_spec_that_is_trained() -> None:
    plan = planned(replace(SHORT, settings={"training.loss": "plain", "model.attention": "eager"}))
    assert (plan.loss, plan.attention, plan.optimizer) == ("plain", "eager", "adamw_torch_fused")


def test_steps_are_timed_after_the_warm_up() -> None:
    assert between([1.0, 3.0, 4.0, 6.0]) == [1.0, 2.0]
    clock = Clock(gpu=False)
    clock.tick()
    clock.tick()
    assert clock.wall[0] < clock.wall[1]
    found = Measured([1.0, 4.0, 2.0], [10, 10, 10], 0, 1.0, [1.0, 1.0, 1.0])
    assert found.tokens_per_second == 5
    assert found.tokens_per_cpu_second == 10


def test_muster_s_side_counts_what_it_trained_on(tmp_path: Path) -> None:
    job, file = tmp_path / "job.json", SHORT
    job.write_text(json.dumps(asdict(file)))
    done = subprocess.run(
        [sys.executable, "benchmarks/throughput.py", "--one", job], cwd=ROOT, env=environment(), capture_output=True,
        text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = Measured(**json.loads(done.stdout.splitlines()[-1]))
    assert len(found.step_seconds) == len(found.step_tokens) == len(found.cpu_seconds) == SHORT.steps
    assert all(0.9 * 512 < tokens <= 512 for tokens in found.step_tokens)
    assert found.computed_tokens == SHORT.steps * 512
    assert found.first_loss == pytest.approx(8.72, abs=0.05)  # the logarithm of 6,144: nothing is known yet
