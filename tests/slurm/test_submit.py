"""muster submit, status, logs and stop against a real Slurm. Where training would add nothing, a stand-in runs."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Finished, Workspace, muster, stand_in_venv
from tests.slurm.cluster import Cluster
from tests.slurm.commands import PATIENCE

# Records how it was started, and then is a run that goes on until it is asked to stop.
STAND_IN = """#!/bin/bash
run="${@: -1}"
for word; do [ "$previous" = --run-dir ] && run=$word; previous=$word; done
printf '%s\\n' "$@" > "$run/argv.partial"
echo "hello from $(hostname)"
mv "$run/argv.partial" "$run/argv"
while [ ! -e "$run/stop" ]; do sleep 0.1; done
exit 75
"""


@pytest.fixture(scope="module")
def cluster(real_slurm: None) -> Iterator[Cluster]:
    """One for all of these tests, which leave it as it was."""
    # A run that is stopped at once writes how it ended, however busy this machine is.
    with Cluster(nodes=2, gpus_per_node=2, options={"KillWait": 60}) as started:
        yield started


@pytest.fixture(autouse=True)
def empty_queue(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "cluster" in request.fixturenames:
        used = request.getfixturevalue("cluster")
        used.slurm("scancel", "--user=root")
        used.wait_until(lambda: not used.slurm("squeue", "-h"), "an empty queue")


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    return stand_in_venv(tmp_path / "venv", STAND_IN)


@pytest.fixture
def spec(workspace: Workspace, stand_in: Path) -> Path:
    """Of CPU processes, on one node. The machine's own disk is all that there is, and the nodes do see it."""
    return workspace.spec(
        slurm={"partition": "main", "venv": str(stand_in), "time": "10"}, cluster={"device": "cpu"},
        preflight={"accept": ["slurm-shared"]},
    )  # fmt: skip


@pytest.fixture
def ask(cluster: Cluster, tmp_path: Path) -> Callable[..., Finished]:
    """`muster ARGV` on the login node."""

    def asked(*argv: object, **variables: str) -> Finished:
        return muster(*argv, cwd=tmp_path, **{"SLURM_CONF": f"{cluster.directory}/slurm.conf", **variables})

    return asked


