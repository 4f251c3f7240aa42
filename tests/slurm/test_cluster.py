"""The cluster does what its tests will rely on: it is a real Slurm, its nodes are apart, and each fault happens."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, command, environment
from tests.slurm.cluster import Cluster
from tests.slurm.machine import CommandFailed, run

# Says when it starts and which signals come, and ends after a minute.
LISTENER = """\
#!/bin/bash
trap 'echo got USR1' USR1
trap 'echo got TERM' TERM
echo start ${SLURM_RESTART_COUNT:-0}
for second in $(seq 300); do sleep 0.2; done
"""

ALL_REDUCE = """\
import os, socket, torch, torch.distributed as dist
dist.init_process_group("gloo")
value = torch.tensor([10.0 ** dist.get_rank()])
dist.all_reduce(value)
print(socket.gethostname(), dist.get_rank(), value.item(), flush=True)
dist.destroy_process_group()
"""


def has(cluster: Cluster, job: str, text: str, seconds: float = 30) -> None:
    """Waits until the job has written `text`."""
    cluster.wait_until(
        lambda: text in cluster.output(job), f"{text!r} of job {job}", seconds, lambda: cluster.output(job)
    )


# --- it is a cluster ---


def test_two_nodes_run_a_step_under_their_own_names_and_find_each_other(cluster: Cluster) -> None:
    job = cluster.submit("#!/bin/sh\nsrun sh -c 'echo $(hostname) $(getent hosts n0 n1)'\n", "--nodes=2")
    assert cluster.wait(job) == "COMPLETED"
    both = f"{cluster.address('n0')} n0 {cluster.address('n1')} n1"
    assert sorted(cluster.output(job).splitlines()) == [f"n0 {both}", f"n1 {both}"]


def test_a_job_sees_the_gpus_that_it_asked_for(cluster: Cluster) -> None:
    one = cluster.submit("#!/bin/sh\necho $CUDA_VISIBLE_DEVICES\nsleep 5\n", "--gpus=1", "--nodelist=n0")
    has(cluster, one, "\n")
    other = cluster.submit("#!/bin/sh\necho $CUDA_VISIBLE_DEVICES\n", "--gpus=1", "--nodelist=n0")
    two = cluster.submit("#!/bin/sh\necho $CUDA_VISIBLE_DEVICES\n", "--gpus=2", "--nodelist=n1")
    assert [cluster.wait(job) for job in (other, two)] == ["COMPLETED", "COMPLETED"]
    assert [cluster.output(job) for job in (one, other, two)] == ["0\n", "1\n", "0,1\n"]
    with pytest.raises(CommandFailed, match="Requested node configuration is not available"):
        cluster.submit(["true"], "--nodes=1", "--gpus-per-node=3")


def test_gloo_reduces_over_two_nodes(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "reduce.py").write_text(ALL_REDUCE)
    step = (
        "#!/bin/sh\nexport MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -1) MASTER_PORT=29400\n"
        f"srun sh -c 'RANK=$SLURM_PROCID WORLD_SIZE=2 exec {sys.executable} {tmp_path}/reduce.py'\n"
    )
    job = cluster.submit(step, "--nodes=2", env={"GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"})
    assert cluster.wait(job, seconds=90) == "COMPLETED", cluster.output(job)
    assert {"n0 0 11.0", "n1 1 11.0"} < set(cluster.output(job).splitlines())  # torch warns as well


def test_the_host_and_the_login_machine_are_clients(cluster: Cluster) -> None:
    assert sorted(cluster.slurm("srun", "--nodes=2", "hostname").split()) == ["n0", "n1"]
    assert sorted(cluster.run_on("login", ["srun", "--nodes=2", "hostname"]).stdout.split()) == ["n0", "n1"]


def test_options_and_partitions_are_chosen_by_the_test(real_slurm: None) -> None:
    partitions = {"urgent": None, "small": "Nodes=n1 MaxTime=5"}
    with Cluster(nodes=2, cpus=4, options={"MinJobAge": 2, "SlurmdTimeout": 33}, partitions=partitions) as cluster:
        assert cluster.slurm("sinfo", "-h", "-o", "%P %c %l %N").splitlines() == [
            "main* 4 infinite n[0-1]",
            "short 4 1:00 n[0-1]",
            "small 4 5:00 n1",
        ]
        shown = dict(
            line.split("=", 1) for line in cluster.slurm("scontrol", "show", "config").splitlines() if "=" in line
        )
        assert {key.strip(): value.strip() for key, value in shown.items()}["SlurmdTimeout"] == "33 sec"


# --- it leaves nothing ---


def test_two_clusters_at_once_know_nothing_of_each_other(cluster: Cluster) -> None:
    with Cluster(nodes=1) as other:
        assert other.directory != cluster.directory
        job = other.submit(["sleep", "60"])
        other.wait(job, "RUNNING")
        assert job in other.slurm("squeue", "-h")
        assert cluster.slurm("squeue", "-h") == ""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda sent: sent.name)
def test_a_cluster_whose_program_ends_leaves_nothing(real_slurm: None, sent: signal.Signals) -> None:
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.slurm", "--nodes", "2"],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    configuration = Path(program.stdout.readline().strip().removeprefix("export SLURM_CONF="))
    key = (configuration.parent / "munge.key").read_bytes()
    interface = configuration.parent.name.replace("-slurm-", "")  # /tmp/muster-slurm-3 has muster3
    # By number: another cluster may take the place as soon as it is free.
    started = {pid for pid, line in command_lines().items() if str(configuration) in line}
    index = Path(f"/sys/class/net/{interface}/ifindex").read_text().strip()
    assert len(started) == 3  # slurmctld and two of slurmd

    def left() -> set[str]:
        links = {line.split(":")[0] for line in run(["ip", "-o", "link"]).stdout.splitlines()}
        return {str(pid) for pid in started & command_lines().keys()} | ({index} & links)

    assert len(left()) == 4
    program.send_signal(sent)
    program.communicate(timeout=20)
    deadline = time.monotonic() + 10
    while left() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left() == set()
    if sent != signal.SIGKILL:  # then the next cluster that gets this place removes the directory
        path = configuration.parent / "munge.key"
        assert not path.exists() or path.read_bytes() != key


def command_lines() -> dict[int, str]:
    """Number -> command line of each process on the host."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found[int(path.parent.name)] = path.read_text(errors="replace").replace("\0", " ")
        except OSError:
            continue  # it has ended
    return found


