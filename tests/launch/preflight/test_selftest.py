"""Every check on a simulated node: each fault is found by the checks that should find it, and by no other."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from launch.preflight import LISTED
from launch.preflight import selftest as module
from launch.preflight.result import Result
from launch.preflight.selftest import Tried, selftest
from launch.preflight.selftest.faults import FAULTS
from launch.preflight.selftest.machines import MACHINES
from launch.preflight.selftest.node import NOT_TRIED
from tests.conftest import environment, muster
from tests.launch.conftest import in_process as call


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> list[Tried]:
    return selftest(tmp_path_factory.mktemp("nodes"), machines=())


def test_each_fault_is_found_by_the_checks_that_should_and_by_no_other(tried: list[Tried]) -> None:
    """Where this machine does not let one be simulated, it says why: here that may be locked memory alone."""
    judged = {each.scenario: each.found for each in tried if not each.not_tried}
    assert judged == {name: dict(FAULTS[name].found) for name in judged}
    assert set(FAULTS) - judged.keys() <= {"locked-memory-64k"}
    assert all("ulimit -H" in each.not_tried for each in tried if each.not_tried)


def test_a_healthy_node_passes_every_check_that_its_gpus_have(tried: list[Tried]) -> None:
    healthy = next(each for each in tried if each.scenario == "node-healthy")
    assert {r.name for r in healthy.results} == {check.name for check in LISTED}
    skipped = {r.name for r in healthy.results if r.status == "skipped" and NOT_TRIED not in r.values}
    assert skipped == {"gpu-retired-pages", "causality"}


def test_every_check_finds_something_somewhere() -> None:
    """But `causality`, which needs a loaded model."""
    found = {name for fault in FAULTS.values() for name in fault.found}
    found |= {name for machine in MACHINES.values() for name in machine.found}
    assert {check.name for check in LISTED} - found == {"causality"}


def test_what_is_found_comes_with_what_to_do(tried: list[Tried]) -> None:
    assert [r.name for each in tried for r in each.results if r.status not in ("pass", "skipped") and not r.fix] == []


def test_the_machine_around_is_left_as_it_was(tried: list[Tried]) -> None:
    """Mounts and host name are of the fault's own process."""
    assert tried
    assert "muster" not in {line.split()[0] for line in Path("/proc/mounts").read_text().splitlines()}
    assert Path("/proc/sys/kernel/hostname").read_text() != "n0\n"


def test_a_user_without_rights(tmp_path: Path) -> None:
    """As whoever trains: mounts need a user namespace then, and no port below 1024 may be used."""
    script = (
        "from pathlib import Path; from launch.preflight.selftest import selftest\n"
        f"for each in selftest(Path({str(tmp_path)!r}), machines=(), faults=('node-healthy', 'shm-64m')):\n"
        "    print(each.scenario, each.found, each.not_tried)"
    )
    argv = ["unshare", "--user", "--map-user=1000", "--map-group=1000", sys.executable, "-c", script]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["node-healthy {} ", "shm-64m {'shm': 'fail'} "], done.stderr


def test_a_kernel_that_permits_no_namespaces(tmp_path: Path) -> None:
    """What cannot be simulated is told, and counts as nothing."""
    if not shutil.which("setpriv"):
        pytest.fail("util-linux's setpriv is needed")
    script = (
        "import sys; from pathlib import Path; from launch.preflight.selftest import selftest\n"
        f"tried = selftest(Path({str(tmp_path)!r}), machines=(), faults=('shm-64m', 'node-healthy'))\n"
        "print([(each.right, each.not_tried) for each in tried])"
    )
    forbid = 'echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --bounding-set -all --inh-caps -all "$@"'
    argv = ["unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh", sys.executable, "-c", script]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False)
    why = "this machine does not permit it: unshare: "
    assert done.stdout.count(why) == 2, done.stderr
    assert done.stdout.startswith(f"[(False, '{why}")


