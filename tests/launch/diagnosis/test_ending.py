"""Exceptions, failure files and exit codes to the first cause."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from launch.diagnosis.cause import Cause, first_of
from launch.diagnosis.ending import first_cause, outcome, read_failures, unexplained
from launch.diagnosis.exceptions import classify
from launch.diagnosis.exceptions import failure as rank_failure
from launch.diagnosis.hits import Hit
from launch.diagnosis.known import BY_NAME
from launch.errors import DataError, ExitCode, Mistake, NumericalError, Stopped
from launch.rundir import RunDir


class OutOfMemoryError(RuntimeError):
    """torch.OutOfMemoryError by name; torch itself is never imported for a diagnosis."""


class DistBackendError(RuntimeError):
    """torch.distributed.DistBackendError by name."""


GPU_ADVICE = (
    "Use a smaller training.micro_batch_size with training.global_batch_size kept,"
    " training.gradient_checkpointing: true,"
    " or model.quantization: nf4"
)
PEER_ADVICE = "Another rank ended or cannot be reached; its own log says why"
HOST_ADVICE = "Free memory or disk, then --resume auto"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OutOfMemoryError("CUDA out of memory."), 6, f"OutOfMemoryError: CUDA out of memory.\n{GPU_ADVICE}"),
        (RuntimeError("CUDA out of memory."), 6, f"RuntimeError: CUDA out of memory.\n{GPU_ADVICE}"),
        (FloatingPointError("overflow"), 7, "FloatingPointError: overflow"),
        (DistBackendError("x"), 8, f"DistBackendError: x\n{PEER_ADVICE}"),
        (RuntimeError("[../gloo/pair.cc:1] Connection closed by peer"), 8, None),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp"), 8, None),
        (ConnectionResetError(), 8, f"ConnectionResetError\n{PEER_ADVICE}"),
        (MemoryError(), 9, f"MemoryError\n{HOST_ADVICE}"),
        (OSError(errno.ENOSPC, "No space left on device"), 9, None),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 9, None),
        (OSError(errno.EROFS, "Read-only file system"), 9, None),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 9, None),
        (RuntimeError("PytorchStreamWriter failed: No space left on device"), 9, None),
        (KeyboardInterrupt(), 75, "KeyboardInterrupt"),
        (OSError(errno.ENOENT, "No such file"), 10, None),
        (ValueError("anything else"), 10, "ValueError: anything else"),
    ],
)
def test_an_exception_has_a_code_and_a_paragraph(error: BaseException, code: int, message: str | None) -> None:
    found, text = classify(error)
    assert found == code
    assert text == message or (message is None and text.startswith(f"{type(error).__name__}: "))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NumericalError("loss is nan at step 3"), 7),
        (DataError([Mistake("train.jsonl", 3, 1, "no answer")]), 5),
        (Stopped("stopped at step 4"), 75),
    ],
)
def test_an_error_of_our_own_speaks_for_itself(error: Exception, code: int) -> None:
    assert classify(error) == (code, str(error))


def test_the_driver_s_out_of_memory() -> None:
    assert classify(RuntimeError("CUDA error: out of memory"))[0] == ExitCode.GPU_MEMORY


def test_what_transformers_could_not_import_is_told_by_what_was_wrong_with_it() -> None:
    hidden = [ModuleNotFoundError(f"Could not import module '{name}'.") for name in ("Trainer", "PeftModel")]
    hidden[0].__cause__, hidden[1].__cause__ = hidden[1], RuntimeError("bitsandbytes is for another CUDA")
    assert classify(hidden[0]) == classify(hidden[1].__cause__)
    assert rank_failure(0, hidden[0])["error"] == "RuntimeError"
    advised = ImportError("flash-attn is needed: pip install flash-attn")
    advised.__cause__ = ModuleNotFoundError("No module named 'flash_attn'")
    assert classify(advised)[1].startswith("ImportError: flash-attn is needed")


# The first cause


def failure(rank: int, code: int, time: float, message: str = "it broke") -> dict[str, Any]:
    return {"rank": rank, "exit_code": code, "time": time, "message": message}


def test_without_failures_there_is_no_cause() -> None:
    assert first_cause([]) is None


def test_the_earliest_failure_is_the_cause() -> None:
    assert first_cause([failure(0, 10, 2.0), failure(1, 6, 1.0)]) == failure(1, 6, 1.0)


def test_of_two_at_once_the_lower_rank() -> None:
    assert first_cause([failure(3, 10, 1.0), failure(1, 10, 1.0)]) == failure(1, 10, 1.0)


def test_a_lost_connection_is_a_cause_only_where_nothing_else_failed() -> None:
    lost, own = failure(0, 8, 1.0), failure(1, 6, 2.0)
    assert first_cause([lost, own]) == own
    assert first_cause([lost, failure(1, 8, 0.5)]) == failure(1, 8, 0.5)


def test_failure_files_are_read_and_broken_ones_left_out(tmp_path: Path) -> None:
    attempt = RunDir(tmp_path).attempt(1)
    attempt.root.mkdir(parents=True)
    attempt.failure(0).write_text(json.dumps(failure(0, 6, 1.0)))
    attempt.failure(1).write_text('{"rank": 1, "exit')
    assert read_failures(attempt) == [failure(0, 6, 1.0)]


# How an attempt ended


def ended(
    returncode: int, *failures: dict[str, Any], world_size: int = 2, stopped: bool = False, finished: bool = False
) -> tuple[int, str]:
    code, reason = outcome(returncode, failures, world_size, stopped=stopped, finished=finished)
    return int(code), reason


def test_done() -> None:
    assert ended(0, finished=True) == (0, "done")


def test_stopped_as_asked() -> None:
    assert ended(75, stopped=True) == (75, "stopped as asked; continue with --resume auto")


def test_a_failure_while_stopping_is_a_failure() -> None:
    assert ended(1, failure(1, 9, 1.0, "disk full"), stopped=True) == (9, "rank 1: disk full")


def test_the_first_cause_gives_the_code_and_the_reason() -> None:
    assert ended(1, failure(0, 8, 1.0), failure(1, 6, 2.0, "out of memory")) == (6, "rank 1: out of memory")


def test_all_ranks_lost_one_another() -> None:
    assert ended(1, failure(0, 8, 1.0, "no route"), failure(1, 8, 2.0)) == (8, "rank 0: no route")


def test_a_rank_that_vanished_is_the_cause_of_the_lost_connections() -> None:
    assert ended(1, failure(0, 8, 1.0), failure(2, 8, 1.0), world_size=4) == (
        10,
        "rank 1, 3 ended without a word and the others lost their connection: killed, by somebody or by the kernel"
        " for want of memory (see dmesg); continue with --resume auto",
    )


@pytest.mark.parametrize("returncode", [-9, 137])
def test_killed(returncode: int) -> None:
    assert ended(returncode) == (
        10,
        "killed (SIGKILL): by somebody, or by the kernel for want of memory (see dmesg); continue with --resume auto",
    )


def test_killed_by_another_signal() -> None:
    assert ended(-11) == (10, "killed by signal 11; continue with --resume auto")


@pytest.mark.parametrize("returncode", [0, 1, 3])
def test_ended_without_an_adapter_and_without_a_word(returncode: int) -> None:
    assert ended(returncode) == (
        10,
        f"the workers ended with exit code {returncode} and left no failure file; see their logs",
    )


def test_a_crash_after_the_adapter_was_saved_is_not_done() -> None:
    assert ended(1, finished=True)[0] == 10


# What logs explain where no rank wrote a failure down


def explained(name: str, rank: int | None = 1) -> Cause:
    cause = first_of([Hit(BY_NAME[name], "attempts/001/rank-1.log", 7, f"{name}!", rank)])
    assert cause is not None
    return cause


def test_a_log_explains_what_no_failure_file_does() -> None:
    code, reason = outcome(1, [], 2, stopped=False, finished=False, explained=explained("ecc"))
    known = BY_NAME["ecc"]
    assert (code, reason) == (10, f"rank 1: {known.cause} (attempts/001/rank-1.log:7)\n{known.fix}")


def test_a_rank_killed_by_the_kernel_is_no_longer_without_a_word() -> None:
    lost = [failure(0, 8, 1.0)]
    assert unexplained(lost, 2)
    code, reason = outcome(1, lost, 2, stopped=False, finished=False, explained=explained("oom-killed"))
    assert code == 9
    assert reason.startswith("rank 1: the kernel killed a process because")


def test_a_doubtful_line_does_not_take_the_place_of_a_failure_file() -> None:
    lost = [failure(0, 8, 1.0)]
    reason = outcome(1, lost, 2, stopped=False, finished=False, explained=explained("gloo-peer-lost"))[1]
    assert reason.startswith("rank 1 ended without a word")
    own = [failure(0, 7, 1.0, "nan")]
    assert not unexplained(own, 2)
    assert outcome(1, own, 2, stopped=False, finished=False, explained=explained("ecc")) == (7, "rank 0: nan")


def test_a_watchdog_that_killed_all_is_a_communication_failure() -> None:
    code, reason = outcome(-6, [], 2, stopped=False, finished=False, explained=explained("nccl-time-out"))
    assert code == 8
    assert reason.startswith(f"rank 1: {BY_NAME['nccl-time-out'].cause} (attempts/001/rank-1.log:7)")


def test_that_a_process_was_killed_is_known_from_its_exit_code() -> None:
    assert outcome(-9, [], 2, stopped=False, finished=False, explained=explained("killed"))[1].startswith("killed (SIG")


def test_a_stop_and_an_end_as_planned_need_no_explanation() -> None:
    assert outcome(75, [], 2, stopped=True, finished=False, explained=explained("ecc"))[0] == 75
    assert outcome(0, [], 2, stopped=False, finished=True, explained=explained("ecc"))[0] == 0


@pytest.mark.parametrize(
    "damaged",
    [
        {"rank": 0, "time": 1.0},
        {"rank": 0, "time": None, "exit_code": 7},
        {"rank": 0, "time": 1.0, "exit_code": "x"},
        5,
    ],
)
def test_a_failure_file_without_its_numbers_tells_nothing(tmp_path: Path, damaged: object) -> None:
    attempt = RunDir(tmp_path).attempt(1)
    attempt.root.mkdir(parents=True)
    attempt.failure(0).write_text(json.dumps(damaged))
    attempt.failure(1).write_text(json.dumps({"rank": 1, "time": 1.0, "exit_code": 7, "message": "m"}))
    assert [failure["rank"] for failure in read_failures(attempt)] == [1]
