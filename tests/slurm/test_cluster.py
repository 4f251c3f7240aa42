"""The cluster is a real Slurm, its nodes are apart, and it leaves nothing behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, command, environment
from tests.slurm.cluster import Cluster
from tests.slurm.machine import CommandFailed, run

ALL_REDUCE = """\
import os, socket, torch, torch.distributed as dist
dist.init_process_group("gloo")
value = torch.tensor([10.0 ** dist.get_rank()])
dist.all_reduce(value)
print(socket.gethostname(), dist.get_rank(), value.item(), flush=True)
dist.destroy_process_group()
"""


# --- it is a cluster ---


def test_two_nodes_run_a_step_under_their_own_names_and_find_each_other(cluster: Cluster) -> None:
    job = cluster.submit("#!/bin/sh\nsrun sh -c 'echo $(hostname) $(getent hosts n0 n1)'\n", "--nodelist=n[0-1]")
    assert cluster.wait(job) == "COMPLETED"
    both = f"{cluster.address('n0')} n0 {cluster.address('n1')} n1"
    assert sorted(cluster.output(job).splitlines()) == [f"n0 {both}", f"n1 {both}"]


def test_a_job_sees_the_gpus_that_it_asked_for(cluster: Cluster) -> None:
    one = cluster.submit("#!/bin/sh\necho $CUDA_VISIBLE_DEVICES\nsleep infinity\n", "--gpus=1", "--nodelist=n0")
    cluster.wait(one, "RUNNING")
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
    job = cluster.submit(step, "--nodelist=n[0-1]", env={"GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"})
    assert cluster.wait(job, seconds=200) == "COMPLETED", cluster.output(job)
    assert {"n0 0 11.0", "n1 1 11.0"} < set(cluster.output(job).splitlines())  # torch warns as well


def test_the_host_and_the_login_machine_are_clients(cluster: Cluster) -> None:
    step = ["srun", "--nodelist=n[0-1]", "hostname"]
    assert sorted(cluster.slurm(*step).split()) == ["n0", "n1"]
    assert sorted(cluster.run_on("login", step).stdout.split()) == ["n0", "n1"]


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
        job = other.submit(["sleep", "infinity"])
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
    program.communicate(timeout=60)
    deadline = time.monotonic() + 60
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