def until(done: Callable[[], Any], what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not {what} after {seconds:g} s"
        time.sleep(0.1)


def state(ask: Callable[..., Finished], run: Path) -> dict[str, Any]:
    return json.loads(ask("status", run, "--json").out)


# Submitting


def test_a_dry_run_prints_what_would_be_sent_and_sends_nothing(
    cluster: Cluster, ask: Callable[..., Finished], spec: Path, tmp_path: Path
) -> None:
    done = ask("submit", spec, "--dry-run", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    run = tmp_path / "runs/run"
    assert (told["job"], told["run_dir"], run.exists()) == (None, str(run), False)
    assert told["preflight"]["verdict"].startswith("Ready: 1 CPU process on 1 node")
    assert told["argv"] == ["sbatch", "--parsable", str(run / "rendered/job.sbatch")]
    assert cluster.slurm("squeue", "-h") == ""
    sent = ask("submit", spec, "--json")
    assert sent.code == 0, sent.err
    assert (run / "rendered/job.sbatch").read_text() == told["script"] == json.loads(sent.out)["script"]


def test_a_run_is_sent_recorded_and_started_with_its_own_spec(
    cluster: Cluster, ask: Callable[..., Finished], spec: Path, tmp_path: Path
) -> None:
    done = ask("submit", spec, "--accept", "slurm-requeue", "-s", "slurm.environment={NCCL_DEBUG: INFO}")
    assert done.code == 0, done.err
    job, run = done.out.strip(), tmp_path / "runs/run"
    found = cluster.job(job)
    assert (found["JobName"], found["Partition"], found["Requeue"], found["TimeLimit"]) == (
        "run",
        "main",
        "1",
        "00:10:00",
    )
    assert found["MinMemoryNode"] == "4000M", "half of a node's CPUs, half of its memory"
    assert json.loads((run / "job.json").read_text())["id"] == job
    assert stat.S_IMODE(run.stat().st_mode) == 0o750
    until(lambda: (run / "argv").exists(), "started")
    expected = ["-m", "launch.supervisor", f"{run}/spec.yaml", "--run-dir", str(run), "--accept", "slurm-requeue"]
    assert (run / "argv").read_text().splitlines() == expected
    assert ask("logs", run, "--rank", "job").out.startswith("hello from n")
    found = state(ask, run)
    assert (found["job"], found["state"], found["slurm"]["state"]) == (job, "starting", "RUNNING")


def test_a_run_that_goes_on_from_a_checkpoint_of_choice(
    ask: Callable[..., Finished], spec: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "earlier/checkpoints/step-000004"
    assert "earlier: not a checkpoint directory" in ask("submit", spec, "--resume", "earlier").err
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    assert ask("submit", spec, "--resume", "earlier/checkpoints/step-000004").code == 0
    run = tmp_path / "runs/run"
    until(lambda: (run / "argv").exists(), "started")
    assert (run / "argv").read_text().splitlines()[-2:] == ["--resume", str(checkpoint)]
    for other in ("--afresh", "--array=lora.rank=4,8"):
        done = ask("submit", spec, "--resume", "earlier", other)
        told = f"error: --resume earlier and {other.partition('=')[0]}: give one of them\n"
        assert (done.code, done.err) == (2, told)


def test_a_run_whose_job_waits_or_runs_is_not_sent_again(
    cluster: Cluster, ask: Callable[..., Finished], spec: Path, tmp_path: Path
) -> None:
    first = ask("submit", spec)
    until(lambda: cluster.state(first.out.strip()) == "RUNNING", "running")
    again = ask("submit", spec)
    run = tmp_path / "runs/run"
    assert (again.code, again.out) == (2, "")
    assert f"error: {run}: job {first.out.strip()} of this run is running on n0; wait for it" in again.err
    (run / "stop").touch()
    cluster.wait(first.out.strip(), "FAILED")
    assert cluster.job(first.out.strip())["ExitCode"] == "75:0"
    assert ask("submit", spec).code == 0


@pytest.fixture
def broken_sbatch(tmp_path: Path) -> Callable[[str], str]:
    """A PATH on which sbatch makes the job and then, in place of printing its id, does this."""

    def path(ending: str) -> str:
        script = tmp_path / "broken/sbatch"
        script.parent.mkdir(exist_ok=True)
        real = shutil.which("sbatch")
        script.write_text(f'#!/bin/sh\n[ "$1" = --parsable ] || exec {real} "$@"\n{real} "$@" >/dev/null\n{ending}\n')
        script.chmod(0o755)
        return os.pathsep.join([str(script.parent), os.environ["PATH"]])

    return path


def test_a_job_is_known_although_muster_was_killed_before_it_could_record_it(
    cluster: Cluster, ask: Callable[..., Finished], broken_sbatch: Callable[[str], str], spec: Path, tmp_path: Path
) -> None:
    blocker = cluster.submit(["sleep", "infinity"], "--exclusive", "--nodes=2", "--time=5")
    cluster.wait(blocker, "RUNNING")
    run = tmp_path / "runs/run"
    assert ask("submit", spec, PATH=broken_sbatch("kill -9 $PPID")).code == -signal.SIGKILL
    (job,) = cluster.slurm("squeue", "-h", "--format=%A", "--name=run").split()
    assert not (run / "job.json").exists()
    found = state(ask, run)
    assert (found["job"], found["state"]) == (job, "waiting")
    again = ask("submit", spec)
    assert (again.code, again.out) == (2, "")
    assert f"error: {run}: job {job} of this run is pending; wait for it" in again.err
    assert json.loads((run / "job.json").read_text())["id"] == job
    assert ask("stop", run).code == 0
    # Also where the run had a job before, and for a sweep.
    assert ask("submit", spec, PATH=broken_sbatch("kill -9 $PPID")).code == -signal.SIGKILL
    second = state(ask, run)
    assert (int(second["job"]) > int(job), second["state"]) == (True, "waiting")
    sweep = ["submit", spec, "--run-dir", "runs/sweep", "--array", "lora.rank=4,8"]
    assert ask(*sweep, PATH=broken_sbatch("kill -9 $PPID")).code == -signal.SIGKILL
    assert "of this run is pending; wait for it" in ask(*sweep).err
    assert state(ask, tmp_path / "runs/sweep/1")["state"] == "waiting"


def test_a_job_is_known_although_sbatch_did_not_hear_of_it(
    ask: Callable[..., Finished], broken_sbatch: Callable[[str], str], spec: Path, tmp_path: Path
) -> None:
    """What sbatch says is Slurm's own word for a controller that is too busy to answer in time."""
    timed_out = "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1"
    done = ask("submit", spec, PATH=broken_sbatch(timed_out))
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "runs/run/job.json").read_text())["id"] == done.out.strip()
    until(lambda: (tmp_path / "runs/run/argv").exists(), "started")


def test_where_nobody_can_tell_whether_there_is_a_job(
    cluster: Cluster, ask: Callable[..., Finished], broken_sbatch: Callable[[str], str], spec: Path, tmp_path: Path
) -> None:
    said = "echo '{}: error: Unable to contact slurm controller (connect failure)' >&2; exit 1"
    path = broken_sbatch(said.format("sbatch"))
    squeue = tmp_path / "broken/squeue"
    squeue.write_text(f"#!/bin/sh\n{said.format('squeue')}\n")
    squeue.chmod(0o755)
    done = ask("submit", spec, PATH=path)
    assert (done.code, done.out) == (3, "")
    told = done.err.splitlines()[-1]
    assert told.startswith(
        "error: whether a job was submitted is not known: sbatch: Unable to contact slurm controller"
    )
    assert told.endswith("submit the run again once the controller answers: a job of it that is there by then is found")
    assert "of this run is" in ask("submit", spec).err


def test_variables_of_the_environment_do_not_change_the_job(
    cluster: Cluster, ask: Callable[..., Finished], spec: Path
) -> None:
    done = ask("submit", spec, SBATCH_PARTITION="urgent", SLURM_JOB_ID="1", SLURM_NTASKS="7")
    assert "warning: SBATCH_PARTITION: not used" in done.err
    found = cluster.job(done.out.strip())
    assert (found["Partition"], found["NumTasks"]) == ("main", "1")


def test_a_folder_with_any_name(cluster: Cluster, ask: Callable[..., Finished], spec: Path, tmp_path: Path) -> None:
    run = tmp_path / 'it\'s 100%j "of" #$HOME;é'
    done = ask("submit", spec, "--run-dir", run)
    assert done.code == 0, done.err
    log = run / f"job-{done.out.strip()}.log"
    until(lambda: log.exists() and log.read_text(), "its log")
    assert log.read_text().startswith("hello from n")


def test_one_run_after_another(cluster: Cluster, ask: Callable[..., Finished], spec: Path, tmp_path: Path) -> None:
    first = ask("submit", spec, "--run-dir", "runs/a").out.strip()
    second = ask("submit", spec, "--run-dir", "runs/b", "--after", "a")
    assert cluster.job(second.out.strip())["Dependency"] == f"afterok:{first}(unfulfilled)"
    assert state(ask, tmp_path / "runs/b")["why"] == "Dependency"
    by_id = ask("submit", spec, "--run-dir", "runs/c", "--after", first, "--dry-run", "--json")
    assert json.loads(by_id.out)["argv"][2:-1] == [f"--dependency=afterok:{first}", "--kill-on-invalid-dep=yes"]


def refused_after(ask: Callable[..., Finished], spec: Path, name: str) -> str:
    done = ask("submit", spec, "--run-dir", "runs/last", "--after", name, "--dry-run")
    assert (done.code, done.out) == (2, "")
    return done.err.splitlines()[-1].removeprefix(f"error: --after {name}: ")


def test_what_no_run_can_start_after(
    cluster: Cluster, ask: Callable[..., Finished], spec: Path, tmp_path: Path
) -> None:
    """Slurm itself starts a job at once whose condition names a job that it does not know."""
    nobody = "neither a job's id nor the directory of a run that was submitted"
    assert refused_after(ask, spec, "nobody") == nobody
    assert refused_after(ask, spec, "0") == nobody
    unset = ask("submit", spec, "--run-dir", "runs/last", "--after", "", "--dry-run")
    assert (unset.code, unset.out) == (2, ""), "it would start at once"
    assert "--after: names neither a job nor a run; is a variable of the shell not set?" in unset.err
    assert (
        refused_after(ask, spec, "999999")
        == "Slurm knows no such job, or no longer; if it has ended, leave --after away"
    )
    job = ask("submit", spec, "--run-dir", "runs/a").out.strip()
    (tmp_path / "runs/a/stop").touch()
    cluster.wait(job, "FAILED")
    assert refused_after(ask, spec, job) == "that job has ended as FAILED, exit code 75: submit it again first"
    assert refused_after(ask, spec, "a").startswith(
        f"{tmp_path}/runs/a is failed (its job ended as FAILED, exit code 75"
    )
    (tmp_path / "runs/a/adapter").mkdir()
    done = ask("submit", spec, "--run-dir", "runs/last", "--after", "a", "--dry-run", "--json")
    assert json.loads(done.out)["argv"][2:-1] == [], "it has finished"
    (tmp_path / "runs/a/adapter/manifest.json").write_text('{"files": {}}')
    same = ask("submit", spec, "--run-dir", "runs/a", "--json")
    assert (same.code, json.loads(same.out)["job"]) == (0, None)
    assert "finished already" in same.err
    other = ask("submit", spec, "--run-dir", "runs/a", "-s", "training.learning_rate=1e-3")
    assert (other.code, "finished already" in other.err) == (2, False)
    assert "holds a run of another spec" in other.err


def test_a_sweep_is_a_job_array_of_runs(
    cluster: Cluster, ask: Callable[..., Finished], spec: Path, tmp_path: Path
) -> None:
    done = ask("submit", spec, "--array", "training.learning_rate=1e-3,5e-3", "--array", "lora.rank=4,8")
    assert done.code == 0, done.err
    job, sweep = done.out.strip(), tmp_path / "runs/run"
    until(lambda: (sweep / "3/argv").exists(), "the last started")
    assert (sweep / "3/argv").read_text().splitlines()[2:5] == [f"{sweep}/3.yaml", "--run-dir", f"{sweep}/3"]
    assert json.loads((sweep / "sweep.json").read_text())[2]["changes"] == [
        "training.learning_rate=5e-3",
        "lora.rank=4",
    ]
    assert "rank: 4" in (sweep / "2.yaml").read_text()
    found = json.loads(ask("status", sweep, "--json").out)
    assert [(each["job"], each["state"]) for each in found] == [(f"{job}_{index}", "starting") for index in range(4)]
    assert f"job {job} of this run is running" in ask("submit", spec, "--array", "lora.rank=4,8").err
    after = json.loads(ask("submit", spec, "--run-dir", "runs/last", "--after", "run", "--dry-run", "--json").out)
    assert after["argv"][2:-1] == [f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes"]
    assert ask("stop", sweep / "1").code == 0
    cluster.wait(f"{job}_1", "CANCELLED")
    assert cluster.state(f"{job}_2") == "RUNNING"


def test_every_model_and_data_of_a_sweep_is_looked_at(
    cluster: Cluster, ask: Callable[..., Finished], spec: Path, workspace: Workspace, tmp_path: Path
) -> None:
    """By the first element alone the others would end in the job."""
    base, broken = workspace.root / "base", workspace.root / "broken"
    shutil.copytree(base, broken)
    (broken / "model.safetensors").unlink()
    done = ask("submit", spec, "--array", f"model.variant={base},{broken}", "--array", "lora.rank=4,8")
    assert (done.code, cluster.slurm("squeue", "-h")) == (3, ""), done.err
    assert f"error: model-files: run 2 (model.variant={broken}, lora.rank=4): {broken}" in done.err
    (workspace.root / "bad.jsonl").write_text('{"question": "what?"}\n')
    done = ask("submit", spec, "--array", "data.train=train.jsonl,bad.jsonl", "--array", "lora.rank=4,8")
    assert (done.code, cluster.slurm("squeue", "-h"), (tmp_path / "runs").exists()) == (5, "", False), done.err
    assert "bad.jsonl:1" in done.err
    assert "see each with: muster data validate" in " ".join(done.err.split())  # a long path folds


# What cannot work


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        (["-s", "slurm.partition=mian"], 3,
         "slurm-partition: there is no partition mian (did you mean main?); there are: main, short, urgent"),
        (["-s", "slurm.partition=short"], 3, "slurm-time: 10 is asked for, partition short allows 00:01:00"),
        (["-s", "cluster.nodes=3", "-s", "training.global_batch_size=12"], 3, "slurm-accepts: sbatch: allocation"),
        (["-s", "slurm.mem=9G"], 3,
         "slurm-nodes: 1 node asked for with 1 CPU and 9G of memory each, 0 of 2 have that"),
        (["-s", "cluster.device=gpu", "--gpus", "4xA100-80GB", "-s", "training.global_batch_size=8"], 3,
         "slurm-gres: gpu:4 on 1 node, 0 of 2 offer it (partition main has gpu:2)"),
        (["-s", "cluster.device=gpu"], 3, "partition main offers gpu:2, which does not tell what GPU it is"),
        (["-s", "slurm.reservation=spring"], 3, "slurm-account: there is no reservation spring"),
        (["-s", "slurm.constraint=fast"], 3,
         "slurm-accepts: sbatch: allocation failure: Invalid feature specification"),
        (["-s", "preflight.accept=[]"], 3,
         "slurm-shared: of this machine alone, as far as it can tell: the run directory"),
        (["-s", "slurm.venv=/nowhere"], 3, "slurm-environment: /nowhere/bin/python is not there or cannot be run"),
        (["-s", "data.train=none.jsonl"], 5, "none.jsonl: no such data file"),
    ],
)  # fmt: skip
def test_a_job_that_cannot_work_is_refused_here(
    cluster: Cluster, ask: Callable[..., Finished], spec: Path, tmp_path: Path, argv: list[str], code: int, told: str
) -> None:
    done = ask("submit", spec, *argv)
    assert (done.code, done.out) == (code, ""), done.err
    assert told in done.err
    assert cluster.slurm("squeue", "-h") == ""
    assert not (tmp_path / "runs").exists()


