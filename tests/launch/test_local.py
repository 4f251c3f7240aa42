"""What a worker is started with. Real runs are in tests/runs."""

import os
import socket

from launch.local import environment, free_port
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


def test_a_free_port_can_be_bound() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))
        assert server.getsockname()[1] > 1023
