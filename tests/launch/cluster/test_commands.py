"""Each way in which Slurm does not answer has its own message. The texts are what its commands have printed."""

import os
from pathlib import Path

import pytest

from launch.cluster.commands import SlurmError, environment, failure, set_aside, slurm
from tests.conftest import until_ended

MUNGE = (
    "sinfo: error: If munged is up, restart with --num-threads=10\n"
    'sinfo: error: Munge encode failed: Failed to access "/run/munge/munge.socket.2": No such file or directory\n'
    "sinfo: error: slurm_send_node_msg: auth_g_create: REQUEST_PARTITION_INFO has authentication error\n"
    "slurm_load_partitions: Protocol authentication error\n"
)
CONTROLLER = "scontrol: error: Unable to contact slurm controller (connect failure)\n"
NO_CONF = (
    "sbatch: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host\n"
    "sbatch: error: fetch_config: DNS SRV lookup failed\n"
    "sbatch: fatal: Could not establish a configuration source\n"
)
REFUSED = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified\n"


@pytest.mark.parametrize(
    ("printed", "silence", "told"),
    [
        (MUNGE, "munge", "x: Protocol authentication error"),
        (CONTROLLER, "controller", "x: Unable to contact slurm controller (connect failure)"),
        (NO_CONF, "configuration", "x: Could not establish a configuration source"),
        (REFUSED, "refused",
         "x: Batch job submission failed: Invalid account or account/partition combination specified"),
        ("", "refused", "x: failed and said nothing"),
    ],
)  # fmt: skip
def test_why_slurm_is_silent(printed: str, silence: str, told: str) -> None:
    found = failure("x", printed)
    assert (found.silence, found.told) == (silence, told)
    assert found.fix


def test_a_machine_without_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError) as error:
        slurm("sbatch", "--version")
    assert error.value.silence == "absent"
    assert str(error.value) == (
        "sbatch is not on this machine; run muster on a login node of the cluster, or load its module"
    )


def test_a_command_that_this_user_must_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As where /root/.local/bin is on the PATH of an image whose user is another."""
    (tmp_path / "scontrol").touch(0o644)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match="scontrol is not on this machine"):
        slurm("scontrol", "show", "job", "1")


def test_a_command_that_never_answers_is_ended_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "sinfo"
    program.write_text("#!/bin/sh\nsleep 300 &\necho $! > child\nwait\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SlurmError) as error:
        slurm("sinfo", seconds=3)
    assert (error.value.silence, error.value.told) == ("overdue", "sinfo has not answered within 3 s")
    until_ended(int((tmp_path / "child").read_text()))


def test_variables_that_would_change_a_job_unseen_are_left_out() -> None:
    outer = {"SBATCH_PARTITION": "x", "SLURM_JOB_ID": "1", "SLURM_CONF": "/c", "SLURM_CLUSTERS": "a", "HOME": "/h"}
    kept = environment(outer)
    assert {name: kept[name] for name in outer if name in kept} == {
        "SLURM_CONF": "/c", "SLURM_CLUSTERS": "a", "HOME": "/h",
    }  # fmt: skip
    assert set_aside(outer) == ["SBATCH_PARTITION"]
