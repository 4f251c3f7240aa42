"""`muster diagnose`: runs that failed, that are fine, and places that are no runs."""

import fcntl
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from launch.diagnosis.report import diagnosed
from launch.rundir import Attempt, RunDir
from launch.rundir.journal import event
from tests.conftest import ROOT, Finished, muster
from tests.launch.diagnosis.test_corpus import laid_out

NAMES = {0: "done", 6: "gpu_memory", 8: "communication", 10: "worker", 75: "stopped", 7: "numerical"}
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB"
TRACE = 'Traceback (most recent call last):\n  File "torch/_tensor.py", line 647, in backward\n    run()\n'


def run_in(root: Path, name: str = "demo") -> RunDir:
    run = RunDir(root)
    root.mkdir(parents=True, exist_ok=True)
    topology = {"nodes": 1, "devices_per_node": 2}
    run.plan.write_text(json.dumps({"name": name, "topology": topology}))
    return run


def attempt_of(run: RunDir, code: int | None, reason: str = "it broke", number: int = 1, **logs: str) -> Attempt:
    attempt = run.attempt(number)
    attempt.root.mkdir(parents=True)
    attempt.plan.write_text(run.plan.read_text())
    for name, text in logs.items():
        (attempt.root / f"{name.replace('_', '-')}.log").write_text(text)
    if code is not None:
        told = {"exit_code": code, "class": NAMES[code], "reason": reason, "step": 12, "seconds": 90.0}
        attempt.outcome.write_text(json.dumps(told))
    return attempt


def page(run: RunDir, *options: object) -> str:
    done = muster("diagnose", run.root, *options)
    assert (done.code, done.err) == (0, "")
    assert all(len(line) <= 80 or " " not in line.strip() for line in done.out.splitlines()), done.out
    return done.out


def document(run: RunDir, *options: object) -> dict[str, Any]:
    done = muster("diagnose", run.root, "--json", *options)
    assert done.code == 0, done.err
    return dict(json.loads(done.out))


