"""What a worker is started with. Real runs are in tests/runs."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.machine.workers import NodeWorkers, environment, free_port
from launch.rundir import Attempt, Phase
from launch.rundir.journal import beat
from launch.rundir.pulses import Pulse
from tests.conftest import ROOT


def test_workers_see_our_packages_first_and_not_the_folder_they_are_started_in() -> None:
    variables = environment({"PATH": "/bin", "PYTHONPATH": "/mine"})
    assert variables == {
        "PATH": "/bin",
        "PYTHONPATH": f"{ROOT}{os.pathsep}/mine",
        "PYTHONSAFEPATH": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    assert environment({})["PYTHONPATH"] == str(ROOT)
    assert environment({"TOKENIZERS_PARALLELISM": "false"})["TOKENIZERS_PARALLELISM"] == "false"


def test_what_another_launcher_left_over_does_not_reach_them() -> None:
    left_over = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_DEEPSPEED")
    left_over += ("FSDP_VERSION", "TORCHELASTIC_RUN_ID", "GROUP_RANK", "ROLE_RANK", "DS_ACCELERATOR")
    kept = {"HF_HOME": "/hf", "CUDA_VISIBLE_DEVICES": "1", "NCCL_DEBUG": "INFO", "MASTER_OF_NONE": "1"}
    variables = environment({**dict.fromkeys(left_over, "1"), **kept})
    ours = {"PYTHONPATH", "PYTHONSAFEPATH", "TOKENIZERS_PARALLELISM", "CUDA_DEVICE_ORDER"}
    assert set(variables) == {*kept, *ours}


def test_gpus_are_counted_as_preflight_counts_them_unless_somebody_says_otherwise() -> None:
    """CUDA's own default is the fastest first: of two kinds of GPUs rank 0 would have another than was looked at."""
    assert environment({})["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert environment({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"})["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def ranks(attempt: Attempt, **phases: Phase) -> None:
    """Of processes that have ended."""
    for rank, phase in enumerate(phases.values()):
        gone = subprocess.Popen(["true"])
        gone.wait()
        pulse = Pulse(rank=rank, node="n0", pid=gone.pid, phase=phase, step=5, marks=9, time=time.time())
        beat(attempt.pulse(rank), pulse.model_dump())


def test_a_rank_that_has_done_what_it_had_to_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long another one, or what started them, takes to end."""
    monkeypatch.setattr("launch.machine.workers.BEREAVED_SECONDS", 0.1)
    attempt = Attempt(tmp_path)
    workers = NodeWorkers(["sleep", "300"], attempt, range(2), tmp_path / "launcher.log")
    try:
        ranks(attempt, first="ended", second="ended")
        for _ in range(5):
            assert workers.poll() is None
            time.sleep(0.1)
        assert workers.ended_well()
        ranks(attempt, first="ended", second="saving")
        deadline = time.monotonic() + 60
        while workers.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert (workers.poll(), workers.ended_well()) == (-signal.SIGKILL, False)
    finally:
        workers.kill()
        workers.close()


def test_logs_of_what_is_left_behind_hold_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that a worker has started and forgotten, with its output still open."""
    monkeypatch.setattr("launch.machine.workers.LOGGED_SECONDS", 1.0)
    leaves = "import subprocess; print(subprocess.Popen(['sleep', '300'], start_new_session=True).pid, flush=True)"
    workers = NodeWorkers([sys.executable, "-c", leaves], Attempt(tmp_path), range(1), tmp_path / "launcher.log")
    workers.close()
    assert workers.poll() == 0
    os.kill(int((tmp_path / "launcher.log").read_text()), signal.SIGKILL)


def test_a_free_port_can_be_bound() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))
        assert server.getsockname()[1] > 1023