def test_a_failed_check_and_a_spec_that_nothing_fits_are_json_too(ask: Callable[..., Finished], spec: Path) -> None:
    done = ask("submit", spec, "--json", "-s", "slurm.venv=/nowhere")
    told = json.loads(done.out)
    assert (done.code, told["job"], told["preflight"]["status"]) == (3, None, "fail")
    assert [c["name"] for c in told["preflight"]["checks"] if c["status"] == "fail"] == ["slurm-environment"]
    unsent = ask("submit", spec, "--json", "--accept", "slurm-accepts", "-s", "slurm.constraint=fast")
    assert (unsent.code, json.loads(unsent.out)["job"]) == (3, None)
    assert "nothing was submitted: " in unsent.err
    none = ask("submit", spec, "--json", "-s", "cluster.memory_share=0.0001")
    assert (none.code, json.loads(none.out)["strategy"]) == (4, None)


def test_a_controller_and_a_munge_that_do_not_answer_each_have_their_message(
    cluster: Cluster, ask: Callable[..., Finished], spec: Path, tmp_path: Path
) -> None:
    conf = (cluster.directory / "slurm.conf").read_text()
    down = tmp_path / "down.conf"
    down.write_text(conf.replace(f"({cluster.address('login')})", "(127.0.0.1)"))
    done = ask("submit", spec, SLURM_CONF=str(down))
    assert (done.code, done.out) == (3, "")
    assert "slurm-controller: scontrol: Unable to contact slurm controller" in done.err
    assert "slurmctld is down or cannot be reached from here" in done.err
    deaf = tmp_path / "deaf.conf"
    deaf.write_text(conf.replace(f"{cluster.directory}/munge/socket", "/nowhere/munge.socket"))
    done = ask("submit", spec, SLURM_CONF=str(deaf))
    assert done.code == 3
    assert "have an administrator start munge on this machine" in done.err


