"""What a run does with the job that it is in: where its ranks meet, and how it gives its nodes back."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from launch.preflight.probe import meeting_port
from launch.rundir import BY_A_PERSON
from tests.conftest import ROOT, Workspace, muster, read_rows
from tests.faults import before_steps
from tests.slurm.chaos import NOTICED_SOON, stop_supervisor, supervisor
from tests.slurm.cluster import Cluster
from tests.slurm.runs import SLOW, STEPS, SlurmRun
from tests.slurm.settings import PARTITIONS

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]

# Three nodes of one sequence each: two could not train the same global batch.
THREE = {"training": {"micro_batch_size": 1, "global_batch_size": 3}}
# By the first node or, where that is held up, by the second.
MISSED = [f"nothing was seen of the run's supervisor for {seconds} s" for seconds in (30, 40)]


@pytest.fixture
def cluster(real_slurm: None) -> Iterator[Cluster]:
    with Cluster(nodes=4) as started:
        yield started


def each_sample_once_an_epoch(run: SlurmRun, steps: int) -> None:
    ledger = run.rows("samples.jsonl")
    assert [row["step"] for row in ledger] == list(range(1, steps + 1))
    trained = sorted(sample for row in ledger for sample in row["ids"])
    assert trained == sorted([f"train-{number}" for number in range(42)] * 2)


def test_a_port_that_somebody_still_holds_is_passed_over(cluster: Cluster, workspace: Workspace) -> None:
    """As one of a run that was killed, or of another program on the nodes."""
    first = cluster.submit(["true"])
    cluster.wait(first, "COMPLETED")
    cluster.wait_for_nodes("IDLE", *cluster.names)
    number = int(first) + 1
    taken = meeting_port(number)
    hold = f"import socket, time; s = socket.socket(); s.bind(('', {taken})); s.listen(); print(flush=True)\n"
    with ExitStack() as held:
        for name in cluster.names:
            argv = cluster.argv_on(name, [sys.executable, "-c", f"{hold}time.sleep(10000)"])
            holder = held.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE))
            held.callback(holder.kill)
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"\n"
        run = SlurmRun(cluster, workspace, "port").submit()
        assert run.job == str(number)
        run.at_step(1)
        steps = [words for words in cluster.processes("n0").values() if "launch.supervise.node" in words]
        assert {tuple(words[-2:]) for words in steps} == {("n0", str(taken + 1))}
        assert run.ends() == "COMPLETED", cluster.output(run.job)


def test_nodes_that_cannot_go_on_are_given_back_without_the_one_that_is_lost(
    cluster: Cluster, workspace: Workspace
) -> None:
    run = SlurmRun(cluster, workspace, "given-back", nodes=3, sections=THREE, waits_for_fault=True).submit().at_step(6)
    lost = run.ranks()[1]["node"]
    cluster.kill_node(lost)
    run.go_on()
    assert run.ends() == "COMPLETED", cluster.output(run.job)
    found = cluster.job(run.job)
    assert (found["ExcNodeList"], found["Restarts"]) == (lost, "1")
    (requeued,) = run.events("requeued")
    assert requeued["exclude"] == [lost]
    assert requeued["reason"].startswith("2 nodes of 3 are left and cannot go on with the same global batch: ")
    assert {row["node"] for row in run.ranks().values()} == set(cluster.names) - {lost}
    each_sample_once_an_epoch(run, 28)


def test_a_job_that_starts_again_with_a_node_that_is_not_fit_asks_for_another(
    cluster: Cluster, workspace: Workspace
) -> None:
    """Nobody sits beside it by then: what stops a first start with exit code 3 does not stop this one."""
    run = SlurmRun(cluster, workspace, "unfit", nodes=3, sections=THREE, waits_for_fault=True).submit().at_step(6)
    urgent = cluster.submit(["sleep", "infinity"], "--nodes=4", "--partition=urgent", "--exclusive")
    run.go_on()
    cluster.wait(urgent, "RUNNING")
    cluster.hide_directory("n1", workspace.root)
    # Slurm chooses among nodes that are free: all of them, also the one that has become unfit.
    cluster.slurm("scontrol", "hold", run.job)
    cluster.cancel(urgent)
    cluster.wait_for_nodes("IDLE", *cluster.names)
    cluster.slurm("scontrol", "release", run.job)
    assert run.ends() == "COMPLETED", cluster.output(run.job)
    assert cluster.job(run.job)["ExcNodeList"] == "n1"
    reasons = [row["reason"] for row in run.events("requeued")]
    assert "2 nodes of 3 are left and cannot go on with the same global batch: node n1: " in reasons[-1]
    assert {row["node"] for row in run.ranks().values()} == {"n0", "n2", "n3"}
    each_sample_once_an_epoch(run, 28)


def test_a_supervisor_that_hangs_is_missed_and_the_job_given_back(cluster: Cluster, workspace: Workspace) -> None:
    run = SlurmRun(cluster, workspace, "hung", sections=NOTICED_SOON, waits_for_fault=True).submit().at_step(6)
    stop_supervisor(run)
    run.go_on()
    assert run.ends() == "COMPLETED", cluster.output(run.job)
    assert run.events("requeued")[0]["reason"] in MISSED
    each_sample_once_an_epoch(run, STEPS)


def test_a_supervisor_that_is_killed_again_without_a_further_step_ends_the_run(
    cluster: Cluster, workspace: Workspace
) -> None:
    fault = "if step == 3: time.sleep(10000)"
    run = SlurmRun(cluster, workspace, "killed", fault=fault, sections={"recovery": {"restarts": 1}}).submit()
    for attempt in (1, 2):
        place = run.root / f"attempts/{attempt:03d}"
        run.until(lambda place=place: (place / "pulse-rank-1.json").exists() and run.step() >= 2, f"in {place}")
        os.kill(supervisor(run), signal.SIGKILL)
        run.until((place / "outcome.json").exists, f"the end of {place}")
    assert run.ends() == "FAILED"
    assert run.exit_code() == 10
    assert "1 restart brought no further step (recovery.restarts)" in cluster.output(run.job)
    assert [row["attempt"] for row in run.events("supervisor_killed")] == [1, 2]
    assert run.outcomes() == ["worker", "worker"]
    here = {"SLURM_CONF": f"{cluster.directory}/slurm.conf"}
    found = json.loads(muster("status", run.root, "--json", cwd=workspace.root, **here).out)
    assert found["state"] == "failed"
    assert found["why"].startswith("the supervisor was killed (SIGKILL): by somebody, or by the kernel")
    assert "the supervisor was killed (SIGKILL)" in muster("diagnose", run.root, cwd=workspace.root, **here).out
    cluster.wait_until(lambda: not any("training" in words for name in cluster.names
                                       for words in cluster.processes(name).values()), "nothing left")  # fmt: skip


def test_supervisors_that_are_killed_one_after_another_before_they_train(
    cluster: Cluster, workspace: Workspace
) -> None:
    """In an attempt, at once, and while it asks the nodes; then one that may do its work."""
    run = SlurmRun(cluster, workspace, "often").submit().at_step(6)
    killed: list[int] = []

    def another() -> bool:
        with suppress(ValueError):  # none just now
            return supervisor(run) not in killed
        return False

    for asked in (0, 0, 1):
        run.until(another, "followed by another")
        run.until(lambda asked=asked: len(run.events("job_started")) > asked, "asking the nodes")
        killed.append(supervisor(run))
        os.kill(killed[-1], signal.SIGKILL)
    assert run.ends() == "COMPLETED", cluster.output(run.job)
    assert len(run.events("supervisor_killed")) >= 2, "one that was killed at once could not say what it followed"
    assert run.outcomes()[-1] == "done"
    each_sample_once_an_epoch(run, STEPS)


def test_a_stop_that_was_asked_of_a_supervisor_is_done_by_the_one_after_it(
    cluster: Cluster, workspace: Workspace
) -> None:
    run = SlurmRun(cluster, workspace, "asked", fault="if step == 7 and attempt == 1: time.sleep(10000)").submit()
    run.at_step(6)
    assert muster("stop", run.root, cwd=workspace.root, SLURM_CONF=f"{cluster.directory}/slurm.conf").code == 0
    os.kill(supervisor(run), signal.SIGKILL)
    assert run.ends() == "FAILED"
    assert run.exit_code() == 75, cluster.output(run.job)
    again = SlurmRun(cluster, workspace, "asked").submit()
    assert again.ends() == "COMPLETED", cluster.output(again.job)
    each_sample_once_an_epoch(again, STEPS)


def test_a_warning_in_the_first_second_of_a_job_gives_it_back(cluster: Cluster, workspace: Workspace) -> None:
    """Slurm may send it a minute early, which can be at once."""
    run = SlurmRun(cluster, workspace, "early").submit()
    cluster.wait(run.job, "RUNNING")
    node = cluster.job(run.job)["BatchHost"]
    run.until(lambda: any("--in-job" in words for words in cluster.processes(node).values()), "begun")
    cluster.slurm("scancel", "--batch", "--signal=USR1", run.job)
    assert run.ends() == "COMPLETED", cluster.output(run.job)
    assert cluster.job(run.job)["Restarts"] == "1"
    (requeued,) = run.events("requeued")
    assert requeued["reason"].startswith("stopped as asked before training began")
    each_sample_once_an_epoch(run, STEPS)


def test_a_stop_while_a_job_is_given_back_is_not_lost(cluster: Cluster, workspace: Workspace) -> None:
    """Whoever asked has seen it run, and its supervisor has looked for the last time: the next start of it stops."""
    run = SlurmRun(cluster, workspace, "given-back", waits_for_fault=True).submit().at_step(6)
    cluster.slurm("scancel", "--batch", "--signal=USR1", run.job)
    run.go_on()
    run.until(lambda: bool(run.events("giving_back")), "given back")
    (run.root / "stop").write_text(BY_A_PERSON)
    assert run.ends() == "FAILED", cluster.output(run.job)
    assert run.exit_code() == 75, cluster.output(run.job)
    assert cluster.job(run.job)["Restarts"] == "1"
    assert run.outcomes() == ["stopped"]


def test_a_warning_to_the_steps_alone_gives_the_job_back(cluster: Cluster, workspace: Workspace) -> None:
    """As by a script of somebody's own that asks for it without `B:`. All processes of the steps get it, launchers and
    the writers of logs as well."""
    run = SlurmRun(cluster, workspace, "steps", waits_for_fault=True).submit().at_step(6)
    cluster.slurm("scancel", "--signal=USR1", run.job)
    run.go_on()
    assert run.ends() == "COMPLETED", cluster.output(run.job)
    assert cluster.job(run.job)["Restarts"] == "1"
    assert run.outcomes() == ["stopped", "done"]
    each_sample_once_an_epoch(run, STEPS)


def test_a_supervisor_that_was_warned_and_killed_is_followed_by_one_that_gives_the_job_back(
    cluster: Cluster, workspace: Workspace
) -> None:
    run = SlurmRun(cluster, workspace, "warned", fault="if step == 7 and attempt == 1: time.sleep(10000)").submit()
    run.at_step(6)
    cluster.slurm("scancel", "--batch", "--signal=USR1", run.job)
    run.until((run.root / "stop").exists, "warned")
    os.kill(supervisor(run), signal.SIGKILL)
    assert run.ends() == "COMPLETED", cluster.output(run.job)
    assert cluster.job(run.job)["Restarts"] == "1"
    assert [row["attempt"] for row in run.events("supervisor_killed")] == [1]
    each_sample_once_an_epoch(run, STEPS)


@pytest.fixture
def untold(real_slurm: None) -> Iterator[Cluster]:
    """A site that preempts as Slurm does by default, without preempt_send_user_signal: the steps get SIGTERM. A job
    that ends by itself within the partition's GraceTime is not queued again by Slurm."""
    patient = PARTITIONS["main"].replace("GraceTime=10", "GraceTime=60")
    options = {"SlurmctldParameters": "enable_configless"}
    with Cluster(nodes=2, partitions={"main": patient}, options=options) as started:
        yield started


