"""Each fault happens, and Slurm does what it does on a site."""

import time
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.machine import CommandFailed
from tests.slurm.settings import PARTITIONS

# Says when it starts and which signals come.
LISTENER = """\
#!/bin/bash
trap 'echo got USR1' USR1
trap 'echo got TERM' TERM
echo start ${SLURM_RESTART_COUNT:-0}
while true; do sleep 0.2; done  # bash listens between two sleeps; it never ends by itself
"""


def has(cluster: Cluster, job: str, text: str) -> None:
    """Waits until the job has written `text`."""
    cluster.wait_until(lambda: text in cluster.output(job), f"{text!r} of job {job}", found=lambda: cluster.output(job))


# --- faults that Slurm sees at once ---


def sleeping(cluster: Cluster, node: str, count: int) -> None:
    """Waits until `count` of SLEEP's processes are on a node."""

    def found() -> int:
        return sum(Path(words[0]).name == "sleep" for words in cluster.processes(node).values())

    cluster.wait_until(lambda: found() == count, f"{count} on {node}", found=lambda: f"{found()}")


# setsid: the first one is in no process group of the job, which a kill by groups would miss.
SLEEP = "#!/bin/sh\nsetsid sleep infinity &\nsrun sleep infinity\n"


def test_a_dead_node_takes_all_its_processes_along_and_boots_again(cluster: Cluster) -> None:
    cluster.submit(SLEEP, "--nodelist=n1")
    sleeping(cluster, "n1", 2)
    numbers = list(cluster.processes("n1"))
    cluster.kill_node("n1")
    assert [number for number in numbers if Path(f"/proc/{number}").exists()] == []
    assert cluster.processes("n1") == {}
    assert not reachable(cluster, "n1")
    switched_on = time.monotonic()
    cluster.start_node("n1")
    cluster.wait_until(lambda: reachable(cluster, "n1"), "n1 reachable")
    uptime = float(cluster.run_on("n1", ["cut", "-d.", "-f1", "/proc/uptime"]).stdout)
    assert uptime <= time.monotonic() - switched_on + 1, "in whole seconds"
    sleeping(cluster, "n1", 0)


def reachable(cluster: Cluster, node: str) -> bool:
    """Whether slurmd on `node` can be reached from n0."""
    return cluster.run_on("n0", ["timeout", "1", "bash", "-c", f"</dev/tcp/{node}/6818"], check=False).returncode == 0


def test_a_job_outlives_an_update_of_its_controller(cluster: Cluster) -> None:
    job = cluster.submit(LISTENER, "--nodes=2")
    has(cluster, job, "start 0")
    cluster.restart_controller()
    assert cluster.state(job) == "RUNNING"
    assert cluster.output(job) == "start 0\n"


def test_a_step_outlives_the_daemon_of_its_node(cluster: Cluster) -> None:
    job = cluster.submit("#!/bin/sh\nsrun sh -c 'until [ -e go ]; do sleep 0.1; done'\necho done\n", "--nodelist=n0")
    cluster.wait_until(lambda: "until" in str(cluster.processes("n0")), "the step")
    cluster.restart_daemon("n0")
    assert cluster.state(job) == "RUNNING"
    (cluster.directory / "jobs/go").touch()
    assert cluster.wait(job) == "COMPLETED"
    assert cluster.output(job) == "done\n"


def test_without_munge_a_node_proves_nothing(cluster: Cluster) -> None:
    prove = ["munge", "--no-input", f"--socket={cluster.directory}/munge/socket"]
    cluster.kill_munge("n1")
    assert [cluster.run_on(name, prove, check=False).returncode == 0 for name in cluster.names] == [True, False, True]
    cluster.start_munge("n1")
    assert cluster.wait(cluster.submit(["true"], "--nodelist=n1")) == "COMPLETED"


def test_a_preempted_batch_script_gets_the_signal_that_it_asked_for_and_time(real_slurm: None) -> None:
    patient = PARTITIONS["main"].replace("GraceTime=10", "GraceTime=600")  # as long as it takes us to look
    with Cluster(nodes=2, partitions={"main": patient}) as cluster:
        job = cluster.submit(LISTENER, "--nodes=2", "--exclusive", "--signal=B:USR1@60")
        has(cluster, job, "start 0")
        urgent = cluster.preempt(job)
        has(cluster, job, "got USR1")
        assert (cluster.state(job), cluster.state(urgent)) == ("RUNNING", "PENDING")


def test_a_time_limit_can_be_shortened(cluster: Cluster) -> None:
    job = cluster.submit(["sleep", "infinity"], "--time=30")
    assert cluster.job(job)["TimeLimit"] == "00:30:00"
    cluster.limit(job, 2)
    assert cluster.job(job)["TimeLimit"] == "00:02:00"