def test_a_machine_without_slurm(spec: Path, tmp_path: Path) -> None:
    done = muster("submit", spec, cwd=tmp_path, PATH=str(Path(sys.executable).parent))
    assert (done.code, done.out) == (3, "")
    assert "slurm-controller: sbatch is not on this machine. run muster on a login node" in done.err


# Waiting, stopping


def test_a_job_that_waits_is_told_why_and_taken_out_of_the_queue(
    cluster: Cluster, ask: Callable[..., Finished], spec: Path, tmp_path: Path
) -> None:
    blocker = cluster.submit(["sleep", "infinity"], "--exclusive", "--nodes=2", "--time=5")
    cluster.wait(blocker, "RUNNING")
    job, run = ask("submit", spec).out.strip(), tmp_path / "runs/run"
    until(lambda: state(ask, run)["slurm"]["start"], "an expected start")
    found = state(ask, run)
    assert (found["state"], found["why"]) == ("waiting", "Resources")
    assert 0 < found["slurm"]["start"] - time.time() <= 300
    lines = [" ".join(line.split()) for line in ask("status", "run").out.splitlines()]
    told = lines.index("state waiting: Resources")
    assert lines[told + 1].startswith(f"job {job} pending, expected to start ")
    assert ask("stop", "run").err == f"{run}: job {job} was taken out of the queue; to run it: muster submit\n"
    assert cluster.state(job) == "CANCELLED"
    assert (state(ask, run)["state"], ask("stop", run).code) == ("stopped", 2)
    assert ["job", job, "cancelled"] in [line.split() for line in ask("status", run).out.splitlines()]