def preempted_once(run: SlurmRun) -> None:
    urgent = run.cluster.submit("#!/bin/sh\nsleep 3\n", "--nodes=2", "--partition=urgent", "--exclusive")
    run.go_on()
    assert run.ends() == "COMPLETED", run.cluster.output(run.job)
    assert run.cluster.state(urgent) == "COMPLETED"
    assert run.cluster.job(run.job)["Restarts"] == "1"
    assert len(run.events("requeued")) == 1
    each_sample_once_an_epoch(run, STEPS)


def test_a_preemption_without_the_signal_that_the_job_asks_for(untold: Cluster, workspace: Workspace) -> None:
    run = SlurmRun(untold, workspace, "untold", waits_for_fault=True).submit().at_step(6)
    preempted_once(run)
    assert run.outcomes() == ["stopped", "done"]


def test_a_preemption_while_the_nodes_are_asked_is_no_fault_of_theirs(untold: Cluster, workspace: Workspace) -> None:
    run = SlurmRun(untold, workspace, "asking").submit()
    run.until(lambda: bool(run.events("job_started")), "asking its nodes")
    preempted_once(run)
    assert run.outcomes()[-1] == "done"
    assert not run.events("node_excluded")


LATE = """\
import pathlib, signal, sys, time
if "launch.supervise.node" in sys.orig_argv:
    signal.signal(signal.SIGTERM, signal.{handler})
    pathlib.Path({folder!r}, "begun").touch()
    while not pathlib.Path({folder!r}, "go").exists():
        time.sleep(0.05)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
"""


