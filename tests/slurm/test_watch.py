"""muster watch on a login node: a run that waits, trains on two nodes, and ends."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Workspace, environment, muster
from tests.launch.watching.pseudo import Terminal
from tests.slurm.cluster import Cluster


@pytest.mark.timeout(600)
def test_a_run_is_watched_from_the_queue_to_its_end(cluster: Cluster, workspace: Workspace, tmp_path: Path) -> None:
    """On a terminal and in a pipe at once."""
    spec = workspace.spec(
        "queued", slurm={"partition": "main", "time": "20"}, preflight={"accept": ["slurm-shared"]},
        cluster={"nodes": 2, "devices_per_node": 1, "device": "cpu", "strategy": "ddp"},
    )  # fmt: skip
    blocker = cluster.submit("#!/bin/sh\nsleep infinity\n", "--exclusive", "--nodes=3", "--time=5")
    cluster.wait(blocker, "RUNNING")
    slurm = {"SLURM_CONF": f"{cluster.directory}/slurm.conf"}
    submitted = muster("submit", spec, cwd=tmp_path, **slurm)
    assert submitted.code == 0, submitted.err
    job, run = submitted.out.strip(), tmp_path / "runs/queued"
    argv = [sys.executable, "-m", "launch", "watch", str(run)]
    with (
        Terminal(argv, 100, 30, **slurm) as terminal,
        subprocess.Popen(argv, cwd=ROOT, env=environment(**slurm), stdout=subprocess.PIPE, text=True) as lines,
    ):
        screen = terminal.wait_for("queued  waiting", 60)
        assert f"  job {job}" in screen.text()[0]
        assert lines.stdout is not None
        told = [lines.stdout.readline().rstrip()]
        cluster.slurm("scancel", blocker)
        runs = terminal.wait_for(lambda screen: screen.text()[0].startswith("queued  running"), 240)
        # Which two is Slurm's choice: it waits for no node that still clears the blocker away.
        assert re.search(rf"attempt 1  job {job} on n(\[0-1\]|\[1-2\]|\[0,2\]) ", runs.text()[0]), runs.text()[0]
        assert terminal.ends(240) == 0
        assert terminal.as_it_was()
        assert "queued  finished" in "\n".join(terminal.screen().text())
        told += lines.stdout.read().splitlines()
        assert lines.wait(60) == 0
    assert told[0].startswith("queued: waiting: ")
    assert [line.partition(":")[0] for line in told if ": loss" in line] == [f"step {n}/22" for n in range(1, 23)]
    assert told[-1].startswith("queued: finished, attempt 1, step 22/22")
    cluster.wait(job, "COMPLETED")
