"""The one command for a GPU: each of its steps can be started, and none costs the others anything."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import typer

from benchmarks.on_gpu import ROOT, Session, Step, _options, on_cpu, on_gpu
from launch.cli import app
from tests.conftest import environment

EVERY = {(step.name, step.argv): step for step in (*on_cpu(), *on_gpu(), *on_gpu(()))}.values()


@pytest.mark.parametrize("step", EVERY, ids=lambda step: step.name)
def test_the_command_of_each_step_parses(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the parser of what it starts, which knows its own jobs and cases."""
    first, *words = step.argv
    monkeypatch.setattr("benchmarks.levers.find_spec", lambda package: package)
    if first.endswith(".py"):
        monkeypatch.setattr(sys, "argv", [first, *words])
        assert importlib.import_module(f"benchmarks.{Path(first).stem}")._options().json == Path("RUNNING")
    elif words[0] == "launch":
        group = typer.main.get_command(app)
        preflight = group.get_command(typer.Context(group), words[1])  # type: ignore[attr-defined]
        assert preflight.make_context(words[1], words[2:]).params["spec"] == Path("WORK/spec.yaml")
    else:
        assert (first, words[0]) in {("-m", "pytest"), ("-c", words[0])}


def test_the_tests_of_gpus_are_found_and_the_workspace_is_made(tmp_path: Path) -> None:
    tests, workspace = ({step.name: step for step in on_gpu()}[name] for name in ("tests", "workspace"))
    argv = [sys.executable, *tests.argv, "--collect-only"]
    listed = subprocess.run(argv, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True).stdout
    assert listed.count("<Function test_") > 20
    with Session(tmp_path, 10, cpu=True) as session:
        session.take(workspace)
    assert session.missing((workspace,)) == []
    assert (tmp_path / "work/base/model.safetensors").is_file()
    assert json.loads((tmp_path / "work/spec.yaml").read_text())["cluster"] == {"devices_per_node": 1, "device": "cpu"}


WRITES = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('{\"found\": 1}')"
STEPS = (
    Step("good", 20, ("-c", WRITES, "RUNNING")),
    Step("prints", 20, ("-c", "print('[2]')"), prints_result=True),
    Step("bad", 20, ("-c", "import sys; print('it broke'); sys.exit(4)")),
    # Its child must end as well, or it would hold the GPU.
    Step(
        "slow", 12,
        ("-c", f"{WRITES}; import subprocess; subprocess.run(['sleep', '7071'])", "RUNNING"),
    ),
    Step("after", 20, ("-c", WRITES, "RUNNING")),
)  # fmt: skip


def test_a_step_that_fails_or_overruns_costs_the_others_nothing_and_what_it_found_is_kept(tmp_path: Path) -> None:
    with Session(tmp_path, 3, cpu=True) as session:
        for step in STEPS:
            session.take(step)
    asleep = [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == ["sleep", "7071"]]
    assert not any(process.status() != psutil.STATUS_ZOMBIE for process in asleep)
    steps = json.loads((tmp_path / "results.json").read_text())["steps"]
    assert {name: (row["outcome"], row["exit_code"], row.get("result")) for name, row in steps.items()} == {
        "good": ("done", 0, {"found": 1}), "prints": ("done", 0, [2]), "bad": ("failed", 4, None),
        "slow": ("overran 12 s", None, {"found": 1}), "after": ("done", 0, {"found": 1}),
    }  # fmt: skip
    assert "it broke" in (tmp_path / "log.txt").read_text()
    assert not (tmp_path / "running.json").exists()


def test_without_time_a_step_is_left_out_and_the_next_session_makes_it(tmp_path: Path) -> None:
    good, bad = STEPS[0], STEPS[2]
    for minutes, outcome in ((0.0, "left out"), (1.0, "done")):
        with Session(tmp_path, minutes, cpu=True) as session:
            session.take(good)
        assert json.loads((tmp_path / "results.json").read_text())["steps"]["good"]["outcome"] == outcome
    with Session(tmp_path, 0.0, cpu=True) as session:
        session.take(good)
        session.take(bad)
    assert session.missing((good, bad)) == ["bad"]


def test_what_needs_a_package_is_left_out_without_it() -> None:
    told = " ".join(word for step in on_gpu(()) for word in step.argv)
    assert "nf4" not in told
    assert "liger" not in told
    assert "7b-4096-torch" in told


def test_a_step_that_is_not_known_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["on_gpu", "--only", "profile,speed"])
    with pytest.raises(SystemExit):
        _options()
    assert "'speed' is not known" in capsys.readouterr().err


def test_a_rehearsal_s_steps_do_not_count_as_those_of_a_gpu(tmp_path: Path) -> None:
    with Session(tmp_path, 1, cpu=True) as session:
        session.take(STEPS[0])
    before = (tmp_path / "results.json").read_text()
    with pytest.raises(SystemExit, match=r"another kind \(cpu True, now False\): choose another --out"):
        Session(tmp_path, 1, cpu=False)
    assert (tmp_path / "results.json").read_text() == before


def test_trl_is_compared_where_a_python_has_it() -> None:
    added = {step.name for step in on_gpu(trl=sys.executable)} - {step.name for step in on_gpu()}
    assert added == {"throughput-trl"}


@pytest.mark.parametrize(
    ("script", "argv", "told"),
    [
        ("throughput", ["--trl", "/nonexistent"], "argument --trl: /nonexistent: no such program"),
        ("throughput", ["--json", "no/such/x.json"], "argument --json: no/such: no such folder"),
        ("throughput", ["--repeats", "-1"], "argument --repeats: -1: at least 1 is needed"),
        ("throughput", ["--steps", "0"], "argument --steps: 0: at least 1 is needed"),
        ("throughput", ["--jobs", ",small-fixed"], "--jobs: '' is not known"),
        ("throughput", ["--set", "{bad"], "argument --set: '{bad' is no JSON: Expecting property name"),
        ("throughput", ["--set", "[]"], "argument --set: '[]' is no JSON object"),
        ("levers", ["--pairs", "0"], "argument --pairs: 0: at least 1 is needed"),
        ("levers", ["--only", "liger"], "--only: 'liger' begins none of those that run here: loss: chunked"),
        ("levers", ["--only", "loss,"], "--only: '' begins none of those that run here: loss: chunked"),
        ("profile_step", ["--set", "1"], "argument --set: '1' is no JSON object"),
        ("memory_gpu", ["--json", "no/such/x.json"], "argument --json: no/such: no such folder"),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_is(
    script: str, argv: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--cpu", *argv])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"benchmarks.{script}").main()
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ('{"training.lss": "plain"}', "--set: throughput:1:.*training.lss: unknown key. Did you mean 'loss'?"),
        ('{"nope": 1}', "--set: throughput:1:.*nope"),
        ('{"foo.bar": 1}', "--set: throughput:1:.*foo: unknown key"),
    ],
)
def test_settings_that_are_no_spec_are_told_before_anything_is_trained(
    settings: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["throughput", "--cpu", "--set", settings])
    with pytest.raises(SystemExit, match=told):
        importlib.import_module("benchmarks.throughput").main()


@pytest.mark.parametrize("script", ["throughput", "levers", "profile_step"])
def test_without_a_gpu_the_way_without_one_is_told(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", [script])
    with pytest.raises(SystemExit, match=r"torch sees no GPU here .*; --cpu measures a small model without one"):
        importlib.import_module(f"benchmarks.{script}").main()