def test_a_drained_node_gets_no_job(cluster: Cluster) -> None:
    cluster.drain("n0")
    jobs = [cluster.submit(["srun", "hostname"], "--exclusive") for _ in range(3)]
    assert [cluster.wait(job) for job in jobs] == ["COMPLETED"] * 3
    assert {cluster.output(job) for job in jobs} <= {"n1\n", "n2\n"}
    cluster.resume("n0")
    cluster.wait_for_nodes("IDLE", "n0")


# --- faults that take Slurm a while ---


@pytest.mark.chaos
def test_a_preempted_job_is_queued_again_and_goes_on_afterwards(cluster: Cluster) -> None:
    job = cluster.submit(LISTENER, "--nodes=2", "--exclusive", "--open-mode=append")
    has(cluster, job, "start 0")
    urgent = cluster.preempt(job)
    cluster.wait(urgent, "RUNNING")
    assert cluster.state(job) == "PENDING"
    assert "got TERM" in cluster.output(job)
    cluster.cancel(urgent)
    has(cluster, job, "start 1")


@pytest.mark.chaos
def test_a_requeued_job_starts_again(cluster: Cluster) -> None:
    job = cluster.submit(LISTENER, "--open-mode=append")
    has(cluster, job, "start 0")
    cluster.requeue(job)
    has(cluster, job, "start 1")


@pytest.mark.chaos
def test_a_job_outlives_the_crash_of_its_controller(cluster: Cluster) -> None:
    job = cluster.submit(LISTENER, "--nodes=2")
    has(cluster, job, "start 0")
    # A crash loses what the controller has not saved, and a change makes it save.
    saved, began = cluster.directory / "state/job_state", time.time()
    cluster.slurm("scontrol", "update", f"JobId={job}", "Comment=started")
    cluster.wait_until(lambda: saved.exists() and saved.stat().st_mtime > began, "saved")
    cluster.kill_controller()
    with pytest.raises(CommandFailed, match="Unable to contact slurm controller"):
        cluster.state(job)
    cluster.start_controller()
    assert cluster.state(job) == "RUNNING"
    assert cluster.output(job) == "start 0\n"


@pytest.mark.chaos
def test_a_job_whose_node_has_booted_starts_again(cluster: Cluster) -> None:
    job = cluster.submit(SLEEP, "--nodelist=n1")
    sleeping(cluster, "n1", 2)
    time.sleep(17)  # a job younger than BatchStartTimeout + MessageTimeout may still be on its way to the node
    cluster.kill_node("n1")
    cluster.start_node("n1")
    cluster.wait_until(lambda: cluster.job(job)["Restarts"] == "1", "a restart", found=lambda: str(cluster.job(job)))
    sleeping(cluster, "n1", 2)


@pytest.mark.chaos
def test_a_node_whose_cable_is_pulled_goes_on_alone_and_comes_back(cluster: Cluster) -> None:
    job = cluster.submit(["srun", "--no-kill", "sleep", "infinity"], "--nodes=2", "--no-kill", "--nodelist=n[0-1]")
    cluster.wait_until(lambda: "sleep" in str(cluster.processes("n1")), "the step")
    cluster.cut("n1")
    assert not reachable(cluster, "n1")
    cluster.wait_for_nodes("DOWN", "n1")
    assert "sleep" in str(cluster.processes("n1"))  # nobody could tell it
    assert cluster.state(job) == "RUNNING"
    cluster.restore("n1")
    # The daemon learns that the job has no business here any more.
    cluster.wait_for_nodes("IDLE", "n1")
    cluster.wait_until(lambda: "sleep" not in str(cluster.processes("n1")), "the step's end")
    assert cluster.state(job) == "RUNNING"


@pytest.mark.chaos
def test_a_job_survives_a_dead_node_only_with_no_kill(cluster: Cluster) -> None:
    script = "#!/bin/sh\nsrun --no-kill sleep infinity\necho alone\nsleep infinity\n"
    survivor = cluster.submit(script, "--nodes=2", "--nodelist=n[0-1]", "--no-kill", "--ntasks-per-node=1")
    other = cluster.submit(LISTENER, "--nodes=2", "--nodelist=n[1-2]", "--no-requeue")
    for job in (survivor, other):
        cluster.wait(job, "RUNNING")
    cluster.kill_node("n1")
    cluster.wait_for_nodes("DOWN", "n1")
    assert cluster.wait(other) == "NODE_FAIL"
    assert cluster.state(survivor) == "RUNNING"
    cluster.start_node("n1")
    cluster.wait_for_nodes("IDLE", "n1")
    assert cluster.state(survivor) == "RUNNING"


@pytest.mark.chaos
def test_the_signal_before_the_time_limit_arrives_and_then_the_limit(cluster: Cluster) -> None:
    job = cluster.submit(LISTENER, "--partition=short", "--signal=B:USR1@30")
    has(cluster, job, "start 0")
    has(cluster, job, "got USR1")
    assert cluster.state(job) == "RUNNING"
    assert "got TERM" not in cluster.output(job)
    assert cluster.wait(job, seconds=200) == "TIMEOUT"