@pytest.mark.parametrize(("handler", "ends"), [("SIG_IGN", "stopped"), ("SIG_DFL", "worker")])
def test_a_preemption_before_the_nodes_can_hear_it(
    untold: Cluster, workspace: Workspace, tmp_path: Path, handler: str, ends: str
) -> None:
    """Between the steps that ask and the one that trains the signal goes to nobody; a moment later it ends that one,
    while it imports."""
    folder = tmp_path / "slow-nodes"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(LATE.format(handler=handler, folder=str(folder)))
    variables = {"PYTHONPATH": f"{ROOT}:{folder}"}
    run = SlurmRun(untold, workspace, "late", variables=variables).submit()
    run.until((folder / "begun").exists, "starting its nodes")
    urgent = untold.submit("#!/bin/sh\nsleep 3\n", "--nodes=2", "--partition=urgent", "--exclusive")
    run.until(lambda: untold.job(run.job).get("PreemptTime", "None") != "None", "preempted")
    (folder / "go").touch()
    assert run.ends() == "COMPLETED", untold.output(run.job)
    assert untold.state(urgent) == "COMPLETED"
    assert len(run.events("requeued")) == 1
    assert run.outcomes() == [ends, "done"]
    each_sample_once_an_epoch(run, STEPS)


def test_a_batch_script_that_is_killed_itself_is_told_as_it_was(cluster: Cluster, workspace: Workspace) -> None:
    """With the process that Slurm sees the job is over, and nobody there can say so any more."""
    run = SlurmRun(cluster, workspace, "batch").submit().at_step(2)
    (pid,) = [pid for pid, words in cluster.processes("n0").items() if words[1:3] == ["-m", "launch.supervisor"]]
    os.kill(pid, signal.SIGKILL)
    assert run.ends() == "FAILED"
    here = {"SLURM_CONF": f"{cluster.directory}/slurm.conf"}
    found = json.loads(muster("status", run.root, "--json", cwd=workspace.root, **here).out)
    assert (found["state"], found["attempt"]) == ("failed", 1)
    assert found["why"] == "its job ended as FAILED, exit code 137; see muster logs --rank job"
    told = muster("diagnose", run.root, cwd=workspace.root, **here).out
    assert "batch, attempt 1 of 1: broken off" in told, "although its supervisor has shown a second ago that it lives"
    assert "it left no outcome: who supervised it was killed, or its node was lost" in " ".join(told.split())
    again = SlurmRun(cluster, workspace, "batch").submit()
    assert again.ends() == "COMPLETED", cluster.output(again.job)
    each_sample_once_an_epoch(again, STEPS)


