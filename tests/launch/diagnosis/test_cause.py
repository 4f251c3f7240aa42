"""Of several failures the one that the others follow from."""

from dataclasses import replace

import pytest

from launch.diagnosis.cause import Cause, first_of
from launch.diagnosis.hits import Hit, Source, hit
from launch.diagnosis.known import BY_NAME
from launch.errors import ExitCode


def told(name: str, rank: int | None = 0, time: float | None = 100.0, **more: object) -> Hit:
    one = Hit(BY_NAME[name], f"rank-{rank}.log", 1, f"{name} of rank {rank}", rank, time=time)
    return replace(one, **more)  # type: ignore[arg-type]


def first(*hits: Hit, **more: object) -> Cause:
    cause = first_of(hits, **more)  # type: ignore[arg-type]
    assert cause is not None
    return cause


def test_without_a_failure_there_is_no_cause() -> None:
    assert first_of([]) is None


def test_the_earliest_of_equals() -> None:
    cause = first(told("disk-full", 0, 101.0), told("open-files", 1, 100.0))
    assert (cause.name, cause.rank, cause.exit_code, cause.certain) == ("open-files", 1, ExitCode.HOST, True)


def test_a_cause_comes_before_what_follows_from_it_whenever_that_was_written() -> None:
    order = ("gloo-peer-lost", "nccl-time-out", "killed", "disk-full")
    hits = [told(name, rank, 100.0 + rank) for rank, name in enumerate(order)]
    while hits:
        assert first(*hits).name == hits[-1].known.name
        hits.pop()


def test_the_others_are_echoes_one_line_each() -> None:
    cause = first(
        told("disk-full", 1, 105.0), told("gloo-peer-lost", 0), told("gloo-peer-lost", 0, line=9), told("peer-lost", 2)
    )
    assert [(echo.rank, echo.line) for echo in cause.echoes] == [(0, 1), (2, 1)]


def test_clocks_that_differ_are_corrected() -> None:
    ahead, behind = told("permission", 0, 108.0, node="n0"), told("exception", 1, 100.0, node="n1")
    assert first(ahead, behind).rank == 1
    cause = first(ahead, behind, offsets={"n0": 12.0})
    assert (cause.rank, cause.time) == (0, 96.0)


def test_of_exceptions_that_came_of_one_another_the_most_specific() -> None:
    resolve = told("name-not-resolved", line=5, chained=True)
    assert first(resolve, told("hub-unreachable", line=20)).name == "hub-unreachable"
    # Without the chain they are two failures, and the first one is it.
    assert first(replace(resolve, chained=False), told("hub-unreachable", line=20)).name == "hub-unreachable"


def test_an_exception_that_no_table_knows_counts_only_alone() -> None:
    unknown = told("exception", line=1)
    assert first(unknown, told("disk-full", line=9)).name == "disk-full"
    cause = first(unknown, told("exception", line=9, text="ValueError: the last one"))
    assert cause.summary == "ValueError: the last one"


def test_the_kernel_s_record_explains_what_it_coincides_with() -> None:
    record = told("xid", None, 100.0, file="kernel log")
    assert first(told("gpu-lost", 1, 98.0), record).name == "xid"
    assert first(told("gpu-lost", 1, 98.0), replace(record, time=500.0)).name == "gpu-lost"


def test_a_record_that_tells_no_time_of_its_own_may_be_of_that_moment() -> None:
    """A log that counts seconds since the node was started: the file's own age says when the line was there already."""
    record = told("xid", None, 500.0, file="launcher.log", latest=True)
    assert first(told("gpu-lost", 1, 98.0), record).name == "xid"
    assert first(told("gpu-lost", 1, 900.0), replace(record, time=500.0)).name == "xid"
    late = told("gpu-lost", 1, 900.0, latest=True)
    assert first(late, replace(record, time=100.0, latest=False)).name == "xid"
    assert first(told("gpu-lost", 1, 98.0), told("xid", None, 500.0, file="kernel log")).name == "gpu-lost"


@pytest.mark.parametrize(
    ("completed", "ranks", "rank", "summary"),
    [
        ({0: 7, 1: 7, 3: 7}, range(4), 2, "it did not come to a collective operation that others waited for"),
        ({0: 7}, range(3), 1, "it did not come to a collective operation that others waited for (nor did rank 2)"),
        ({0: 7, 1: 4}, range(2), 1, "it is behind: it completed 4 collective operations, others 7"),
        ({0: 7, 1: 7}, range(2), 0, BY_NAME["nccl-time-out"].cause),
        ({0: None, 1: None}, (), 0, BY_NAME["nccl-time-out"].cause),
    ],
)  # fmt: skip
def test_of_a_collective_that_timed_out_the_rank_that_is_waited_for(
    completed: dict[int, int | None], ranks: range, rank: int, summary: str
) -> None:
    hits = [told("nccl-time-out", waiting, completed=done) for waiting, done in completed.items()]
    cause = first(*hits, ranks=ranks)
    assert (cause.rank, cause.summary, cause.certain) == (rank, summary, False)