@pytest.mark.timeout(1200)
def test_a_training_run_from_the_queue_to_its_end(
    cluster: Cluster, ask: Callable[..., Finished], workspace: Workspace, tmp_path: Path
) -> None:
    """Stopped at a step, sent again, done: and still known when Slurm is not there any more."""
    run = tmp_path / "runs/long"
    sections: dict[str, dict[str, Any]] = {
        "slurm": {"partition": "main", "time": "20"}, "preflight": {"accept": ["slurm-shared"]},
        "training": {"epochs": 300}, "cluster": {"nodes": 2, "devices_per_node": 1, "device": "cpu", "strategy": "ddp"},
    }  # fmt: skip
    spec = workspace.spec("long", **sections)
    job = ask("submit", spec).out.strip()
    until(lambda: (state(ask, run)["step"] or 0) >= 6, "at step 6", 200)
    found = state(ask, run)
    assert (found["state"], found["attempt"], found["steps"]) == ("running", 1, 3300)
    assert found["eta_seconds"] > 0
    assert 0 < found["time_left_seconds"] <= 1200
    assert ask("stop", run).code == 0
    cluster.wait(job, "FAILED")
    found = state(ask, run)
    assert (found["state"], found["slurm"]["exit_code"], found["checkpoint"]["step"]) == ("stopped", 75, found["step"])
    again = ask("submit", spec, "-s", "training.epochs=300").out.strip()
    until(lambda: (state(ask, run)["step"] or 0) > found["step"], "trained on", 200)
    assert ask("stop", run, "--now").code == 0
    cluster.wait(again, "CANCELLED")
    later = state(ask, run)
    assert (later["state"], later["attempt"]) == ("stopped", 2)
    forgotten = json.loads(muster("status", run, "--json", cwd=tmp_path, SLURM_CONF="/nowhere").out)
    assert (forgotten["state"], forgotten["job"], forgotten["slurm"], forgotten["step"]) == (
        "stopped", again, None, later["step"],
    )  # fmt: skip
    assert ask("logs", run, "--rank", "1").code == 0