def test_the_node_s_own_mounts_do_not_hide_what_it_is_tried_with() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        (tried,) = selftest(Path(folder), machines=(), faults=("node-healthy",))
    assert tried.not_tried == "TMPDIR is in /dev/shm, of which a simulated node has one of its own"


def test_a_compatibility_library_of_the_machine_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVIDIA's images put one first: it is not the simulated node's."""
    (tmp_path / "compat").mkdir()
    (tmp_path / "compat/libcuda.so.575.51.03").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path}/compat:/nowhere")
    (tried,) = selftest(tmp_path / "nodes", machines=(), faults=("node-healthy",))
    assert tried.found == {}


def test_nothing_goes_on_when_the_selftest_is_killed(tmp_path: Path) -> None:
    """Of a machine whose driver does not answer it would be a quarter of a minute."""
    script = (
        "from pathlib import Path; from launch.preflight.selftest import selftest\n"
        f"selftest(Path({str(tmp_path)!r}), machines=('blocks-on-ecc',), faults=())"
    )
    running = psutil.Popen([sys.executable, "-c", script], env=environment())
    until = time.monotonic() + 60
    while len(started := running.children(recursive=True)) < 3:  # the machine's process, and its checks'
        assert time.monotonic() < until
        time.sleep(0.1)
    running.kill()
    running.wait()
    assert psutil.wait_procs(started, timeout=5)[1] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_selftest_that_is_told_to_end_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    argv = [sys.executable, "-m", "launch", "preflight", "--selftest"]
    # A shell that starts the tests in the background lets them ignore Ctrl-C, and that is inherited.
    with psutil.Popen(
        argv, env=environment(TMPDIR=str(tmp_path)), start_new_session=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as running:  # fmt: skip
        until = time.monotonic() + 60
        # Not while it starts the first one, when Python's own hooks around a fork would swallow what is raised.
        while len(started := running.children(recursive=True)) < 2 or not any(tmp_path.iterdir()):
            assert time.monotonic() < until
            time.sleep(0.05)
        running.send_signal(number)
        assert running.wait(30) == 128 + number
    assert psutil.wait_procs(started, timeout=5)[1] == []
    assert list(tmp_path.iterdir()) == []


def some_results() -> list[Tried]:
    failed = Result(name="shm", family="node", status="fail", evidence="64 MiB", fix="more")
    beyond = Result(name="locked-memory", family="node", status="skipped", evidence="ulimit -H", values={NOT_TRIED: 1})
    return [
        Tried("shm-64m", {"shm": "fail"}, [failed]), Tried("locked-memory-64k", {"locked-memory": "fail"}, [beyond]),
        Tried("h100x8", dict(MACHINES["h100x8"].found), [beyond]),
        Tried("disk-full", {"disk-space": "fail"}, (), "no mounts here"),
    ]  # fmt: skip


def test_the_selftest_as_a_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "selftest", lambda cache: some_results())
    done = call(capsys, "preflight", "--selftest", "--json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)[0] == {
        "machine": "shm-64m", "found": {"shm": "fail"}, "expected": {"shm": "fail"}, "not_tried": ""}  # fmt: skip
    assert json.loads(done.out)[2] == {"machine": "h100x8", "found": {}, "expected": {}, "not_tried": ""}
    shown = call(capsys, "preflight", "--selftest").out
    assert "2 of 2 machines as expected" in shown
    assert "1 not tried: no mounts here" in shown
    assert "1 not tried: locked-memory: ulimit -H" in shown


def test_checks_that_do_not_find_what_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "selftest", lambda cache: [Tried("ecc-uncorrected", {"gpu-ecc": "fail"})])
    wrong = call(capsys, "preflight", "--selftest")
    assert (wrong.code, wrong.err) == (
        10,
        "error: --selftest: the checks do not find what is wrong with ecc-uncorrected: do not rely on them\n",
    )


def test_a_machine_without_a_compiler(tmp_path: Path) -> None:
    done = muster("preflight", "--selftest", PATH=str(tmp_path))
    assert done.code == 2
    assert done.err.startswith("error: --selftest: ")
