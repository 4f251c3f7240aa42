"""Faults of a supervised run on the tests' Slurm. Each one says what has to hold afterwards; tests and the table of
docs/reliability.md are both made from SCENARIOS."""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from tests.conftest import ROOT, Workspace, losses, parent_of, variables_of
from tests.faults import before_steps
from tests.slurm.cluster import Cluster
from tests.slurm.runs import SLOW, STEPS, SlurmRun

# Where a hang, or a silence of a third of that, has to be noticed. All other runs have a minute: processes that wait
# for a core are silent, too.
NOTICED_SOON = {"recovery": {"hang_seconds": 15.0}}
# Two runs on the same devices add up in the same order; on others they do not.
EXACT, OTHER_DEVICES = 0.0, 1e-5


@dataclass(frozen=True)
class Scenario:
    """`strike` disturbs a run that has begun and returns when, in seconds since 1970. One that waits for what comes of
    it lets the run go on before that."""

    name: str
    does: str
    strike: Callable[[SlurmRun], float]
    tolerance: float = EXACT
    spares: int = 0
    nodes: int = 2
    fault: str = "pass"
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    variables: Callable[[Path], dict[str, str]] = lambda folder: {}
    """What the job's environment has more, for a run in this folder."""
    options: tuple[str, ...] = ()
    outcomes: tuple[str, ...] | None = None
    """Classes of the attempts that left an outcome, where they are certain."""
    check: Callable[[SlurmRun], None] = lambda run: None


def disturbed(scenario: Scenario, cluster: Cluster, workspace: Workspace) -> SlurmRun:
    """The run, begun and ready for its fault."""
    run = SlurmRun(
        cluster, workspace, scenario.name, scenario.nodes, scenario.spares, scenario.fault, scenario.sections,
        scenario.options, scenario.variables(workspace.root), waits_for_fault=True,
    )  # fmt: skip
    return run.submit()


def assert_the_same(run: SlurmRun, undisturbed: SlurmRun, tolerance: float) -> None:
    """Done, each sample once, and the losses and the adapter of the undisturbed run."""
    assert run.exit_code() == 0, run.cluster.output(run.job)
    ledger, reference = run.rows("samples.jsonl"), undisturbed.rows("samples.jsonl")
    assert [row["step"] for row in ledger] == list(range(1, STEPS + 1))
    assert [sorted(row["ids"]) for row in ledger] == [sorted(row["ids"]) for row in reference]
    pairs = zip(losses(run.root), losses(undisturbed.root), strict=True)
    assert max(abs(found - expected) for found, expected in pairs) <= tolerance
    ours, theirs = (load_file(one.root / "adapter/adapter_model.safetensors") for one in (run, undisturbed))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) <= tolerance


def heal(cluster: Cluster) -> None:
    """Every node is up and idle again."""
    for name in cluster.names:
        if not cluster.processes(name):
            cluster.start_node(name)
        cluster.restore(name)

    def well() -> bool:
        states = {name: cluster.node_state(name) for name in cluster.names}
        for name, state in states.items():
            # Slurm drains a node whose step it could not clean up in time ("Kill task failed"), perhaps only now.
            if "DRAIN" in state:
                cluster.resume(name)
        return set(states.values()) == {"IDLE"}

    cluster.wait_until(well, "every node idle", found=lambda: cluster.slurm("sinfo", "-N", "-l"))


# --- faults ---


def kill_rank(run: SlurmRun, rank: int = 1) -> float:
    run.at_step(6)
    os.kill(_pid(run, rank), signal.SIGKILL)
    return time.time()


def stop_rank(run: SlurmRun) -> float:
    run.at_step(6)
    os.kill(_pid(run, 1), signal.SIGSTOP)
    return time.time()


def stop_supervisor(run: SlurmRun) -> None:
    """It hangs and does not die, so that nobody there sees anything."""
    os.kill(supervisor(run), signal.SIGSTOP)


def kill_supervisor(run: SlurmRun) -> float:
    """As the kernel does on a node without memory: it spares the batch script's own process, which is small."""
    run.at_step(6)
    os.kill(supervisor(run), signal.SIGKILL)
    return time.time()


def supervisor(run: SlurmRun) -> int:
    """On the host."""
    node = run.cluster.job(run.job)["BatchHost"]
    found = [pid for pid, words in run.cluster.processes(node).items() if "--in-job" in words]
    # A process that it has just forked still has its words.
    (pid,) = [pid for pid in found if parent_of(pid) not in found]
    return pid