def test_a_first_start_with_a_node_that_is_not_fit_is_3_and_says_how_to_go_on(
    cluster: Cluster, workspace: Workspace
) -> None:
    cluster.hide_directory("n1", workspace.root)
    run = SlurmRun(cluster, workspace, "first", nodes=3, sections=THREE).submit()
    assert run.ends() == "FAILED"
    assert run.exit_code() == 3
    told = cluster.output(run.job)
    assert "3 nodes needed, 2 fit: node n1: " in told
    assert "; leave them out with slurm.exclude, or ask for more nodes with slurm.spares" in told


def test_a_site_that_starts_no_job_again_ends_the_run_with_75_and_says_what_to_do(
    cluster: Cluster, workspace: Workspace
) -> None:
    run = SlurmRun(cluster, workspace, "once", options=("--no-requeue",), waits_for_fault=True).submit().at_step(6)
    cluster.slurm("scancel", "--batch", "--signal=USR1", run.job)
    run.go_on()
    assert run.ends() == "FAILED", cluster.output(run.job)
    assert (run.exit_code(), run.outcomes()) == (75, ["stopped"])
    told = cluster.output(run.job)
    assert f"the run is saved, and Slurm does not start job {run.job} again: scontrol: " in told
    assert "submit it again, it goes on by itself" in told
    assert not run.events("requeued")


