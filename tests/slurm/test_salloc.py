"""muster run in a session of salloc, on a terminal: what Ctrl-C does there."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Workspace, read_rows
from tests.faults import before_steps
from tests.launch.watching.pseudo import Terminal
from tests.slurm.cluster import Cluster
from tests.slurm.commands import PATIENCE
from tests.slurm.runs import SLOW

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
CTRL_C = "\x03"


@pytest.fixture(scope="module")
def cluster(real_slurm: None) -> Iterator[Cluster]:
    with Cluster(nodes=2) as started:
        yield started


def session(cluster: Cluster, workspace: Workspace, name: str, fault: str) -> tuple[Terminal, Path]:
    """Two nodes, one rank each."""
    import sys

    spec = workspace.spec(
        name, data={"eval": None}, training={"save_steps": 4},
        cluster={"nodes": 2, "devices_per_node": 1, "device": "cpu", "strategy": "ddp"},
    )  # fmt: skip
    variables = before_steps(workspace.root / f"{name}-fault", f"{SLOW}\n{fault}")
    run = workspace.root / name
    argv = ["salloc", "--nodes=2", "--ntasks-per-node=1", "--no-kill", "--time=20", sys.executable, "-m", "launch"]
    argv += ["run", str(spec), "--run-dir", str(run)]
    return Terminal(argv, 120, 40, SLURM_CONF=f"{cluster.directory}/slurm.conf", TERM="dumb", **variables), run


def steps(run: Path) -> int:
    return len(read_rows(run / "samples.jsonl")) if (run / "samples.jsonl").exists() else 0


def until(terminal: Terminal, done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, f"not {what}: {terminal.sent.decode(errors='replace')}"
        time.sleep(0.05)


def nothing_runs(cluster: Cluster) -> bool:
    return not any("launch" in str(words) or "training" in words for name in cluster.names
                   for words in cluster.processes(name).values())  # fmt: skip


def test_once_saves_and_ends_with_75(cluster: Cluster, workspace: Workspace) -> None:
    terminal, run = session(cluster, workspace, "once", "pass")
    with terminal:
        until(terminal, lambda: steps(run) >= 5, "at step 5")
        terminal.press(CTRL_C)
        assert terminal.ends(PATIENCE) == 75
        assert b"stopping: the run saves a checkpoint at the next step and ends; once more to kill it" in terminal.sent
    (stopped,) = [row for row in read_rows(run / "events.jsonl") if row["event"] == "stopped"]
    assert (run / f"checkpoints/step-{stopped['step']:06d}").is_dir()
    cluster.wait_until(lambda: nothing_runs(cluster), "nothing left on the nodes")


def test_twice_kills_a_run_that_comes_to_no_step(cluster: Cluster, workspace: Workspace) -> None:
    terminal, run = session(cluster, workspace, "twice", "if step == 6:\n    time.sleep(10000)")
    with terminal:
        until(terminal, lambda: steps(run) >= 5, "at step 5")
        terminal.press(CTRL_C)
        until(terminal, lambda: b"once more to kill it" in terminal.sent, "asked to stop")
        terminal.press(CTRL_C)
        assert terminal.ends(PATIENCE) == 10
        assert b"killed as asked, before it could save" in terminal.sent
    assert [row for row in read_rows(run / "events.jsonl") if row["event"] == "stopped"] == []
    cluster.wait_until(lambda: nothing_runs(cluster), "nothing left on the nodes")