# By hand


@pytest.mark.parametrize("name", ["single_gpu", "single_node", "multi_node"])
def test_a_shipped_script_by_hand(cluster: Cluster, stand_in: Path, tmp_path: Path, name: str) -> None:
    options = ["--partition=main", "--nodes=1", "--gpus-per-node=2", "--cpus-per-task=2"]
    argv = ["sbatch", "--parsable", *options, ROOT / f"slurm/{name}.sbatch", "spec.yaml", "--run-dir", tmp_path]
    env = cluster.environment(MUSTER_VENV=str(stand_in))
    done = subprocess.run(list(map(str, argv)), env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    job = done.stdout.strip()
    until(lambda: (tmp_path / "argv").exists(), "started")
    assert (tmp_path / "argv").read_text().splitlines() == [
        "-m", "launch.supervisor", "spec.yaml", "--run-dir", str(tmp_path),
    ]  # fmt: skip
    found = cluster.job(job)
    assert (found["JobName"], found["Requeue"], found["TimeLimit"]) == ("muster", "1", "12:00:00")
    assert "gres:gpu:2" in found["TresPerNode"]
    (tmp_path / "stop").touch()
    cluster.wait(job, "FAILED")
    assert (tmp_path / f"muster-{job}.log").read_text().startswith("hello from n")
    # Its run directory has no log of the job: Slurm says where that is.
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / "events.jsonl").write_text(json.dumps({"event": "job_started", "time": 1.0, "job": job}) + "\n")
    told = muster("logs", tmp_path, "--rank", "job", cwd=tmp_path, SLURM_CONF=f"{cluster.directory}/slurm.conf")
    assert (told.code, told.out) == (0, (tmp_path / f"muster-{job}.log").read_text()), told.err


def test_the_shipped_sweep_by_hand(cluster: Cluster, stand_in: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "it's a sweep"
    for element in (0, 1):
        (sweep / str(element)).mkdir(parents=True)
    options = ["--partition=main", "--gpus-per-node=1", "--cpus-per-task=1", "--array=0-1"]
    argv = ["sbatch", "--parsable", *options, ROOT / "slurm/sweep.sbatch", sweep, "--accept", "disk-space"]
    env = cluster.environment(MUSTER_VENV=str(stand_in))
    done = subprocess.run(list(map(str, argv)), env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    for element in (0, 1):
        run, log = sweep / str(element), tmp_path / f"muster-{done.stdout.strip()}_{element}.log"
        until(lambda log=log: log.exists() and log.read_text(), f"{element} started")  # the last word of a stand-in
        assert (run / "argv").read_text().splitlines() == [
            "-m", "launch.supervisor", f"{run}.yaml", "--run-dir", str(run), "--accept", "disk-space",
        ]  # fmt: skip
        (run / "stop").touch()
        cluster.wait(f"{done.stdout.strip()}_{element}", "FAILED")
        assert log.read_text().startswith("hello from n")
