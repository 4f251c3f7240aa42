"""A site that keeps accounts: what muster learns from a real slurmdbd, and what it does without it."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from launch.cluster.queue import ACTIVE
from launch.diagnosis.records import slurm_hits
from tests.conftest import Finished, Workspace, muster, stand_in_venv, variables_of
from tests.faults import before_steps
from tests.slurm.accounting import AccountedCluster
from tests.slurm.commands import Commands

DOWN = "sacct: Problem talking to the database: Connection refused; slurmdbd is down or cannot be reached from here"
# Goes on as a run would, until it is ended.
STAND_IN = "#!/bin/bash\necho hello\nexec sleep infinity\n"
SLURM = {"partition": "main", "account": "lab", "time": "10"}
ON_CPU: dict[str, dict[str, Any]] = {
    "cluster": {"device": "cpu", "devices_per_node": 1}, "preflight": {"accept": ["slurm-shared"]},
}  # fmt: skip
Ask = Callable[..., Finished]


@pytest.fixture(scope="module")
def cluster(real_slurmdbd: None) -> Iterator[AccountedCluster]:
    """It forgets a job some seconds after its end: what is known of it then, slurmdbd knows."""
    with AccountedCluster(nodes=1, cpus=4, options={"MinJobAge": 2}) as started:
        yield started


@pytest.fixture(autouse=True)
def empty_queue(cluster: AccountedCluster) -> Iterator[None]:
    yield
    cluster.slurm("scancel", "--user=root")
    cluster.wait_until(lambda: not cluster.slurm("squeue", "-h"), "an empty queue")


@pytest.fixture
def spec(workspace: Workspace, tmp_path: Path) -> Path:
    return workspace.spec(slurm={**SLURM, "venv": str(stand_in_venv(tmp_path / "venv", STAND_IN))}, **ON_CPU)


@pytest.fixture
def ask(cluster: AccountedCluster, tmp_path: Path) -> Ask:
    """`muster ARGV` on the login node."""

    def asked(*argv: object, **variables: str) -> Finished:
        return muster(*argv, cwd=tmp_path, **{"SLURM_CONF": f"{cluster.directory}/slurm.conf", **variables})

    return asked


def status(ask: Ask, run: str) -> Any:
    return json.loads(ask("status", run, "--json").out)


def one_line(text: str) -> str:
    return " ".join(text.split())


@contextmanager
def without_slurmdbd(cluster: AccountedCluster) -> Iterator[None]:
    cluster.kill_accounting()
    yield
    cluster.start_accounting()


def forgotten(cluster: Commands, *jobs: str) -> None:
    """Waits until the controller knows none of these jobs any more, and the database how each ended."""

    def known(job: str) -> bool:
        return "JobState" in cluster.slurm("scontrol", "show", "job", job, check=False)

    def ended(job: str) -> bool:
        states = cluster.slurm("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", "--format=State")
        return bool(states) and not ACTIVE & set(states.split())

    for job in jobs:
        cluster.wait_until(lambda job=job: not known(job), f"{job} forgotten")
        cluster.wait_until(lambda job=job: ended(job), f"the end of {job} in the database")


def running(cluster: AccountedCluster, variable: str, value: str) -> int:
    """The stand-in of the job whose environment has this, once its script has come that far."""

    def found() -> list[int]:
        asleep = [pid for pid, words in cluster.processes("n0").items() if words[0] == "sleep"]
        return [pid for pid in asleep if variables_of(pid).get(variable) == value]

    cluster.wait_until(lambda: len(found()) == 1, f"the stand-in with {variable}={value}")
    return found()[0]


@pytest.mark.timeout(600)
def test_a_training_run_from_the_queue_until_the_database_alone_remembers_it(
    cluster: AccountedCluster, ask: Ask, workspace: Workspace
) -> None:
    spec = workspace.spec("long", slurm=SLURM, **ON_CPU)
    seen = workspace.root / "seen"
    waits = f"import time\nwhile step == 3 and not os.path.exists({str(seen)!r}):\n    time.sleep(0.05)"
    held = before_steps(workspace.root / "held", waits)
    blocker = cluster.submit(["sleep", "infinity"], "--exclusive", "--account=lab")
    cluster.wait(blocker, "RUNNING")
    job = ask("submit", spec, **held).out.strip()
    found = status(ask, "long")
    assert (found["state"], found["job"], found["slurm"]["source"]) == ("waiting", job, "scontrol")
    cluster.cancel(blocker)
    begun = workspace.root / "runs/long/attempts/001/pulse-rank-0.json"
    cluster.wait_until(begun.exists, "begun")
    found = status(ask, "long")
    assert (found["state"], found["attempt"], found["slurm"]["state"]) == ("running", 1, "RUNNING")
    seen.touch()
    cluster.wait_until(lambda: not cluster.slurm("squeue", "-h"), "ended", 300)
    forgotten(cluster, job)

    found = status(ask, "long")
    ended = found["slurm"]
    assert (found["state"], found["step"], found["slurm_silence"]) == ("finished", 22, None)
    told = [ended[key] for key in ("state", "exit_code", "nodes", "limit_seconds", "restarts", "requeue")]
    assert told == ["COMPLETED", 0, "n0", 600, None, None]
    assert 5 < ended["end"] - ended["start"] < 300
    assert f"job {job} completed, on n0, exit code 0 attempt 1 step 22 of 22" in one_line(ask("status", "long").out)
    assert "Loading weights" in ask("logs", "long").out
    assert "Ready: 1 CPU process" in ask("logs", "long", "--rank", "job").out
    with without_slurmdbd(cluster):
        found = status(ask, "long")
        assert (found["state"], found["step"], found["job"], found["slurm"]) == ("finished", 22, job, None)
        assert found["slurm_silence"].startswith(DOWN)
        done = ask("status", "long")
        assert done.err.startswith(f"warning: {DOWN}")
        assert done.code == 0


def test_how_a_job_ended_that_could_not_say_it_itself(
    cluster: AccountedCluster, ask: Ask, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled, killed, and one element of a sweep: once they are forgotten their directories tell nothing of it."""
    cancelled, killed = (ask("submit", spec, "--run-dir", f"runs/{name}").out.strip() for name in "ab")
    sweep = ask("submit", spec, "--run-dir", "runs/sweep", "--array", "lora.rank=4,8").out.strip()
    jobs = [cancelled, killed, f"{sweep}_0", f"{sweep}_1"]
    for job in jobs:
        cluster.wait(job, "RUNNING")
    cluster.cancel(cancelled, f"{sweep}_1")
    for variable, value in (("SLURM_JOB_ID", killed), ("SLURM_ARRAY_TASK_ID", "0")):
        os.kill(running(cluster, variable, value), signal.SIGKILL)
    forgotten(cluster, *jobs)

    found = status(ask, "a")
    assert (found["state"], found["why"]) == ("stopped", "its job was cancelled; resumable")
    found = status(ask, "b")
    assert found["state"] == "failed"
    assert found["why"] == "its job ended as FAILED, exit code 137; see muster logs --rank job"
    elements = status(ask, "sweep")
    assert [(each["state"], each["slurm"]["exit_code"], each["slurm"]["source"]) for each in elements] == [
        ("failed", 137, "sacct"),
        ("stopped", 0, "sacct"),
    ]
    monkeypatch.setenv("SLURM_CONF", f"{cluster.directory}/slurm.conf")
    hits, silent = slurm_hits(cancelled)
    assert ([(hit.known.name, hit.file) for hit in hits], silent) == ([("cancelled", f"sacct {cancelled}")], None)
    done = ask("submit", spec, "--run-dir", "runs/c", "--after", killed, "--dry-run")
    assert f"error: --after {killed}: that job has ended as FAILED, exit code 137: submit it again first" in done.err
    # Sent by hand, with a log somewhere else: neither remembers where.
    (tmp_path / f"runs/b/job-{killed}.log").unlink()
    told = f"no log of job {killed} is here, and Slurm knows of none: it waits (muster status), or printed elsewhere"
    assert told in ask("logs", "b", "--rank", "job").err
    with without_slurmdbd(cluster):
        found = status(ask, "b")
        assert (found["state"], found["slurm"]) == ("prepared", None)
        assert found["slurm_silence"].startswith(DOWN)


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("account=nosuch", "slurm-account: this user may not use account nosuch; allowed: lab, root."),
        ("qos=fast", "slurm-account: this user may not use qos fast; allowed: normal."),
    ],
)
def test_who_may_not_is_refused_here(
    cluster: AccountedCluster, ask: Ask, spec: Path, tmp_path: Path, key: str, told: str
) -> None:
    done = ask("submit", spec, "-s", f"slurm.{key}")
    assert (done.code, done.out) == (3, ""), done.err
    assert told in done.err
    assert cluster.slurm("squeue", "-h") == ""
    assert not (tmp_path / "runs").exists()


def test_slurmdbd_dies_while_a_job_runs_and_comes_back(cluster: AccountedCluster, ask: Ask, spec: Path) -> None:
    """The controller knows the job as before; who may use what is not known; the job's end is told to it later."""
    done = ask("submit", spec)
    assert "account lab, qos by default: the database knows both" in done.err
    job = done.out.strip()
    cluster.wait(job, "RUNNING")
    with without_slurmdbd(cluster):
        found = status(ask, "run")
        assert (found["state"], found["slurm"]["state"], found["slurm_silence"]) == ("starting", "RUNNING", None)
        assert found["time_left_seconds"] > 0
        assert ask("status", "run").err == ""
        sent = ask("submit", spec, "--run-dir", "runs/other")
        assert sent.code == 0, sent.err
        told = "slurm-account sacctmgr: Sending PersistInit msg: Connection refused. slurmdbd is down"
        assert told in one_line(sent.err)
        cluster.cancel(job, sent.out.strip())
        cluster.wait_until(lambda: not cluster.slurm("squeue", "-h"), "ended")
    forgotten(cluster, job)
    found = status(ask, "run")
    assert (found["state"], found["slurm"]["state"], found["slurm"]["source"]) == ("stopped", "CANCELLED", "sacct")
