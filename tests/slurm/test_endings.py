"""Faults that end a run on a real Slurm: its exit code is the job's, and it does not go back into the queue."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Workspace, muster
from tests.slurm.chaos import after_each_file, assert_the_same, own_clock
from tests.slurm.cluster import Cluster
from tests.slurm.runs import STEPS, Reader, SlurmRun

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]
NAN_WEIGHT = """
import torch
if step == 7:
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            with torch.no_grad():
                parameter.fill_(float("nan"))
"""


@pytest.fixture(scope="module")
def cluster(real_slurm: None) -> Iterator[Cluster]:
    with Cluster(nodes=2) as started:
        yield started


def ended(run: SlurmRun, code: int) -> None:
    """The job has failed with this code, once and for all."""
    assert run.ends(seconds=300) == "FAILED", run.cluster.output(run.job)
    found = run.cluster.job(run.job)
    assert (found["ExitCode"], found["Restarts"]) == (f"{code}:0", "0"), run.cluster.output(run.job)


def test_a_loss_that_is_not_finite_stops_the_run_where_the_guard_may_do_nothing(
    cluster: Cluster, workspace: Workspace
) -> None:
    run = SlurmRun(cluster, workspace, "nan", fault=NAN_WEIGHT, sections={"stability": {"actions": []}})
    with Reader(run) as reader:
        run.submit()
        ended(run, 7)
    assert run.outcomes() == ["numerical"]
    assert not reader.wrong
    assert state(run, cluster)["state"] == "failed"
    assert all("ids" in row for row in run.rows("samples.jsonl")[:6])


OUT_OF_MEMORY = """
import torch
if step == 7:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
"""


def test_memory_that_no_division_of_the_batch_spares(cluster: Cluster, workspace: Workspace) -> None:
    run = SlurmRun(cluster, workspace, "memory", fault=OUT_OF_MEMORY).submit()
    ended(run, 6)
    assert run.outcomes() == ["gpu_memory"] * 3
    changed = [(row["micro_batch_size"], row["global_batch_size"], row["gradient_checkpointing"])
               for row in run.events("oom")]  # fmt: skip
    assert changed == [(1, 4, False), (1, 4, True)]
    assert "the micro-batch is 1 and activations are recomputed already" in cluster.output(run.job)


def test_restarts_that_bring_no_further_step(cluster: Cluster, workspace: Workspace) -> None:
    fault = "if (step, rank) == (7, 1):\n    os.kill(os.getpid(), 9)"
    run = SlurmRun(cluster, workspace, "fruitless", fault=fault, sections={"recovery": {"restarts": 1}}).submit()
    ended(run, 10)
    assert run.outcomes() == ["worker"] * 2
    assert "1 restart brought no further step (recovery.restarts)" in cluster.output(run.job)


def test_a_row_that_cannot_be_used_ends_the_job_before_anything_is_trained(
    cluster: Cluster, workspace: Workspace
) -> None:
    (workspace.root / "bad.jsonl").write_text('{"question": "what", "documents": [], "answer": ""}\n')
    run = SlurmRun(cluster, workspace, "bad-row", sections={"data": {"train": "bad.jsonl", "eval": None}}).submit()
    ended(run, 5)
    assert "bad.jsonl:1" in cluster.output(run.job)
    assert run.outcomes() == []


def state(run: SlurmRun, cluster: Cluster) -> dict[str, Any]:
    found = muster("status", run.root, "--json", cwd=run.workspace.root, SLURM_CONF=f"{cluster.directory}/slurm.conf")
    return dict(json.loads(found.out))


def fill(path: Path) -> None:
    """Takes what is left of a disk."""
    with open(path, "wb") as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
            file.flush()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 96 MiB. A cluster's nodes see it that start after it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_disk_that_fills_up_while_a_checkpoint_is_written_and_has_space_again(
    small_disk: Path, real_slurm: None, workspace: Workspace
) -> None:
    """Exit code 9, no requeue; submitted again, it ends as a run that nothing happened to."""
    ballast, run_dir, full = small_disk / "ballast", small_disk / "run", workspace.root / "is-full"
    # The save of step 8 goes on once the disk is full.
    fault = after_each_file(
        f"while 'step-000008' in str(given) and not os.path.exists({str(full)!r}): time.sleep(0.05)"
    )
    with Cluster(nodes=2) as cluster:
        undisturbed = SlurmRun(cluster, workspace, "undisturbed").submit()
        assert undisturbed.ends() == "COMPLETED"
        sections = {"slurm": {"partition": "main", "time": "20"}, "preflight": {"accept": ["slurm-shared"]}}
        run = SlurmRun(cluster, workspace, "full", fault=fault, sections=sections, directory=run_dir).submit()
        with Reader(run) as reader:
            run.until(lambda: any(run_dir.glob("checkpoints/.step-000008.partial/*")), "saving step 8")
            fill(ballast)
            full.touch()
            ended(run, 9)
        assert not reader.wrong
        assert [path.name for path in run.root.glob("checkpoints/step-*")] == ["step-000004"]
        assert "No space left on device" in cluster.output(run.job)
        ballast.unlink()
        spec = workspace.root / "full.yaml"
        here = {"SLURM_CONF": f"{cluster.directory}/slurm.conf"}
        sent = muster("submit", spec, "--run-dir", run_dir, cwd=workspace.root, **here)
        assert sent.code == 0, sent.err
        run.job = sent.out.strip()
        assert run.ends() == "COMPLETED", (run_dir / f"job-{run.job}.log").read_text()
        assert run.events("resumed")[-1]["step"] == 4
        assert_the_same(run, undisturbed, 0.0)


def test_the_clock_of_the_batch_script_s_node_goes_back_an_hour(cluster: Cluster, workspace: Workspace) -> None:
    """While a run trains, and before it is stopped: what it says of itself then seems older than its beginning."""
    run = SlurmRun(cluster, workspace, "clock-back", variables=own_clock(workspace.root)).submit()
    run.at_step(6)
    cluster.replace_file(run.ranks()[0]["node"], run.variables["CLOCK_IS_OFF_BY"], "-3600")
    run.until(lambda: run.step() > 8, "going on")
    (run.root / "stop").touch()
    assert run.ends(seconds=180) == "FAILED"
    assert run.exit_code() == 75, cluster.output(run.job)
    assert run.outcomes() == ["stopped"]
    again = SlurmRun(cluster, workspace, "clock-back").submit()
    assert again.ends() == "COMPLETED", cluster.output(again.job)
    assert [row["step"] for row in again.rows("samples.jsonl")] == list(range(1, STEPS + 1))
