"""Real runs that fail without a word of Python, explained by what is left of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import ROOT, Workspace, after_import, environment, muster

TWO_RANKS = ("-s", "cluster.strategy=ddp", "-s", "cluster.devices_per_node=2", "-s", "recovery.restarts=0")


def test_a_rank_that_ends_in_a_segmentation_fault_is_named(workspace: Workspace) -> None:
    """No failure file of its own: the launcher's report is all there is."""
    run = workspace.root / "segfault"
    spec = workspace.spec(training={"epochs": 20.0})
    argv = [sys.executable, "-m", "launch", "run", spec, "--run-dir", run, *TWO_RANKS]
    process = subprocess.Popen(argv, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    pulse, deadline = run / "attempts/001/pulse-rank-1.json", time.monotonic() + 120
    while not (pulse.exists() and json.loads(pulse.read_text())["step"] >= 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(json.loads(pulse.read_text())["pid"], signal.SIGSEGV)
    told = process.communicate(timeout=100)[1]
    assert process.returncode == 10
    host = os.uname().nodename
    reason = json.loads((run / "attempts/001/outcome.json").read_text())["reason"]
    assert reason.startswith(f"rank 1 on {host}: a compiled library read memory that is not its own (attempts/001/")
    assert f"error: {reason.splitlines()[0]}" in told
    found = json.loads(muster("diagnose", run, "--json").out)
    cause = found["cause"]
    assert (cause["name"], cause["rank"], cause["node"]) == ("segfault", 1, host)
    assert cause["phase"] in ("training", "saving", "evaluating")
    assert cause["step"] >= 3
    assert cause["evidence"][0]["file"] == "attempts/001/launcher.log"
    # torchrun lists rank 0 as well where both have ended by the time it looks.
    echoes = {(echo["rank"], echo["file"]) for echo in cause["echoes"]}
    assert echoes - {(0, "attempts/001/launcher.log")} == {(0, "attempts/001/rank-0.log")}


def test_words_of_a_library_that_ends_its_process_give_the_class(workspace: Workspace, tmp_path: Path) -> None:
    """As ProcessGroupNCCL's watchdog does: C++ prints and aborts, and no except clause sees it."""
    words = "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
    change = f"import os; module.train = lambda *a: (os.write(2, {words.encode()!r} + b'\\n'), os.abort())\n"
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(after_import("training.train", change))
    run = workspace.root / "abort"
    hook = f"{ROOT}:{tmp_path / 'hook'}"
    done = muster("run", workspace.spec(), "--run-dir", run, "-s", "recovery.restarts=0", PYTHONPATH=hook)
    assert done.code == 9, done.err
    assert "error: rank 0 on " in done.err
    assert "the machine has no memory left to give (attempts/001/rank-0.log:" in done.err
    assert not list((run / "attempts/001").glob("failure-*"))
    page = muster("diagnose", run).out
    assert "class      host, exit code 9; host-memory" in page
    assert "fix        Free memory or disk, then --resume auto" in page


def test_a_run_that_ended_well_is_said_to_be_fine(workspace: Workspace) -> None:
    run = workspace.root / "fine"
    done = muster("run", workspace.spec(training={"epochs": None, "max_steps": 2}), "--run-dir", run)
    assert done.code == 0, done.err
    page = muster("diagnose", run).out
    assert page.startswith("run        run, attempt 1 of 1: done\n")
    assert "this run is fine: it ended as planned, and its adapter is in adapter/" in page
    found = json.loads(muster("diagnose", run, "--json").out)
    assert (found["status"], found["cause"], found["unread"]) == ("done", None, [])