def _pid(run: SlurmRun, rank: int) -> int:
    """On the host: the node has process numbers of its own."""
    node = run.ranks()[rank]["node"]
    mine = [pid for pid, words in run.cluster.processes(node).items() if _is_rank(pid, words, rank)]
    assert len(mine) == 1, mine
    return mine[0]


def _is_rank(pid: int, words: list[str], rank: int) -> bool:
    return "training" in words and "accelerate" not in str(words) and variables_of(pid).get("RANK") == str(rank)


def kill_last_node(run: SlurmRun) -> float:
    """The node of rank 1, which is not the batch script's."""
    run.at_step(6)
    run.cluster.kill_node(run.ranks()[1]["node"])
    return time.time()


def cut_last_node(run: SlurmRun) -> float:
    run.at_step(6)
    run.cluster.cut(run.ranks()[1]["node"])
    return time.time()


def cut_for_a_while(run: SlurmRun) -> float:
    """Shorter than it takes Slurm and the supervisor to call it lost."""
    run.at_step(6)
    node = run.ranks()[1]["node"]
    run.cluster.cut(node)
    began = time.time()
    time.sleep(3)
    run.cluster.restore(node)
    return began


def kill_head_node(run: SlurmRun) -> float:
    run.at_step(6)
    node = run.cluster.job(run.job)["BatchHost"]
    run.cluster.kill_node(node)
    began = time.time()
    run.go_on()
    run.until(lambda: run.cluster.state(run.job) != "RUNNING", "put back")
    run.cluster.start_node(node)
    return began


def cut_head_node(run: SlurmRun) -> float:
    """Supervisor and rank go on there alone, with the storage in reach: the other node has to give the job back."""
    run.at_step(6)
    node = run.cluster.job(run.job)["BatchHost"]
    run.cluster.cut(node)
    began = time.time()
    run.go_on()
    run.until(lambda: run.cluster.state(run.job) != "RUNNING", "requeued", 300)
    return began


def reach_time_limit(run: SlurmRun) -> float:
    """Slurm sends its warning by itself: 30 s before the limit, which it looks at every 30 s, up to a minute early."""
    run.at_step(1).go_on()
    run.until(lambda: run.cluster.state(run.job) != "RUNNING", "at its time limit", 300)
    return time.time()


def clock_jumps(run: SlurmRun) -> float:
    """On one node, an hour ahead, as the run sees it; the monotonic clock goes on, as when somebody sets a clock."""
    run.at_step(6)
    run.cluster.replace_file(run.ranks()[1]["node"], run.variables["CLOCK_IS_OFF_BY"], "3600")
    return time.time()


def own_clock(folder: Path) -> dict[str, str]:
    """The clock of each Python of the run is off by what a file says, which a node may have another one of."""
    (folder / "clock").write_text("0")
    ours = folder / "own-clock"
    before_steps(ours, SLOW)
    file = ours / "sitecustomize.py"
    file.write_text(OWN_CLOCK + file.read_text())
    return {"PYTHONPATH": f"{ROOT}:{ours}", "CLOCK_IS_OFF_BY": str(folder / "clock")}


def warn_of_time_limit(run: SlurmRun) -> float:
    """What Slurm sends before a time limit, by --signal=B:USR1@grace."""
    run.at_step(6)
    run.cluster.slurm("scancel", "--batch", "--signal=USR1", run.job)
    return time.time()


def warn_once_grace_is_short(run: SlurmRun) -> float:
    """The same, once the first checkpoint has shown how long a save takes."""
    run.until(lambda: bool(run.events("grace_short")), "measured")
    return warn_of_time_limit(run)


def preempt(run: SlurmRun) -> float:
    """An urgent job takes all nodes for a few seconds."""
    run.at_step(6)
    began = time.time()
    urgent = run.cluster.submit(
        "#!/bin/sh\nsleep 3\n", f"--nodes={len(run.cluster.names)}", "--partition=urgent", "--exclusive"
    )
    run.go_on()
    run.cluster.wait(urgent, "COMPLETED")
    return began


def restart_controller(run: SlurmRun) -> float:
    run.at_step(6)
    run.cluster.restart_controller()
    return time.time()


def restart_daemon(run: SlurmRun) -> float:
    run.at_step(6)
    run.cluster.restart_daemon(run.ranks()[1]["node"])
    return time.time()


def kill_in_save(run: SlurmRun) -> float:
    """Rank 0 dies with a checkpoint half written."""
    run.until(lambda: any(run.root.glob("checkpoints/.step-000008.partial/*")) or run.step() > 8, "saving step 8")
    os.kill(_pid(run, 0), signal.SIGKILL)
    return time.time()


