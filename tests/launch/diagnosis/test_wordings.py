"""One failure in the words of many versions and programs, each as the last line of a rank's log.

Read like a log, not like a sentence: a line that no needle finds is not read at all.
"""

from pathlib import Path

import pytest

from launch.diagnosis.explain import explain
from launch.rundir import RunDir

HEAD = 'Traceback (most recent call last):\n  File "/opt/venv/lib/python3.11/site-packages/a.py", line 61, in main\n'
NCCL = "torch.distributed.DistBackendError: [1] is setting up NCCL communicator and"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Error out of memory at line 380 in file /src/csrc/pythonInterface.cpp", "gpu-memory"),
        ("slurmstepd: error: Exceeded job memory limit", "oom-killed"),
        ("slurmstepd: error: StepId=7.0 exceeded memory limit (67212344 > 65536000), being killed", "oom-killed"),
        (HEAD + "RuntimeError: unable to mmap 12 bytes from file </m/a>: Cannot allocate memory (12)", "host-memory"),
        (HEAD + f"{NCCL} retreiving ncclUniqueId from [0], but store->get('0') got error: Socket Timeout",
         "nccl-time-out"),
        (HEAD + f"{NCCL} retrieving ncclUniqueId from [0], but store->get('0') got error: Connection reset by peer",
         "peer-lost"),
        ("[rank0]:[F1127 10:11:02.1 ProcessGroupNCCL.cpp:1557] [PG ID 0 Rank 0] Terminating the process after"
         " attempting to dump debug info, due to ProcessGroupNCCL watchdog hang.", "nccl-time-out"),
        ("[rank1]:[F1127 10:11:02.1 ProcessGroupNCCL.cpp:1557] [PG ID 0 Rank 1] ProcessGroupNCCL's watchdog got stuck"
         " for 480 seconds without making progress in monitoring enqueued collectives.", "nccl-other"),
        ("n1 kernel: NVRM: Xid (PCI:0000:4f:00): 140, pid=1, name=python3, unrecovered ECC error", "xid"),
        ("Unable to determine the device handle for GPU0000:4F:00.0: Unknown Error", "gpu-lost"),
        (HEAD + "torch.AcceleratorError: CUDA error: invalid device ordinal", "no-gpu"),
        (HEAD + "RuntimeError: CUDA error: no CUDA-capable device is detected", "no-gpu"),
        (HEAD + "RuntimeError: Found no NVIDIA driver on your system. Please check that you have one", "no-gpu"),
        (HEAD + "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment", "no-gpu"),
        (HEAD + "AssertionError: Torch not compiled with CUDA enabled", "no-gpu"),
        (HEAD + "RuntimeError: CUDA is required but not available for bitsandbytes.", "no-gpu"),
        (HEAD + "RuntimeError: CUDA error: forward compatibility was attempted on non supported HW", "driver-too-old"),
        (HEAD + "RuntimeError: FlashAttention only supports Ampere GPUs or newer.", "no-kernel-image"),
        (HEAD + "RuntimeError: CUDA error: device kernel image is invalid", "no-kernel-image"),
        ("ptxas fatal   : Value 'sm_120' is not defined for option 'gpu-name'", "no-kernel-image"),
        (HEAD + "RuntimeError: Ninja is required to load C++ extensions (pip install ninja to get it)", "op-build"),
        (HEAD + "OSError: CUDA_HOME environment variable is not set. Please set it to your CUDA root.", "op-build"),
        (HEAD + "AttributeError: 'DeepSpeedCPUAdam' object has no attribute 'ds_opt_adam'", "op-build"),
        (HEAD + "ImportError: /root/.cache/torch_extensions/py311/cpu_adam/cpu_adam.so: cannot open shared object file",
         "op-build"),
        (HEAD + "RuntimeError: Attempted to use bitsandbytes native library functionality but it's not available.",
         "bitsandbytes"),
        (HEAD + "ImportError: libcudart.so.11.0: cannot open shared object file: No such file or directory",
         "wheel-mismatch"),
        (HEAD + "RuntimeError: operator torchvision::nms does not exist", "wheel-mismatch"),
        (HEAD + "ValueError: Tokenizer class Qwen3Tokenizer does not exist or is not currently imported.",
         "newer-model"),
        (HEAD + "KeyError: 'qwen3'", "newer-model"),
        (HEAD + "KeyError: 'messages'", "exception"),
        (HEAD + "RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory",
         "safetensors"),
        (HEAD + "_pickle.UnpicklingError: invalid load key, 'v'.", "safetensors"),
        (HEAD + "OSError: Error no file named model.safetensors found in directory /models/qwen.", "missing-file"),
        ("slurmstepd: error: execve(): /home/u/venv/bin/python: No such file or directory", "missing-file"),
        ("slurmstepd: error: execve(): /home/u/venv/bin/python: Permission denied", "permission"),
        (HEAD + "RuntimeError: [enforce fail at inline_container.cc:664] . unexpected pos 9437184 vs 9437080",
         "disk-full"),
        (HEAD + "OSError: [Errno 108] Cannot send after transport endpoint shutdown", "stale-file"),
        (HEAD + "OSError: [Errno 107] Transport endpoint is not connected: '/lustre/a'", "stale-file"),
        (HEAD + "OSError: [Errno 107] Transport endpoint is not connected", "exception"),  # a socket's
        ("job.sh: fork: retry: Resource temporarily unavailable", "process-limit"),
        (HEAD + "ConnectionError: Tried to launch distributed communication on port `29500`, but another process is"
         " utilizing it. Please specify a different port", "port-in-use"),
        (HEAD + "torch.distributed.DistNetworkError: The client socket has failed to connect to any network address of"
         " (10.0.0.1, 29500).", "rendezvous-time-out"),
        (HEAD + "jinja2.exceptions.TemplateError: Conversation roles must alternate user/assistant", "dataset"),
        (HEAD + "ValueError: Unable to create tensor, you should probably activate truncation and/or padding",
         "dataset"),
        (HEAD + "RuntimeError: probability tensor contains either `inf`, `nan` or element < 0", "not-finite"),
        (HEAD + "OSError: You are trying to access a gated repo.", "gated-repository"),
        (HEAD + "huggingface_hub.errors.HfHubHTTPError: 504 Server Error: Gateway Time-out for url:"
         " https://huggingface.co/api/models/Qwen/x", "hub-unreachable"),
        (HEAD + 'ValueError: Trying to set a tensor of shape torch.Size([1, 2]) in "weight" (which has shape'
         " torch.Size([3, 2])), this looks incorrect.", "shape-mismatch"),
        ("/var/spool/slurmd/job7/slurm_script: line 22: 12345 Segmentation fault      (core dumped) python a.py",
         "segfault"),
        ("n1 kernel: python3[4123]: segfault at 0 ip 00007f2 sp 00007ffc error 4 in libtorch_cuda.so[7f2+10]",
         "segfault"),
        ("/var/spool/slurmd/job7/slurm_script: line 22: 12345 Bus error               (core dumped) python a.py",
         "shared-memory"),
    ],
)  # fmt: skip
def test_a_log_that_ends_with(text: str, name: str, tmp_path: Path) -> None:
    attempt = RunDir(tmp_path).attempt(1)
    attempt.root.mkdir(parents=True)
    (attempt.root / "rank-0.log").write_text(f"loading\n{text}\n")
    cause = explain(attempt)
    assert cause is not None
    assert cause.name == name


@pytest.mark.parametrize(
    "line",
    [
        "/opt/torch/cuda/__init__.py:129: UserWarning: CUDA initialization: Found no NVIDIA driver on your system.",
        "/opt/torch/cuda/__init__.py:129: UserWarning: CUDA initialization: CUDA unknown error - this may be due to",
        "bitsandbytes library load error: libcusparse.so.12: cannot open shared object file",
        "OpenBLAS blas_thread_init: pthread_create failed for thread 12 of 64: Resource temporarily unavailable",
        "[W1127 10:00:00.1 socket.cpp:752] [c10d] The client socket has failed to connect to [::1]:29500 (errno: 111).",
    ],
)
def test_what_a_process_survives_is_no_cause(line: str, tmp_path: Path) -> None:
    attempt = RunDir(tmp_path).attempt(1)
    attempt.root.mkdir(parents=True)
    (attempt.root / "rank-0.log").write_text(f"loading\n{line}\n")
    assert explain(attempt) is None