@pytest.mark.parametrize(("required", "outcome"), [("1", "1 error"), ("0", "1 skipped")])
def test_without_slurm_tests_skip_unless_it_is_required(required: str, outcome: str, tmp_path: Path) -> None:
    test = f"{__file__}::test_the_host_and_the_login_machine_are_clients"
    done = command("-m", "pytest", "-p", "no:cacheprovider", test, PATH=str(tmp_path), MUSTER_REQUIRE_SLURM=required)
    assert outcome in done.out
    assert "apt-get install slurm-wlm munge iproute2" in done.out


# --- nodes differ ---


def test_a_hidden_directory_and_another_file_are_one_nodes_alone(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/nonce").write_text("seen")
    (tmp_path / "METADATA").write_text("Version: 1\n")
    cluster.hide_directory("n1", tmp_path / "shared")
    cluster.replace_file("n2", tmp_path / "METADATA", "Version: 2\n")
    look = f"srun sh -c 'echo $(hostname) $(ls {tmp_path}/shared) $(cat {tmp_path}/METADATA)'"
    job = cluster.submit(f"#!/bin/sh\n{look}\n", "--nodes=3")
    cluster.wait(job, "COMPLETED")
    assert sorted(cluster.output(job).splitlines()) == ["n0 nonce Version: 1", "n1 Version: 1", "n2 nonce Version: 2"]

    cluster.show_again("n1", tmp_path / "shared")
    assert cluster.run_on("n1", ["cat", tmp_path / "shared/nonce"]).stdout == "seen"
    assert (tmp_path / "METADATA").read_text() == "Version: 1\n"


def test_memory_that_is_shared_on_a_node_is_not_shared_between_nodes(cluster: Cluster) -> None:
    cluster.run_on("n0", ["touch", "/dev/shm/mark"])
    assert cluster.run_on("n0", ["ls", "/dev/shm"]).stdout == "mark\n"
    assert cluster.run_on("n1", ["ls", "/dev/shm"]).stdout == ""
    assert not Path("/dev/shm/mark").exists()


# --- faults that Slurm sees at once ---


def sleeping(cluster: Cluster, node: str, count: int) -> None:
    """Waits until `count` of SLEEP's processes are on a node."""

    def found() -> int:
        return sum(Path(words[0]).name == "sleep" for words in cluster.processes(node).values())

    cluster.wait_until(lambda: found() == count, f"{count} on {node}", 30, lambda: f"{found()}")


# setsid: the first one is in no process group of the job, which a kill by groups would miss.
SLEEP = "#!/bin/sh\nsetsid sleep 321 &\nsrun sleep 321\n"


def test_a_dead_node_takes_all_its_processes_along_and_boots_again(cluster: Cluster) -> None:
    cluster.submit(SLEEP, "--nodelist=n1")
    sleeping(cluster, "n1", 2)
    numbers = list(cluster.processes("n1"))
    cluster.kill_node("n1")
    assert [number for number in numbers if Path(f"/proc/{number}").exists()] == []
    assert cluster.processes("n1") == {}
    assert not reachable(cluster, "n1")
    cluster.start_node("n1")
    cluster.wait_until(lambda: reachable(cluster, "n1"), "n1 reachable", 10)
    assert float(cluster.run_on("n1", ["cut", "-d.", "-f1", "/proc/uptime"]).stdout) < 10
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
    job = cluster.submit("#!/bin/sh\nsrun sleep 3\necho done\n")
    cluster.wait_until(lambda: "sleep" in str(cluster.processes("n0")), "the step", 10)
    cluster.restart_daemon("n0")
    assert cluster.wait(job) == "COMPLETED"
    assert cluster.output(job) == "done\n"


def test_without_munge_a_node_proves_nothing(cluster: Cluster) -> None:
    prove = ["munge", "--no-input", f"--socket={cluster.directory}/munge/socket"]
    cluster.kill_munge("n1")
    assert [cluster.run_on(name, prove, check=False).returncode == 0 for name in cluster.names] == [True, False, True]
    cluster.start_munge("n1")
    assert cluster.wait(cluster.submit(["true"], "--nodelist=n1")) == "COMPLETED"


def test_a_preempted_batch_script_gets_the_signal_that_it_asked_for_and_time(cluster: Cluster) -> None:
    job = cluster.submit(LISTENER, "--nodes=2", "--exclusive", "--signal=B:USR1@60")
    has(cluster, job, "start 0")
    urgent = cluster.preempt(job)
    has(cluster, job, "got USR1", 15)
    assert (cluster.state(job), cluster.state(urgent)) == ("RUNNING", "PENDING")


def test_a_time_limit_can_be_shortened(cluster: Cluster) -> None:
    job = cluster.submit(["sleep", "300"], "--time=30")
    assert cluster.job(job)["TimeLimit"] == "00:30:00"
    cluster.limit(job, 2)
    assert cluster.job(job)["TimeLimit"] == "00:02:00"


def test_a_drained_node_gets_no_job(cluster: Cluster) -> None:
    cluster.drain("n0")
    job = cluster.submit(["hostname"])
    cluster.wait(job, "COMPLETED")
    assert cluster.output(job) == "n1\n"
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
def test_a_requeued_job_starts_again_within_seconds(cluster: Cluster) -> None:
    job = cluster.submit(LISTENER, "--open-mode=append")
    has(cluster, job, "start 0")
    cluster.requeue(job)
    has(cluster, job, "start 1", 20)


@pytest.mark.chaos
def test_a_job_outlives_the_crash_of_its_controller(cluster: Cluster) -> None:
    job = cluster.submit(LISTENER, "--nodes=2")
    has(cluster, job, "start 0")
    time.sleep(6)  # a crash loses what the controller has not saved
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
    cluster.wait_until(lambda: cluster.job(job)["Restarts"] == "1", "a restart", 30, lambda: str(cluster.job(job)))
    sleeping(cluster, "n1", 2)


@pytest.mark.chaos
def test_a_node_whose_cable_is_pulled_goes_on_alone_and_comes_back(cluster: Cluster) -> None:
    job = cluster.submit(["srun", "--no-kill", "sleep", "300"], "--nodes=2", "--no-kill", "--nodelist=n[0-1]")
    cluster.wait_until(lambda: "sleep" in str(cluster.processes("n1")), "the step", 10)
    cluster.cut("n1")
    assert not reachable(cluster, "n1")
    cluster.wait_for_nodes("DOWN", "n1", seconds=40)
    assert "sleep" in str(cluster.processes("n1"))  # nobody could tell it
    assert cluster.state(job) == "RUNNING"
    cluster.restore("n1")
    # The daemon learns that the job has no business here any more.
    cluster.wait_for_nodes("IDLE", "n1")
    cluster.wait_until(lambda: "sleep" not in str(cluster.processes("n1")), "the step's end", 20)
    assert cluster.state(job) == "RUNNING"


@pytest.mark.chaos
def test_a_job_survives_a_dead_node_only_with_no_kill(cluster: Cluster) -> None:
    script = (
        "#!/bin/sh\nsrun --no-kill sh -c '[ $SLURM_NODEID = 1 ] && exec sleep 300; sleep 300'\necho alone\nsleep 300\n"
    )
    survivor = cluster.submit(script, "--nodes=2", "--nodelist=n[0-1]", "--no-kill", "--ntasks-per-node=1")
    other = cluster.submit(LISTENER, "--nodes=2", "--nodelist=n[1-2]", "--no-requeue")
    for job in (survivor, other):
        cluster.wait(job, "RUNNING")
    cluster.kill_node("n1")
    cluster.wait_for_nodes("DOWN", "n1", seconds=40)
    assert cluster.wait(other, seconds=10) == "NODE_FAIL"
    assert cluster.state(survivor) == "RUNNING"
    cluster.start_node("n1")
    cluster.wait_for_nodes("IDLE", "n1")
    assert cluster.state(survivor) == "RUNNING"


@pytest.mark.chaos
def test_the_signal_before_the_time_limit_arrives_and_then_the_limit(cluster: Cluster) -> None:
    job = cluster.submit(LISTENER, "--partition=short", "--signal=B:USR1@30")
    has(cluster, job, "start 0")
    has(cluster, job, "got USR1", 65)
    assert cluster.state(job) == "RUNNING"
    assert "got TERM" not in cluster.output(job)
    assert cluster.wait(job, seconds=100) == "TIMEOUT"