def corrupt_newest(run: SlurmRun) -> float:
    """The newest checkpoint is damaged, then a rank dies: the one before it is used."""
    run.at_step(9)
    path = run.root / "checkpoints/step-000008/optimizer.safetensors"
    run.until(path.exists, "saved step 8")  # which goes on while the next steps are trained
    with path.open("r+b") as file:  # in place: a disk that flips a bit leaves the file no shorter at any moment
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 0xFF]))
    os.kill(_pid(run, 1), signal.SIGKILL)
    return time.time()


def kill_rank_and_controller(run: SlurmRun) -> float:
    began = kill_rank(run)
    run.cluster.restart_controller()
    return began


def kill_node_and_rank(run: SlurmRun) -> float:
    run.at_step(6)
    rank = _pid(run, 0)
    run.cluster.kill_node(run.ranks()[1]["node"])
    os.kill(rank, signal.SIGKILL)
    return time.time()


def wait_only(run: SlurmRun) -> float:
    """The fault is inside the workers."""
    run.at_step(6)
    return time.time()


# --- what has to hold ---


def all_ended_soon(run: SlurmRun) -> None:
    """Of an attempt whose rank 1 was killed: everything, on all nodes, within 30 s of that rank's last sign of life."""
    last_sign = json.loads((run.root / "attempts/001/pulse-rank-1.json").read_text())["time"]
    (restarted,) = run.events("restarted")
    assert restarted["time"] - last_sign < 30


def node_is_named(run: SlurmRun) -> None:
    """That of rank 1, which then trains no more."""
    struck = json.loads((run.root / "attempts/001/pulse-rank-1.json").read_text())["node"]
    assert struck in {row["node"] for row in run.events("node_excluded")}
    assert struck not in {row["node"] for row in run.ranks().values()}


def requeued(run: SlurmRun) -> None:
    assert run.cluster.job(run.job)["Restarts"] != "0"
    assert run.events("stopped")


def given_back(run: SlurmRun) -> None:
    """By the node that was not cut off; the job went on without the other."""
    put_back(run)
    assert run.events("requeued")[0]["reason"].startswith("nothing was seen of the run's supervisor for ")
    nodes = {row["node"] for row in run.ranks().values()}
    assert nodes == {name for name in run.cluster.names if "DOWN" not in run.cluster.node_state(name)}


def put_back(run: SlurmRun) -> None:
    """Into the queue, by whoever noticed first."""
    assert run.cluster.job(run.job)["Restarts"] != "0"
    assert not run.events("supervisor_killed"), "what Slurm ends with its job is not taken for an accident"


def succeeded(run: SlurmRun) -> None:
    """By another supervisor in the same start of the job."""
    assert run.cluster.job(run.job)["Restarts"] == "0"
    ((signal_name, attempt),) = [(row["signal"], row["attempt"]) for row in run.events("supervisor_killed")]
    assert (signal_name, attempt) == ("SIGKILL", 1)


def on_one_node(run: SlurmRun) -> None:
    node_is_named(run)
    assert run.events("started")[-1]["world_size"] == 1


def refused(run: SlurmRun) -> None:
    assert run.events("checkpoint_refused")
    assert run.events("resumed")[-1]["step"] == 4


def hour_ahead(run: SlurmRun) -> None:
    """The jump was seen by the rank there, and by nobody else."""
    ahead = {rank: row["time"] - time.time() > 3000 for rank, row in run.ranks().items()}
    assert ahead == {0: False, 1: True}, run.ranks()
    run.cluster.show_again(run.ranks()[1]["node"], run.variables["CLOCK_IS_OFF_BY"])


def warned_of_a_short_grace(run: SlurmRun) -> None:
    """Before the signal came: that a stop takes longer than the grace, and what would do."""
    requeued(run)
    told, stopped = run.events("grace_short")[0], run.events("stopped")[0]
    assert told["time"] < stopped["time"]
    assert told["grace_seconds"] == 1 < told["needed_seconds"]
    assert told["fix"] == f"slurm.grace_seconds: {2 * told['needed_seconds']}"


def at_the_limit(run: SlurmRun) -> None:
    requeued(run)
    assert run.cluster.job(run.job)["TimeLimit"] == "00:02:00"


def halved(run: SlurmRun) -> None:
    assert [(row["micro_batch_size"], row["global_batch_size"]) for row in run.events("oom")] == [(1, 4)]


def hung_is_named(run: SlurmRun) -> None:
    reason = next(row["message"] for row in run.events("failed"))
    assert reason.startswith("the run hangs: rank 1 on "), reason
    assert (run.root / "attempts/001/stacks-rank-0.txt").stat().st_size
    assert (run.root / "attempts/001/flight-rank-0").stat().st_size
    assert run.outcomes()[0] == "communication"