def test_a_failure_on_one_page(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    attempt_of(run, 6, "rank 1: out", 1, rank_1=TRACE + OOM)
    row = {"event": "oom", "time": time.time(), "reason": "out of GPU memory: micro-batch 4 -> 2"}
    run.events.write_text(json.dumps(row) + "\n")
    time.sleep(0.05)
    lost = "RuntimeError: [../gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.1]:1"
    attempt_of(run, 6, "rank 1: out again", 2, rank_0=TRACE.replace("backward", "agree") + lost, rank_1=TRACE + OOM)
    lines = page(run).splitlines()
    assert lines[:3] == ["run        demo, attempt 2 of 2: failed", f"           {tmp_path}", lines[2]]
    assert lines[2] == "cause      rank 1: the GPU's memory was used up in backward"
    text = "\n".join(lines)
    assert "class      gpu_memory, exit code 6; gpu-memory" in lines
    assert "evidence   attempts/002/rank-1.log:4" in lines
    assert "echoes     attempts/002/rank-0.log:4 (rank 0)" in lines
    assert "tried      1: gpu_memory, step 12, 90 s\n              oom: out of GPU memory: micro-batch 4 -> 2" in text
    assert "fix        Use a smaller training.micro_batch_size" in text
    assert lines[-1].strip() == "the same again would end the same way"


def test_an_earlier_attempt(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    attempt_of(run, 6, "rank 1: out", 1, rank_1=TRACE + OOM)
    attempt_of(run, 0, "done", 2, rank_1="fine")
    assert page(run).startswith("run        demo, attempt 2 of 2: done\n")
    assert "this run is fine: it ended as planned" in page(run)
    assert "run        demo, attempt 1 of 2: failed" in page(run, "--attempt", 1)
    assert document(run, "--attempt", 1)["cause"]["name"] == "gpu-memory"
    done = muster("diagnose", run.root, "--attempt", 3)
    assert (done.code, done.err) == (2, "error: --attempt 3: this run has attempts 1 to 2\n")


def test_the_keys_of_the_document(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    attempt_of(run, 6, "rank 1: out", rank_1="2026-11-27 09:31:44,000 step\n" + TRACE + OOM)
    found = document(run)
    assert list(found) == ["run", "name", "attempt", "status", "why", "cause", "attempts", "unread"]
    cause = found["cause"]
    assert list(cause) == [
        "name", "class", "exit_code", "rank", "node", "time", "phase", "step", "summary", "certain", "another_try",
        "fix", "source", "evidence", "echoes",
    ]  # fmt: skip
    assert cause["evidence"] == [
        {
            "file": "attempts/001/rank-1.log", "line": 5, "text": OOM, "rank": 1, "node": None,
            "time": time.mktime(time.strptime("2026-11-27 09:31:44", "%Y-%m-%d %H:%M:%S")),
        }
    ]  # fmt: skip
    assert found["attempts"] == [
        {
            "attempt": 1, "exit_code": 6, "class": "gpu_memory", "reason": "rank 1: out", "step": 12, "seconds": 90.0,
            "then": [],
        }
    ]  # fmt: skip


def test_a_run_that_goes_on(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    attempt_of(run, None, rank_1="step 1")
    with open(run.lock, "w") as lock:
        lock.write("process 7 on n1")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "process 7 on n1 is training in it now: nothing has failed yet" in page(run)


def test_a_run_that_a_job_on_another_node_supervises(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    attempt = attempt_of(run, None, rank_1="step 1")
    attempt.supervisor.write_text(json.dumps({"node": "n7", "pid": 12, "time": time.time()}))
    assert document(run)["why"] == "process 12 on n7 is training in it now: nothing has failed yet"
    os.utime(attempt.supervisor, (1.0, time.time() - 600))
    assert document(run)["status"] == "broken off"


def test_a_supervisor_of_this_machine_that_was_killed_just_now(tmp_path: Path) -> None:
    """`muster status` says at once that nobody is left."""
    run = run_in(tmp_path)
    attempt = attempt_of(run, None, rank_1="step 1")
    ended = subprocess.Popen(["true"])
    ended.wait()
    for pid, status in ((os.getpid(), "running"), (ended.pid, "broken off")):
        attempt.supervisor.write_text(json.dumps({"node": os.uname().nodename, "pid": pid, "time": time.time()}))
        assert document(run)["status"] == status


@pytest.mark.parametrize(("state", "status"), [("FAILED", "broken off"), ("RUNNING", "running")])
def test_a_supervisor_that_was_killed_with_its_job_just_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, status: str
) -> None:
    """The last job of the run is asked about, whoever started it: job.json holds an earlier one."""
    run = run_in(tmp_path)
    attempt = attempt_of(run, None, rank_1="step 1")
    attempt.supervisor.write_text(json.dumps({"node": "n7", "pid": 12, "time": time.time()}))
    run.job.write_text(json.dumps({"id": "11"}))
    event(run.events, "job_started", job="12", nodes=["n7"], attempts=0)
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\n[ "$4" = 12 ] && echo "JobId=12 JobState={state} ExitCode=0:9 NodeList=n7"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert diagnosed(run).status == status


def test_a_run_that_broke_off_without_an_outcome(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    attempt_of(run, None, rank_1="step 1")
    found = document(run)
    assert (found["status"], found["cause"]) == ("broken off", None)
    assert found["why"] == "it left no outcome: who supervised it was killed, or its node was lost"


def test_what_ended_with_its_supervisor_is_no_cause(tmp_path: Path) -> None:
    """Slurm ends the steps of a job whose batch script was killed, and their launchers say that they were told to."""
    run = run_in(tmp_path)
    attempt = attempt_of(run, None, rank_1="step 1")
    attempt.launcher_log.write_text("W0714 api.py:753] Received 15 death signal, shutting down workers\n")
    found = document(run)
    assert (found["status"], found["cause"]) == ("broken off", None)
    assert found["why"] == "it left no outcome: who supervised it was killed, or its node was lost"


def test_a_run_that_was_stopped_by_the_scheduler(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    attempt_of(run, 75, "stopped as asked; continue with --resume auto", rank_1="step 1")
    assert document(run)["cause"] is None
    line = "slurmstepd: error: *** JOB 12 ON n0 CANCELLED AT 2026-11-27T09:31:44 DUE TO PREEMPTION ***\n"
    (run.root / "muster-12.log").write_text(line)
    found = document(run)
    assert (found["status"], found["cause"]["name"], found["cause"]["node"]) == ("stopped", "preemption", "n0")


def test_a_stopped_run_is_not_blamed_for_what_its_logs_hold_besides(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    attempt_of(run, 75, "stopped as asked", rank_1=TRACE + "ConnectionResetError: [Errno 104] Connection reset by peer")
    assert document(run)["cause"] is None


def test_where_no_log_explains_it_the_supervisor_s_own_words_stand(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    attempt_of(run, 8, "the run hangs: rank 1 on n1 shows no life for 60 s\nsee its stacks", rank_1="step 1")
    cause = document(run)["cause"]
    assert (cause["name"], cause["class"], cause["fix"]) == ("reported", "communication", "see its stacks")
    assert cause["summary"] == "the run hangs: rank 1 on n1 shows no life for 60 s"
    assert cause["evidence"][0]["file"] == "attempts/001/outcome.json"


def test_what_slurm_does_not_tell_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_in(tmp_path)
    attempt_of(run, 10, "rank 1 ended", rank_1="step 1")
    (run.root / "job.json").write_text(json.dumps({"id": "12"}))
    monkeypatch.setenv("PATH", "/nowhere")
    assert diagnosed(run).unread == ("Slurm says nothing of job 12: scontrol is not on this machine",)


def test_a_run_whose_checks_failed(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    run.preflight.write_text(json.dumps({"status": "fail", "verdict": "Not ready: ecc: 3 errors", "checks": []}))
    assert "Not ready: ecc: 3 errors" in page(run)
    assert document(run)["status"] == "not started"


def refused(place: Path) -> Finished:
    done = muster("diagnose", place)
    assert (done.code, done.out) == (2, "")
    return done


def test_a_place_that_is_no_run(tmp_path: Path) -> None:
    words = "is not a run directory, it has neither plan.json nor attempts/; give the one that muster run printed"
    assert f"error: {tmp_path}: {words}" in refused(tmp_path).err
    assert "nowhere: no such directory, and no run of this name" in refused(tmp_path / "nowhere").err
    (tmp_path / "file").touch()
    assert f"{tmp_path / 'file'}: is a file; give a directory" in refused(tmp_path / "file").err


def test_an_attempt_is_no_run_but_tells_which_one(tmp_path: Path) -> None:
    attempt = attempt_of(run_in(tmp_path), 10)
    (attempt.root / "plan.json").unlink()
    assert f"did you mean {tmp_path} --attempt 001?" in refused(attempt.root).err


def test_secrets_are_not_printed(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    attempt_of(run, 10, rank_1=TRACE + "PermissionError: [Errno 13] Permission denied: 'https://hunter2hunter2@x'")
    for options in ((), ("--json",)):
        done = muster("diagnose", run.root, *options, MY_TOKEN="hunter2hunter2")
        assert "hunter2" not in done.out
        assert "[secret]" in done.out


def test_a_log_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    attempt = attempt_of(run, 10, "it broke", rank_1="step 1")
    attempt.log(0).mkdir()
    assert f"{attempt.log(0)}: Is a directory" in diagnosed(run).unread


def test_every_case_of_the_corpus_makes_a_page_of_80_columns(tmp_path: Path) -> None:
    from launch.diagnosis.page import page as made
    from tests.launch.diagnosis.test_corpus import CASES

    for case in CASES:
        attempt = laid_out(case, tmp_path / case)
        attempt.outcome.write_text(json.dumps({"exit_code": 10, "class": "worker", "reason": "it broke"}))
        lines = made(diagnosed(RunDir(tmp_path / case))).splitlines()
        assert all(len(line) <= 80 or " " not in line.strip() for line in lines), (case, lines)
        assert len(lines) < 40, case
        assert lines[0].endswith(": failed")


def test_another_user_s_clock_does_not_move_the_page(tmp_path: Path) -> None:
    """The same run gives the same page, wherever it is looked at."""
    run = run_in(tmp_path)
    attempt_of(run, 6, rank_1="2026-11-27T09:31:44Z step\n" + TRACE + OOM)
    times = {
        json.loads(muster("diagnose", run.root, "--json", TZ=zone).out)["cause"]["time"]
        for zone in ("UTC", "Asia/Tokyo")
    }
    assert times == {1795771904.0}
    assert os.environ.get("TZ") is None


def test_a_step_that_was_given_up_is_named_by_the_rank_that_gave_it_up(tmp_path: Path) -> None:
    """After going back the last pulse is of another step, and the launcher's log repeats what the rank wrote."""
    run = run_in(tmp_path)
    message = "step 3 cannot be trained on after going back without its batches 3 times: its loss is nan"
    attempt = attempt_of(run, 7, f"rank 0: {message}", launcher=f"training run\nerror: {message}\n")
    told = {"rank": 0, "exit_code": 7, "error": "NumericalError", "message": message, "time": time.time()}
    attempt.failure(0).write_text(json.dumps(told))
    pulse = {"rank": 0, "node": "n1", "pid": 5, "phase": "training", "step": 95, "marks": 9, "time": time.time()}
    attempt.pulse(0).write_text(json.dumps(pulse))
    cause = document(run)["cause"]
    assert (cause["name"], cause["rank"], cause["step"], cause["echoes"]) == ("not-finite", 0, 3, [])
    assert cause["evidence"][0]["file"] == "attempts/001/failure-rank-0.json"
    assert "bf16 if it is fp16 now" in cause["fix"]


@pytest.mark.parametrize(
    ("message", "name", "fix"),
    [
        ("step 5 cannot be trained on after lowering the learning rate 1 time: its loss of 8.739 is above 7.012, the"
         " limit after the steps before it", "loss-spike", "lower training.learning_rate"),
        ("step 5 cannot be trained on: its gradients are not finite", "not-finite", "bf16 if it is fp16 now"),
        ("the loaded model gives logits that are not finite: download its files again", "broken-model",
         "download its files again"),
        ("the loaded model gives the same logits for other tokens: download its files again", "broken-model",
         "download its files again"),
    ],
)  # fmt: skip
def test_numbers_that_are_finite_are_not_called_otherwise(message: str, name: str, fix: str, tmp_path: Path) -> None:
    run = run_in(tmp_path)
    attempt = attempt_of(run, 7, f"rank 0: {message}")
    told = {"rank": 0, "exit_code": 7, "error": "NumericalError", "message": message, "time": time.time()}
    attempt.failure(0).write_text(json.dumps(told))
    cause = document(run)["cause"]
    assert cause["name"] == name
    assert fix in cause["fix"]
    assert ("finite" in cause["summary"]) == (name == "not-finite")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("diagnose", "first"), "run        demo: not started\n           {root}/runs/first"),
        (("evaluate", "first"), "{root}/runs/first: this run has no final adapter yet"),
        (("export", "first", "--out", "out"), "{root}/runs/first: this run has no final adapter yet"),
        (("diagnose", "second"), "run        demo: not started\n           {root}/runs/second"),
        (("diagnose", "third"), "run        demo: not started\n           {root}/third"),
        (("export", "fourth", "--out", "out"), "{root}/fourth/adapter_config.json: no such file"),
        (
            ("evaluate", "fifth"),
            "error: fifth: no such directory, and no run of this name; in runs/: first, second, third",
        ),
        (
            ("diagnose", "runs/first/plan.json"),
            "error: runs/first/plan.json: is a file; give a directory; in runs/: first",
        ),
    ],
)
def test_a_run_by_its_name_in_runs(argv: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """As `muster status` takes it. A run by that very path comes first, a folder of something else does not."""
    for place in ("runs/first", "runs/second", "runs/third", "third"):
        run_in(tmp_path / place)
    for place in ("second", "fourth"):
        (tmp_path / place).mkdir()
    done = muster(*argv, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert said.format(root=tmp_path) in done.out + done.err


def test_the_log_of_a_run_that_nobody_has_started_is_not_waited_for(tmp_path: Path) -> None:
    run = run_in(tmp_path / "demo")
    done = muster("logs", run.root, "--follow")
    assert done == Finished(2, "", f"error: {run.root}: nothing of it waits or runs, and no attempt has begun; what its"
                                   " job printed: --rank job\n")  # fmt: skip
