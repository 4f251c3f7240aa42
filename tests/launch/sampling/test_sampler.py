"""The sampler's process: what it reads of healthy, lost, slow and stuck GPUs, what it costs, and how it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from launch.sampling.driver import STUCK_SECONDS, Driver
from launch.sampling.sampler import CPU_SHARE, pause
from tests.conftest import ROOT, command, environment, until_ended
from tests.launch.sampling.conftest import Sampling

Start = Callable[..., Sampling]
VALUES = {
    "utilization", "memory_used_bytes", "memory_total_bytes", "power_watts", "power_limit_watts", "temperature",
    "sm_clock_mhz", "memory_clock_mhz", "throttle_reasons", "pcie_tx_bytes_per_second", "pcie_rx_bytes_per_second",
    "nvlink_tx_bytes_per_second", "nvlink_rx_bytes_per_second",
}  # fmt: skip
HOST = {"node", "time", "gpu", "host_memory_used_bytes", "host_cpu_percent"}


def test_every_value_of_eight_gpus(sampling: Start) -> None:
    found = sampling(
        "h100x8",
        {
            "gpu.5.utilization.gpu": 97, "gpu.5.memory.used": "40 GiB", "gpu.5.power.usage": 651500,
            "gpu.5.temperature": 64, "gpu.5.clock.sm": 1755, "gpu.5.clocks.reasons": "0x24", "gpu.5.pcie.tx": 2500,
            "gpu.5.pcie.rx": 1250,
        },
        "--gpus", 8, "--node", "n1", "--seconds", 1,
    )  # fmt: skip
    found.until(lambda: len(found.rows()) >= 8)
    rows = found.rows()[:8]
    assert [row["gpu"] for row in rows] == list(range(8))
    assert all(set(row) == VALUES | HOST for row in rows)
    row = found.of(5)[0]
    assert {key: row[key] for key in VALUES} == {
        "utilization": 97, "memory_used_bytes": 40 * 2**30 + 551 * 2**20, "memory_total_bytes": 81559 * 2**20,
        "power_watts": 651.5, "power_limit_watts": 700.0, "temperature": 64, "sm_clock_mhz": 1755,
        "memory_clock_mhz": 2619, "throttle_reasons": ["sw_power_cap", "sw_thermal_slowdown"],
        "pcie_tx_bytes_per_second": 2_500_000, "pcie_rx_bytes_per_second": 1_250_000,
        "nvlink_tx_bytes_per_second": None, "nvlink_rx_bytes_per_second": None,
    }  # fmt: skip
    assert row["node"] == "n1"
    assert abs(row["time"] - time.time()) < 10
    assert row["host_memory_used_bytes"] > 0
    assert found.of(0)[0]["utilization"] == 0
    assert found.of(0)[0]["throttle_reasons"] == []


def test_nvlink_s_counters_become_bytes_a_second_over_all_links() -> None:
    """18 links that count 1000 and 2000 KiB more at each question."""
    # A list of its own for each link: a reading asks every link once.
    changes: dict[str, object] = {f"gpu.0.nvlink.{link}.tx": "1000, 2000, 3000" for link in range(18)} | {
        "gpu.0.nvlink.rx": "7"
    }
    code = (
        "import time\n"
        "from launch.sampling.driver import Driver\n"
        "driver = Driver(None, 1)\n"
        "for _ in range(3):\n"
        "    began = time.monotonic()\n"
        "    row = driver.read()[0]\n"
        "    ended = time.monotonic()\n"
        "    print([began, ended, row['nvlink_tx_bytes_per_second'], row['nvlink_rx_bytes_per_second']])\n"
        "    time.sleep(0.5)\n"
    )
    readings: Any = told(code, changes)
    assert [received for *_, received in readings] == [None, 0, 0]
    assert readings[0][2] is None
    for (began, ended, *_), (again, last, sent, _) in pairwise(readings):
        assert 18 * 1000 * 1024 / (last - began) <= sent <= 18 * 1000 * 1024 / (again - ended)


def test_values_that_change_from_sample_to_sample(sampling: Start) -> None:
    found = sampling("changing-values", None, "--gpus", 1, "--seconds", 1)
    found.until(lambda: len(found.of(0)) >= 3)
    told = [(row["utilization"], row["temperature"], row["power_watts"]) for row in found.of(0)[:3]]
    assert told == [(0, 45, 27.0), (99, 60, 68.0), (97, 71, 69.5)]
    assert found.of(0)[0]["nvlink_tx_bytes_per_second"] is None  # a T4 has no NVLink


@pytest.mark.parametrize(
    ("devices", "count", "indices"), [(None, 2, [0, 1]), ("6,2", 8, [6, 2]), ("6,2", 1, [6]), ("5,99,1", 8, [5])]
)
def test_only_the_gpus_of_the_job(devices: str | None, count: int, indices: list[int], sampling: Start) -> None:
    variables = {} if devices is None else {"CUDA_VISIBLE_DEVICES": devices}
    found = sampling("h100x8", None, "--gpus", count, "--seconds", 1, **variables)
    found.until(lambda: len(found.rows()) >= len(indices))
    assert [row["gpu"] for row in found.rows()][: len(indices)] == indices


def test_a_slice_has_its_own_memory_and_its_gpu_s_power(sampling: Start) -> None:
    second = "MIG-5eed0000-0000-5000-0001-000000000002"
    found = sampling("mig-slices", None, "--gpus", 1, "--seconds", 1, CUDA_VISIBLE_DEVICES=second)
    found.until(lambda: bool(found.of(0)))
    row = found.of(0)[0]
    assert (row["memory_total_bytes"], row["temperature"], row["utilization"]) == (40448 << 20, 33, None)


def test_a_host_without_gpus_has_a_row_of_its_own(sampling: Start) -> None:
    found = sampling(None, None, "--seconds", 1)
    found.until(lambda: len(found.rows()) >= 2)
    row = found.rows()[1]
    assert set(row) == VALUES | HOST
    assert [row[key] for key in VALUES] == [None] * len(VALUES)
    assert 0 <= row["host_cpu_percent"] <= 100


def test_a_run_on_cpus_asks_no_driver(sampling: Start) -> None:
    found = sampling("blocks-for-ever", None, "--gpus", 0, "--seconds", 1)
    found.until(lambda: bool(found.of(None)))
    assert "error" not in found.rows()[0]


# What vanishes


def test_a_gpu_that_vanishes_in_the_middle_of_a_question(sampling: Start) -> None:
    found = sampling("gpu-lost-mid-query", None, "--gpus", 8, "--seconds", 1)
    found.until(lambda: len(found.of(7)) >= 3)
    lost = found.of(3)[:3]
    assert [row.get("error") for row in lost] == ["lost", None, None]
    assert all(row[key] is None for row in lost for key in VALUES)
    assert all(row["temperature"] == 33 for index in (0, 2, 4, 7) for row in found.of(index))
    assert not any("error" in row for row in found.rows() if row["gpu"] != 3)


def test_a_gpu_that_comes_back_is_read_again_and_may_be_lost_again() -> None:
    code = (
        "from launch.sampling.driver import Driver\n"
        "driver = Driver(None, 2, retry_seconds=0)\n"
        "for _ in range(6):\n"
        "    print([(i, row.get('error'), row['temperature']) for i, row in driver.read().items()])\n"
    )
    assert told(code, {"gpu.1.error.nvmlDeviceGetUtilizationRates": "0, 15, 15, 0, 16, 0"}) == [
        [(0, None, 33), (1, None, 33)], [(0, None, 33), (1, "lost", None)], [(0, None, 33), (1, None, None)],
        [(0, None, 33), (1, None, 33)], [(0, None, 33), (1, "lost", None)], [(0, None, 33), (1, None, 33)],
    ]  # fmt: skip


def test_a_lost_gpu_is_asked_for_again_at_a_low_rate() -> None:
    code = (
        "from launch.sampling.driver import Driver\n"
        "driver = Driver(None, 1)\n"
        "driver.read()\n"
        "connected, connect = [], driver._connect\n"
        "driver._connect = lambda: (connected.append(1), connect())\n"
        "for _ in range(50):\n"
        "    driver.read()\n"
        "first = len(connected)\n"
        "driver.retry_at -= 60\n"
        "driver.read()\n"
        "print([first, len(connected)])\n"
    )
    assert told(code, {"gpu.0.lost.at": "nvmlDeviceGetTemperature"}) == [[0, 1]]


def test_a_driver_that_goes_away_loses_every_gpu_and_is_looked_for_again() -> None:
    code = (
        "from launch.sampling.driver import Driver\n"
        "driver = Driver(None, 2, retry_seconds=0)\n"
        "for _ in range(3):\n"
        "    print([(i, row.get('error'), row['temperature']) for i, row in driver.read().items()])\n"
    )
    assert told(code, {"gpu.0.error.nvmlDeviceGetUtilizationRates": "0, 9, 0"}) == [
        [(0, None, 33), (1, None, 33)], [(0, "lost", None), (1, "lost", None)], [(0, None, 33), (1, None, 33)],
    ]  # fmt: skip


def test_after_a_reload_a_gpu_is_found_by_its_uuid_wherever_it_is_now() -> None:
    """GPU 0 is gone: NVML calls the others 0 to 6, the rows still 1 to 7."""
    code = (
        "from launch.sampling.driver import Driver\n"
        "driver = Driver(None, 2, retry_seconds=0)\n"
        "driver.uuids = {0: 'GPU-gone', 1: 'GPU-00000000-0000-4000-8000-000000000002'}\n"
        "print([(i, row.get('error'), row['temperature']) for i, row in driver.read().items()])\n"
    )
    uuid = {"gpu.2.uuid": "GPU-00000000-0000-4000-8000-000000000002", "gpu.2.temperature": 77, "gpu.0.absent": 1}
    assert told(code, uuid) == [[(0, "lost", None), (1, None, 77)]]


def test_a_gpu_of_which_nothing_can_be_read_is_lost() -> None:
    """Some drivers answer with an unknown error."""
    code = (
        "from launch.sampling.driver import Driver\n"
        "print([(i, row.get('error')) for i, row in Driver(None, 2).read().items()])\n"
    )
    names = ("UtilizationRates", "MemoryInfo", "PowerUsage", "EnforcedPowerLimit", "Temperature", "ClockInfo",
             "CurrentClocksEventReasons", "CurrentClocksThrottleReasons")  # fmt: skip
    unknown: dict[str, object] = {f"gpu.1.error.nvmlDeviceGet{name}": 999 for name in names}
    assert told(code, unknown) == [[(0, None), (1, "lost")]]
    del unknown["gpu.1.error.nvmlDeviceGetTemperature"]
    assert told(code, unknown) == [[(0, None), (1, None)]]


def test_an_old_driver_tells_what_it_knows(sampling: Start) -> None:
    """470 has the reasons under their old name."""
    found = sampling("old-driver-missing-functions", {"gpu.*.clocks.reasons": "0x4"}, "--gpus", 8, "--seconds", 1)
    found.until(lambda: len(found.rows()) >= 8)
    row = found.of(0)[0]
    assert row["throttle_reasons"] == ["sw_power_cap"]
    assert row["memory_total_bytes"] > 0
    assert "error" not in row


@pytest.mark.parametrize("scenario", ["driver-not-loaded", "library-mismatch", "no-permission"])
def test_without_a_driver_that_answers_the_host_is_sampled(scenario: str, sampling: Start) -> None:
    found = sampling(scenario, None, "--gpus", 8, "--seconds", 1)
    found.until(lambda: len(found.rows()) >= 2)
    assert [row["gpu"] for row in found.rows()] == [None] * len(found.rows())
    assert found.said() == ""


def told(code: str, changes: dict[str, object], scenario: str = "h100x8") -> list[object]:
    """What a child prints, a literal a line, on a machine with these changes."""
    import ast
    import tempfile

    from tests import fake_nvml

    with tempfile.TemporaryDirectory() as cache:
        done = command("-c", code, **fake_nvml.environment(Path(cache), scenario, changes))
    assert done.code == 0, done.err
    return [ast.literal_eval(line) for line in done.out.splitlines()]


# What is slow


def test_slow_answers_do_not_pile_up(sampling: Start) -> None:
    """Two seconds for the power of each of two GPUs: a sample takes four seconds, and there is one at a time."""
    found = sampling("l40sx4", {"delay.nvmlDeviceGetPowerUsage": 2000}, "--gpus", 2, "--seconds", 1)
    found.until(lambda: len(found.of(1)) >= 2)
    first, second = (row["time"] for row in found.of(1)[:2])
    assert second - first >= 3.9
    assert all(row["power_watts"] is not None and "error" not in row for row in found.rows())
    # The loop, the end of its input, and one that asks the driver; the one before it may not have ended yet.
    found.until(lambda: psutil.Process(found.process.pid).num_threads() <= 3)
    assert found.end() == 0


def test_a_driver_that_never_answers_about_a_gpu_is_told_and_the_host_is_sampled_on() -> None:
    code = (
        "from math import inf\n"
        "from pathlib import Path\n"
        "from launch.rundir import RunDir\n"
        "from launch.sampling.driver import Driver\n"
        "from launch.sampling.sampler import Sampler\n"
        "seen = []\n"
        "def each(rows):\n"
        "    seen.append([(row['gpu'], row.get('error'), row['temperature']) for row in rows])\n"
        "    if len(seen) == 3:\n"
        "        sampler.end()\n"
        "driver = Driver(None, 3)\n"
        "sampler = Sampler(RunDir(Path('/nowhere')), 'n', driver, 0.1, each, stuck_seconds=inf)\n"
        "asking = driver._asking\n"
        # However slow this machine is, it is the GPU that never answers which is found to be late.
        "def told(index):\n"
        "    asking(index)\n"
        "    sampler.stuck_seconds = 0.5 if seen and index == 1 else 300\n"
        "    sampler.signals.put(None)\n"
        "driver._asking = told\n"
        "sampler.run()\n"
        "print(*seen, sep='\\n', flush=True)\n"
        "import os; os._exit(0)\n"
    )
    changes: dict[str, object] = {"gpu.1.delay.nvmlDeviceGetTemperature": "0, forever"}
    assert told(code, changes) == [
        [(0, None, 33), (1, None, 33), (2, None, 33)],
        [(0, None, None), (1, "stuck", None), (2, None, None)],
        [(0, None, None), (1, None, None), (2, None, None)],
    ]


def test_it_ends_at_once_though_the_driver_never_answers(sampling: Start) -> None:
    found = sampling("h100x8", {"gpu.1.delay.nvmlDeviceGetTemperature": "0, forever"}, "--gpus", 2, "--seconds", 1)
    found.until(lambda: len(found.of(1)) >= 1)
    time.sleep(1.2)
    began = time.monotonic()
    assert found.end() == 0
    # The driver is given longer than this. It comes behind everything else on a busy machine.
    assert time.monotonic() - began < STUCK_SECONDS


# What it costs


def test_a_sample_of_eight_gpus_costs_less_than_a_percent_of_a_core(sampling: Start) -> None:
    """At five times the default's rate, so it holds at the default five times over. Importing is told apart."""
    found = sampling("h100x8", {"delay.nvmlDeviceGetPcieThroughput": 20}, "--gpus", 8, "--seconds", 1)
    found.until(lambda: len(found.of(7)) >= 2)
    began, cpu = len(found.of(7)), found.cpu_seconds()
    found.until(lambda: len(found.of(7)) >= began + 5)
    a_sample = (found.cpu_seconds() - cpu) / 5
    assert a_sample / 5.0 < 0.01
    resident = int(Path(f"/proc/{found.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert resident < 64 * 2**20


def test_a_dear_sample_makes_the_next_one_wait() -> None:
    assert pause(5.0, spent=0.004) == 5.0
    assert pause(5.0, spent=0.1) == pytest.approx(0.1 / CPU_SHARE)
    assert CPU_SHARE < 0.01


def test_it_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "import launch.sampling.__main__\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'transformers', 'pydantic', 'numpy',"
        " 'pynvml', 'prometheus_client', 'yaml', 'rich', 'typer'}))\n"
    )
    assert command("-c", code).out == "[]\n"


# How it ends


def test_it_ends_when_its_input_does(sampling: Start) -> None:
    found = sampling(None, None, "--seconds", 60)
    found.until(lambda: bool(found.rows()))
    began = time.monotonic()
    assert found.end() == 0
    assert time.monotonic() - began < 50  # the interval is 60; it comes behind everything else on a busy machine
    assert len(found.rows()) == 1
    assert found.said() == ""


def test_a_training_that_ends_at_once_still_has_a_sample() -> None:
    """The driver gets a while for it; here the longest that this machine may need."""
    code = (
        "from pathlib import Path\n"
        "from launch.rundir import RunDir\n"
        "from launch.sampling import sampler\n"
        "from launch.sampling.driver import Driver\n"
        "sampler.LAST_SECONDS = 100\n"
        "seen = []\n"
        "one = sampler.Sampler(RunDir(Path('/nowhere')), 'n', Driver(None, 8), 60, seen.append)\n"
        "one.end()\n"
        "one.run()\n"
        "print([len(rows) for rows in seen])\n"
    )
    assert told(code, {}) == [[8]]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_that_is_meant_for_who_trains_does_not_end_it(sent: signal.Signals, sampling: Start) -> None:
    found = sampling(None, None, "--seconds", 1)
    found.until(lambda: bool(found.rows()))
    found.process.send_signal(sent)
    found.until(lambda: len(found.rows()) >= 3)


def test_it_dies_with_who_started_it(tmp_path: Path) -> None:
    """A parent that is killed, while a child of its own holds the pipe open."""
    code = (
        "import os, subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-m', 'launch.sampling', {str(tmp_path)!r}, '--parent',"
        " str(os.getpid())], stdin=subprocess.PIPE)\n"
        "print(p.pid, flush=True)\n"
        "if os.fork() == 0:\n"
        "    time.sleep(300)\n"
        "    os._exit(0)\n"
        "time.sleep(300)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment(), cwd=ROOT)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    deadline = time.monotonic() + 60
    while not (tmp_path / "resources.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (holder,) = (child for child in psutil.Process(parent.pid).children() if child.pid != pid)
    parent.kill()
    parent.wait()
    until_ended(pid)
    holder.kill()


def test_one_whose_parent_is_gone_does_not_begin(tmp_path: Path) -> None:
    done = command("-m", "launch.sampling", tmp_path, "--parent", 1)
    assert done.code == 0
    assert not (tmp_path / "resources.jsonl").exists()


def test_what_goes_wrong_is_one_line(tmp_path: Path) -> None:
    done = command("-m", "launch.sampling", tmp_path, "--seconds", "1", "--port", "9", "--host", "a" * 80)
    assert done.code == 0
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("warning: ")


def test_a_driver_that_loads_once_is_asked_by_one_thread_alone() -> None:
    """Nothing is owed while nothing is asked."""
    assert Driver(None, 0).read() == {}
    assert Driver(None, 0).waiting() == (0.0, None)