OUT_OF_MEMORY = """
import torch
if step == 7 and trainer.plan.micro_batch_size > 1:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
"""


def after_each_file(does: str) -> str:
    """A fault of saves: what is done once a file of tensors is written; it sees `given`, the call's arguments."""
    return f"""
import training.checkpoint.checkpoints, time
if not hasattr(training.checkpoint.checkpoints, "slow"):
    training.checkpoint.checkpoints.slow = True
    inner = training.checkpoint.checkpoints.save_file
    def save_file(*given, **named):
        inner(*given, **named)
        {does}
    training.checkpoint.checkpoints.save_file = save_file
"""


SLOW_SAVE = after_each_file("time.sleep(0.5)")

# libfaketime cannot: with it Python 3.11's time.sleep fails (EINVAL) unless the monotonic clock jumps as well.
OWN_CLOCK = """
import os, time
inner = time.time
time.time = lambda: inner() + float(open(os.environ["CLOCK_IS_OFF_BY"]).read())
"""
# Before the next checkpoint, of step 12.
HELD_AT_11 = "if (step, attempt) == (11, 1): time.sleep(10000)"
# As long as the limit and longer, on the job's first start.
SLOW_FIRST = """
if attempt == 1:
    time.sleep(4)
"""

SCENARIOS = [
    Scenario("rank-killed", "kill -9 of a rank", kill_rank, outcomes=("worker", "done"),
             check=all_ended_soon),
    Scenario("rank-stopped", "SIGSTOP of a rank: nobody goes on", stop_rank, sections=NOTICED_SOON,
             check=hung_is_named),
    Scenario("node-killed-spare", "power loss of a node, a spare stands by", kill_last_node, spares=1,
             sections=NOTICED_SOON, check=node_is_named),
    Scenario("node-killed", "power loss of a node, no spare: on with one node", kill_last_node, OTHER_DEVICES,
             sections=NOTICED_SOON, check=on_one_node),
    Scenario("link-cut-spare", "a node's link is cut, a spare stands by", cut_last_node, spares=1,
             sections=NOTICED_SOON, check=node_is_named),
    Scenario("link-cut-restored", "a node's link is cut for 3 s", cut_for_a_while),
    Scenario("head-node-killed", "power loss of the batch script's node", kill_head_node,
             sections=NOTICED_SOON, check=put_back),
    Scenario("supervisor-killed", "kill -9 of the supervisor", kill_supervisor, outcomes=("worker", "done"),
             check=succeeded),
    Scenario("time-limit", "Slurm's warning before the time limit", warn_once_grace_is_short, fault=SLOW_SAVE,
             sections={"slurm": {"grace_seconds": 1}}, check=warned_of_a_short_grace),
    Scenario("head-link-cut", "the link of the batch script's node is cut", cut_head_node,
             sections=NOTICED_SOON, check=given_back),
    Scenario("time-limit-reached", "a time limit of 2 minutes runs out, Slurm warns by itself", reach_time_limit,
             fault=SLOW_FIRST, options=("--time=2",), sections={"slurm": {"grace_seconds": 30}}, check=at_the_limit),
    Scenario("clock-jumps", "a node's clock jumps an hour ahead", clock_jumps, variables=own_clock, outcomes=("done",),
             check=hour_ahead),
    Scenario("preempted", "an urgent job takes the nodes", preempt, check=put_back),
    Scenario("controller-restarted", "slurmctld is killed and started", restart_controller, outcomes=("done",)),
    Scenario("daemon-restarted", "slurmd of a node is killed and started", restart_daemon, outcomes=("done",)),
    Scenario("killed-in-save", "kill -9 of rank 0 while it saves", kill_in_save, fault=SLOW_SAVE,
             outcomes=("worker", "done")),
    Scenario("checkpoint-damaged", "a bit of the newest checkpoint flips, then a rank is killed", corrupt_newest,
             fault=HELD_AT_11, outcomes=("worker", "done"), check=refused),
    Scenario("two-at-once", "kill -9 of a rank and slurmctld restarted", kill_rank_and_controller,
             outcomes=("worker", "done")),
    Scenario("node-and-rank", "power loss of a node and kill -9 of the other's rank, a spare stands by",
             kill_node_and_rank, spares=1, sections=NOTICED_SOON, check=node_is_named),
    Scenario("gpu-out-of-memory", "a micro-batch of 2 no longer fits", wait_only, OTHER_DEVICES, fault=OUT_OF_MEMORY,
             outcomes=("gpu_memory", "done"), check=halved),
]  # fmt: skip
