"""The table of known failures: whole, ordered, and readable."""

import json
from pathlib import Path

import pytest

from launch.diagnosis.known import BY_NAME, KNOWN, STANDINGS, recognised
from launch.diagnosis.reference import reference
from launch.diagnosis.scan import NEEDLES
from launch.errors import ExitCode
from tests.conftest import ROOT

CORPUS = Path(__file__).parent / "corpus"


def test_every_failure_has_a_name_of_its_own_and_words_for_people() -> None:
    assert len(BY_NAME) == len(KNOWN)
    for known in KNOWN:
        assert known.standing in STANDINGS
        assert known.source
        assert not known.cause.endswith(".")
        assert not known.fix.endswith(".")
        assert known.code not in (ExitCode.DONE, ExitCode.INTERNAL, ExitCode.USAGE)


def test_only_what_follows_from_something_else_leaves_its_fix_to_that() -> None:
    without = {known.name for known in KNOWN if not known.fix}
    assert without == {"arithmetic", "interrupted", "closed-by-launcher", "exception"}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        # The same error, more and less specific.
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "gpu-memory"),
        ("RuntimeError: CUDA error: out of memory", "gpu-memory"),
        ("RuntimeError: NCCL error in: ProcessGroupNCCL.cpp:1, unhandled system error", "nccl-system-error"),
        ("torch.distributed.DistBackendError: NCCL error in: NCCLUtils.hpp, remote process exited", "nccl-peer-lost"),
        ("torch.distributed.DistBackendError: something else", "peer-lost"),
        ("ImportError: x.so: undefined symbol: _ZN3c10", "wheel-mismatch"),
        ("ImportError: cannot import name 'a' from 'b'", "missing-module"),
        ("OSError: [Errno 28] No space left on device", "disk-full"),
        ("OSError: [Errno 28] No space left on device: '/dev/shm/torch_1_2'", "shared-memory"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'a'", "missing-file"),
        ("ValueError: anything else", "exception"),
        # One failure in the words of several versions.
        ("  what():  CUDA out of memory. Tried to allocate 20.00 MiB", "gpu-memory"),
        ("RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable", "gpu-lost"),
        ("RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable", "gpu-lost"),
        ("Exception: >- DeepSpeed Op Builder: Installed CUDA version 12.0 does not match", "op-build"),
        ("AttributeError: 'NoneType' object has no attribute 'cquantize_blockwise_fp16_nf4'", "bitsandbytes"),
        ("AttributeError: /l/libbitsandbytes_cpu.so: undefined symbol: cquantize_blockwise_fp16_nf4", "bitsandbytes"),
        ("A module that was compiled using NumPy 1.x cannot be run in NumPy 2.1.0 as it may crash.", None),
        ("UserWarning: CUDA initialization: Error 802: system not yet initialized", None),
        ("huggingface_hub.errors.HfHubHTTPError: 429 Client Error: Too Many Requests for url: https://x", "hub-busy"),
        ("/var/spool/slurmd/job00191/slurm_script: line 28:  8156 Killed                  python3 a.py", "killed"),
        ("story, line 3: 12 Killed by a dragon", None),
        # Xid errors of applications are not the hardware's.
        ("NVRM: Xid (PCI:0000:44:00): 79, pid=1, GPU has fallen off the bus.", "xid"),
        ("NVRM: Xid (PCI:0000:44:00): 31, pid=1, name=python, MMU Fault", None),
        ("  exitcode  : -9 (pid: 5)", "killed"),
        ("  exitcode  : -11 (pid: 5)", "segfault"),
        ("  exitcode  : 1 (pid: 5)", "worker-failed"),
        ("  exitcode  : 0 (pid: 5)", None),
        ("JobState=TIMEOUT Reason=TimeLimit", "time-limit"),
        ("JobState=OUT_OF_MEMORY ExitCode=0:125", "oom-killed"),
        ("JobState=COMPLETED ExitCode=0:0", None),
        # What only mentions an error.
        ("FutureWarning: `error_bad_lines` is deprecated and will raise an error", None),
        ("n1:5:5 [0] NCCL INFO NET/IB : No device found, error is ignored", None),
        ("if you see torch.OutOfMemoryError: reduce the batch", None),
        ("a PermissionError: would be raised here", None),
        ("[W1 socket.cpp:752] The IPv6 network addresses of (n1, 29511) cannot be retrieved (gai error: -2)", None),
        ("'loss': 1.5, 'grad_norm': 0.2, 'finance': 'nan'", None),
    ],
)  # fmt: skip
def test_a_line_is_recognised_as(line: str, name: str | None) -> None:
    known = recognised(line)
    assert (known.name if known else None) == name


def test_the_fix_depends_on_what_the_process_was_doing() -> None:
    memory = BY_NAME["gpu-memory"]
    assert memory.fix_for("optimizer step").startswith("Use training.optimizer: paged_adamw_32bit")
    assert memory.fix_for("loading").startswith("Use model.quantization: nf4")
    assert memory.fix_for("backward") == memory.fix_for(None) == memory.fix


def test_every_line_that_names_a_first_cause_is_found_by_a_needle() -> None:
    """The scan looks only at lines with one of them in it."""
    index = json.loads((CORPUS / "index.json").read_text(encoding="utf-8"))
    for name, case in index.items():
        if case["at"]:
            file, _, number = case["at"].rpartition(":")
            line = (CORPUS / name / file).read_bytes().split(b"\n")[int(number) - 1]
            assert any(needle in line for needle in NEEDLES), (name, line)


def test_the_page_of_the_documentation_comes_from_the_table() -> None:
    page = (ROOT / "docs/diagnose.md").read_text(encoding="utf-8")
    assert page == reference(), "run: python -m launch.diagnosis.reference > docs/diagnose.md"