def test_of_a_sweep_one_element_alone_is_put_back(cluster: Cluster, workspace: Workspace, tmp_path: Path) -> None:
    """By the bare number of its array all of them would be."""
    spec = workspace.spec(
        "sweep", slurm={"partition": "main", "time": "20"}, preflight={"accept": ["slurm-shared"]}, data={"eval": None},
        cluster={"device": "cpu", "devices_per_node": 1}, training={"save_steps": 4},
    )  # fmt: skip
    here = {"SLURM_CONF": f"{cluster.directory}/slurm.conf", **before_steps(tmp_path / "slow", SLOW)}
    sent = muster("submit", spec, "--array", "training.seed=1,2", cwd=tmp_path, **here)
    assert sent.code == 0, sent.err
    job, runs = sent.out.strip(), [tmp_path / f"runs/sweep/{element}" for element in (0, 1)]

    def steps(run: Path) -> int:
        return len(read_rows(run / "samples.jsonl")) if (run / "samples.jsonl").exists() else 0

    cluster.wait_until(lambda: steps(runs[0]) >= 5 and cluster.state(f"{job}_1") == "RUNNING", "at step 5", 200)
    cluster.slurm("scancel", "--batch", "--signal=USR1", f"{job}_0")
    for element in (0, 1):
        cluster.wait(f"{job}_{element}", "COMPLETED", seconds=300)
    restarts = [cluster.job(f"{job}_{element}")["Restarts"] for element in (0, 1)]
    assert restarts == ["1", "0"]
    attempts = [len(list(run.glob("attempts/*"))) for run in runs]
    assert attempts == [2, 1]
    assert [row["job"] for row in read_rows(runs[0] / "events.jsonl") if row["event"] == "requeued"] == [f"{job}_0"]
    assert [[row["step"] for row in read_rows(run / "samples.jsonl")] for run in runs] == [list(range(1, 23))] * 2