@pytest.mark.parametrize(
    ("doing", "where"),
    [
        ("forward", " in forward"), ("backward", " in backward"), ("optimizer step", " in the optimizer step"),
        ("evaluation", " in evaluation"), ("loading", " while loading"), (None, ""),
    ],
)  # fmt: skip
def test_a_gpu_s_memory_runs_out_in_a_phase(doing: str | None, where: str) -> None:
    assert first(told("gpu-memory", doing=doing)).summary == f"the GPU's memory was used up{where}"


# From a line to a hit

TRACE = ["Traceback (most recent call last):", '  File "a.py", line 1, in main', "    run()"]
STEPS = [f"{{'loss': {number}.5, 'grad_norm': 0.1, 'epoch': 0.1}}" for number in range(4)]
OF_A_RANK, OF_ALL = Source("rank-1.log", 2026, rank=1, until=5.0), Source("launcher.log", 2026)


def test_an_exception_that_training_survived_is_no_failure() -> None:
    line = "ModuleNotFoundError: No module named 'apex'"
    assert hit(OF_A_RANK, 4, TRACE, line, STEPS) is None
    found = hit(OF_A_RANK, 4, TRACE, line, STEPS[:2])
    assert found is not None
    assert (found.rank, found.time) == (1, 5.0)


def test_a_bar_that_goes_on_is_another_rank_s_where_all_write_to_one_log() -> None:
    bars = [f" {number}/8 [00:0{number}<00:09]" for number in range(5)]
    line = "ModuleNotFoundError: No module named 'apex'"
    assert hit(OF_A_RANK, 4, TRACE, line, bars) is None
    assert hit(OF_ALL, 4, TRACE, line, bars) is not None


def test_what_torch_s_excepthook_labels_has_ended_a_rank() -> None:
    found = hit(OF_ALL, 4, TRACE, "[rank3]: ModuleNotFoundError: No module named 'apex'", STEPS)
    assert found is not None
    assert found.rank == 3


def test_of_torchrun_s_report_only_the_first_failure_counts() -> None:
    entry = ["  time      : 2026-11-27_09:31:44", "  host      : n7", "  rank      : 5 (local_rank: 1)"]
    assert hit(OF_ALL, 9, ["Failures:", "[1]:", *entry], "  exitcode  : 1 (pid: 77)", []) is None
    line = "  exitcode  : -9 (pid: 77)"
    found = hit(OF_ALL, 19, ["Failures:", "Root Cause (first observed failure):", "[0]:", *entry], line, [])
    assert found is not None
    assert (found.rank, found.node, found.known.name) == (5, "n7", "killed")


def test_a_worker_that_a_signal_ended_has_a_reason_of_its_own_wherever_torchrun_lists_it() -> None:
    """Of two that end within 0.1 s torchrun calls either the first."""
    entry = ["Failures:", "[1]:", "  rank      : 5 (local_rank: 1)"]
    for code, name in ((-11, "segfault"), (-9, "killed")):
        found = hit(OF_ALL, 9, entry, f"  exitcode  : {code} (pid: 77)", [])
        assert found is not None
        assert (found.rank, found.known.name) == (5, name)
    killed = "Unable to shutdown process 77 via Signals.SIGTERM, forcefully exiting via Signals.SIGKILL"
    assert hit(OF_ALL, 9, [killed, *entry], "  exitcode  : -9 (pid: 77)", []) is None


def test_an_error_that_hides_another_has_no_say_beside_it() -> None:
    """As transformers says what it could not import; `chained` is what has another one behind it."""
    hidden = "ModuleNotFoundError: Could not import module 'PeftModel'. Are this object's requirements defined?"
    before = [
        told("exception", text="RuntimeError: bitsandbytes is for another CUDA", line=1, chained=True),
        told("missing-module", text=hidden, line=2, chained=True),
    ]
    last = told("missing-module", text=hidden.replace("PeftModel", "Trainer"), line=3)
    assert first(*before, last).evidence[0].text == before[0].text
    assert first(last).name == "missing-module"
