"""The commands: data on stdout, everything else on stderr, and the exit code that says what happened."""

import importlib.metadata
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from launch import cli
from launch.machine import discover
from launch.machine.hardware import GIB
from launch.plan import Plan
from launch.preflight import runner
from launch.processes import together
from launch.render import launch_argv, rendered
from launch.rundir import RunDir
from launch.spec import RunSpec
from launch.wording import amount
from tests.conftest import ROOT, command, environment, muster
from tests.launch.conftest import in_process as call
from tests.launch.conftest import write_model

SPEC = """\
name: demo
model: {variant: qwen2.5-14b-instruct}
data: {train: train.jsonl}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a spec, one row of data, and a machine with 64 GiB of memory and no GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(discover, "gpus", list)
    monkeypatch.setattr(discover, "host_memory", lambda: 64 * GIB)
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "train.jsonl").write_text('{"question": "?", "documents": ["a"], "answer": "b"}\n')
    return tmp_path


@pytest.fixture
def tiny(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with a spec of a model that a CPU can train. Checks get the time that this machine needs; what becomes
    of one that is late, preflight/test_runner.py says."""
    monkeypatch.setattr(runner, "together", lambda calls: together([(check, 100.0) for check, _ in calls]))
    write_model(folder / "base")
    (folder / "tiny.yaml").write_text(
        "name: tiny\nmodel: {variant: base}\ndata: {train: train.jsonl, max_length: 128}\n"
    )
    return folder


# Help


COMMANDS = get_command(cli.app).commands  # type: ignore[attr-defined]


def test_the_commands() -> None:
    assert list(COMMANDS) == [
        "plan", "preflight", "run", "schema", "submit", "status", "watch", "logs", "stop", "diagnose", "report",
        "evaluate",
        "export", "data", "model",
    ]  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str) -> None:
    documented = {param.name: bool(getattr(param, "help", None)) for param in COMMANDS[name].params}
    assert all(documented.values()), documented
    assert COMMANDS[name].help


def test_muster_help_names_every_command() -> None:
    done = muster("--help", COLUMNS="120")
    assert (done.code, done.err) == (0, "")
    for name, entry in COMMANDS.items():
        assert f" {name} " in done.out
        assert entry.help.split("\n")[0] in done.out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_names_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, name, "--help")
    assert (done.code, done.err) == (0, "")
    for param in (param for param in COMMANDS[name].params if not getattr(param, "hidden", False)):
        assert (param.opts[0] if param.param_type_name == "option" else param.metavar.split("|")[0]) in done.out


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "--version")
    assert (done.code, done.out) == (0, f"muster {importlib.metadata.version('muster-lora')}\n")


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "accelerate", "peft", "deepspeed", "datasets", "numpy", "pydantic", "yaml")
    code = f"import sys, launch.cli; print([name for name in {heavy!r} if name in sys.modules])"
    assert command("-c", code).out == "[]\n"


def test_planning_and_checking_import_no_training_library(tiny: Path) -> None:
    heavy = ("torch", "transformers", "accelerate", "peft", "deepspeed", "datasets", "bitsandbytes")
    code = (
        "import sys; from launch import cli\n"
        "try: cli.app(['preflight', 'tiny.yaml', '--json'])\n"
        "except SystemExit: pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = command("-c", code, cwd=tiny)
    assert done.err.splitlines()[-1] == "[]"
    assert json.loads(done.out)["checks"]


@pytest.mark.parametrize("argv", [["plam"], ["plan"], ["plan", "spec.yaml", "--nodes", "0"], ["plan", "--what"]])
def test_a_wrong_command_line_is_2(argv: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, *argv)
    assert (done.code, done.out) == (2, "")
    assert "Usage: " in done.err


# schema


def test_schema_is_the_json_schema_of_the_spec(capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "schema")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == RunSpec.model_json_schema()
    assert list(json.loads(done.out)["properties"]) == [
        "name",
        "model",
        "lora",
        "data",
        "training",
        "cluster",
        "slurm",
        "preflight",
        "recovery",
        "stability",
        "monitoring",
    ]


# plan


def test_plan_shows_the_choice_the_memory_and_the_candidates(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "280")
    done = call(capsys, "plan", "spec.yaml", "--gpus", "8xA100-80GB")
    assert (done.code, done.err) == (0, "")
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[:6] == [
        "Plan for demo",
        "model qwen2.5-14b-instruct (14,770,033,664 parameters, quantization none)",
        "adapter LoRA rank 8, alpha 32, dropout 0.05: 34,406,400 trainable parameters",
        "devices 1 node x 8 A100-80GB",
        lines[4],
        "batch 128 = 4 micro x 4 accumulation x 8 devices",
    ]
    assert lines[4].startswith("strategy zero3: ")
    assert lines[6] == "training 3 epochs, learning rate 0.0002 constant_with_warmup, paged_adamw_32bit"
    assert lines[7] == "precision bf16, gradient checkpointing 45/48 blocks"
    assert lines[8] == "kernels sdpa attention, plain loss, peft LoRA layers, plain norms"
    assert "strategy checkpointing batch per device step sent fits" in lines
    for blocks in ("45/48", "on"):
        assert any(line.startswith(f"zero3 {blocks} 4 x 4 ") and line.endswith(" yes") for line in lines)


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_a_narrow_terminal_shows_every_amount_of_memory(
    columns: int, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = ("plan", "spec.yaml", "--gpus", "8xA100-80GB")
    plan = Plan.model_validate_json(call(capsys, *gpus, "--json").out)
    monkeypatch.setenv("COLUMNS", str(columns))
    out = call(capsys, *gpus).out
    _, _, memory = out.partition("Memory of each device")
    memory, _, candidates = memory.partition("Candidates")
    for size in plan.memory.components.values():
        assert amount(size) in memory
    limit = f"80 % of {amount(plan.topology.memory_bytes)}".split()
    assert memory.split()[-len(limit) :] == limit
    assert "\u2026" not in memory + candidates


def test_plan_json_is_the_plan_and_nothing_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpus = ("--gpus", "8xA100-80GB", "--nodes", "2", "-s", "training.optimizer=adamw_torch")
    done = call(capsys, "plan", "spec.yaml", *gpus, "--json", "-s", "lora.rank=4")
    plan = Plan.model_validate_json(done.out)
    assert (done.code, done.err) == (0, "")
    assert (plan.world_size, plan.spec.lora.rank, plan.spec.cluster.nodes) == (16, 4, 2)
    assert plan.spec.data.train == str(folder / "train.jsonl")


def test_warnings_go_to_stderr(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", "spec.yaml", "--gpus", "8xA100-80GB", "--json", "-s", "training.precision=fp16")
    assert json.loads(done.out)["precision"] == "fp16"
    assert done.err == (
        "warning: training.precision fp16 on A100-80GB, which has bf16: Qwen was trained in bf16 and can overflow in"
        " fp16; use auto\n"
    )


def test_all_mistakes_of_a_spec_are_told_and_the_code_is_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "spec.yaml").write_text("name: demo\nmodel: {variant: qwen3-8b}\ndata: {train: 7}\nlora: {rank: 0}\n")
    done = call(capsys, "plan", "spec.yaml")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error: spec.yaml:3:15: data.train: 7 is not allowed;"
        " allowed: text (Training rows: a file, folder, glob or hub id (`owner/name:split`). "
        'Relative paths start at the spec\'s folder). As text it stands in quotes: "7"\n'
        "error: spec.yaml:4:14: lora.rank: 0 is not allowed;"
        " allowed: a whole number above 0 and at most 1,000,000,000 (Rank r of each adapter pair)\n"
    )


def test_no_such_spec_is_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", "spce.yaml")
    assert (done.code, done.err) == (2, "error: spce.yaml: no such spec file; specs in .: spec.yaml\n")


def test_a_spec_may_come_from_a_pipe(folder: Path) -> None:
    """Which gives its text once; relative paths then start at the folder that the command is started in."""
    argv = [sys.executable, "-m", "launch", "plan", "/dev/stdin", "--gpus", "8xA100-80GB", "--json"]
    done = subprocess.run(argv, input=SPEC, cwd=folder, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["spec"]["data"]["train"] == str(folder / "train.jsonl")


def test_data_that_a_spec_from_a_pipe_does_not_find(folder: Path) -> None:
    argv = [sys.executable, "-m", "launch", "plan", "/dev/stdin", "--gpus", "8xA100-80GB"]
    text = SPEC.replace("train.jsonl", "absent.jsonl")
    done = subprocess.run(argv, input=text, cwd=folder, env=environment(), capture_output=True, text=True)
    assert f"{folder}/absent.jsonl: no such data file; a relative path starts at the working directory" in done.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "data.columns.questoin=q",
            "data.columns: the name 'questoin' is not allowed; allowed: id, question, documents",
        ),
        ("data.columns.questoin=q", "text. Did you mean 'question'?"),
        ("slurm.environment.a-b=x", "slurm.environment: the name 'a-b' is not allowed; allowed: a variable's name"),
    ],
)
def test_a_name_that_nobody_reads(change: str, told: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", "spec.yaml", "--gpus", "8xA100-80GB", "-s", change)
    assert done.code == 2
    assert told in done.err


def test_a_wrong_value_of_a_sweep_is_told_as_one_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("submit", "spec.yaml", "--array", "lora.rank=8,0", "--gpus", "8xA100-80GB", "--dry-run")
    done = call(capsys, *argv)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("error: --array lora.rank=0: lora.rank: 0 is not allowed")


def test_an_override_without_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", "spec.yaml", "-s", f"data.train={'[' * 2000}{']' * 2000}")
    assert done.err == "error: -s data.train: not YAML that can be read: it nests without end\n"
    done = call(capsys, "plan", "spec.yaml", "-s", f"data.train={'a' * 200_000}")
    assert done.err == "error: -s data.train: 200,000 characters: at most 131,072 are read\n"


def test_a_terminal_that_cannot_say_bars_gets_the_amounts(folder: Path) -> None:
    argv = ("plan", "spec.yaml", "--gpus", "8xA100-80GB")
    told = muster(*argv, cwd=folder, PYTHONIOENCODING="latin-1", PYTHONPATH=str(ROOT)).out
    assert "\\u25" not in told
    assert "base weights" in told


def test_what_would_make_it_fit_is_json_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", "spec.yaml", "--gpus", "1xRTX4090-24GB", "--json")
    document = json.loads(done.out)
    assert (done.code, document["strategy"], len(document["remedies"])) == (4, None, 3)
    assert document["remedies"][0].keys() == {"change", "strategy", "process_bytes"}


def test_checks_of_a_spec_that_nothing_fits_print_the_same_document(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("-s", "cluster.memory_share=1e-9", "--json")
    planned, checked = (call(capsys, command, "tiny.yaml", *small) for command in ("plan", "preflight"))
    assert (planned.code, checked.code) == (4, 4)
    assert json.loads(checked.out).keys() == json.loads(planned.out).keys() == {"strategy", "why", "remedies"}
    assert json.loads(checked.out)["strategy"] is None


def test_a_launcher_s_text_is_no_json_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", "spec.yaml", "--gpus", "8xA100-80GB", "--render", "torchrun", "--json")
    assert (done.code, done.out, done.err) == (
        2, "", "error: --render and --json: a launcher's text is no JSON document; give one of them\n"
    )  # fmt: skip


def test_in_an_allocation_all_its_nodes_are_planned_for(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "3")

    def nodes(*options: str) -> int:
        found: int = json.loads(call(capsys, "plan", "tiny.yaml", "--json", *options).out)["topology"]["nodes"]
        return found

    assert nodes() == 3
    assert (nodes("--nodes", "2"), nodes("-s", "cluster.nodes=1"), nodes("--gpus", "8xA100-80GB")) == (2, 1, 1)


def test_no_plan_is_4_and_names_the_spec(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", "spec.yaml", "--gpus", "1xT4-16GB")
    assert (done.code, done.out) == (4, "")
    assert done.err.startswith("error: spec.yaml: no plan fits 1 x 1 T4-16GB with 14.7 GiB each: ")


def test_an_unknown_variant_is_told_at_its_place(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "spec.yaml").write_text(SPEC.replace("instruct", "instrct"))
    assert call(capsys, "plan", "spec.yaml").err.startswith("error: spec.yaml:2:18: model.variant")


def test_gpus_that_contradict_the_spec(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", "spec.yaml", "--gpus", "8xA100-80GB", "-s", "cluster.devices_per_node=4", "--json")
    assert done.code == 2 or json.loads(done.out)["world_size"] == 4 or "devices_per_node" in done.err


def test_gpus_for_a_spec_of_cpu_processes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", "spec.yaml", "--gpus", "8xA100-80GB", "-s", "cluster.device=cpu")
    assert done.code == 2 or "cluster.device" in done.err


def test_a_secret_never_reaches_the_screen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", "spec.yaml", "-s", "training.epochs=hf_abcdefghijklmnopqrst")
    assert done.code == 2
    assert done.err.startswith("error: -s training.epochs=[secret]: training.epochs: '[secret]' is not allowed")


def test_a_path_with_brackets_is_shown(tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("COLUMNS", "280")
    (tiny / "base").rename(tiny / "[base]")
    done = call(capsys, "plan", "tiny.yaml", "-s", f"model.variant={tiny}/[base]")
    assert f"model {tiny}/[base] (" in " ".join(done.out.split())


# preflight


def test_preflight_passes(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "preflight", "tiny.yaml", "--json", "-s", "training.optimizer=adamw_torch")
    report = json.loads(done.out)
    assert (done.code, done.err, report["status"]) == (0, "", "pass")
    assert report["verdict"] == "Ready: 1 CPU process on 1 node"
    assert {check["name"] for check in report["checks"] if check["status"] == "pass"} == {
        "plan-memory", "batch", "packages", "cores", "host-memory", "run-directory", "disk-space", "model-files",
        "tokenizer", "data",
    }  # fmt: skip
    assert {check["status"] for check in report["checks"]} == {"pass", "skipped"}


def test_the_list_of_checks(capsys: pytest.CaptureFixture[str]) -> None:
    shown, listed = call(capsys, "preflight", "--list"), call(capsys, "preflight", "--list", "--json")
    assert (shown.code, listed.code) == (0, 0)
    names = [check["name"] for check in json.loads(listed.out)]
    assert len(names) == len(set(names)) > 35
    assert all(name in shown.out for name in names)
    assert call(capsys, "preflight").err == "error: preflight needs a SPEC, --list or --selftest\n"


def test_a_failure_that_is_accepted_stops_nothing(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "base/tokenizer.json").write_text("{}")
    stopped = call(capsys, "preflight", "tiny.yaml", "--json")
    assert (stopped.code, json.loads(stopped.out)["verdict"].split(":")[:2]) == (3, ["Not ready", " tokenizer"])
    for argv in (["--accept", "tokenizer"], ["-s", "preflight.accept=[tokenizer]"]):
        done = call(capsys, "preflight", "tiny.yaml", "--json", *argv)
        (check,) = [check for check in json.loads(done.out)["checks"] if check["name"] == "tokenizer"]
        assert (done.code, check["status"], check["accepted"]) == (0, "warn", True)
    wrong = call(capsys, "preflight", "tiny.yaml", "--accept", "tokeniser")
    assert wrong.code == 2
    assert wrong.err.startswith("error: --accept or preflight.accept: no check is called tokeniser; allowed: ")
    rows = call(capsys, "preflight", "tiny.yaml", "--accept", "data")
    assert (rows.code, rows.err) == (
        2,
        "error: --accept data: rows are accepted by what is wrong with them: data.accept, data.on_bad_row\n",
    )


def test_the_result_as_a_page(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "preflight", "tiny.yaml", "--html", tiny / "result.html", "--json")
    page = (tiny / "result.html").read_text()
    assert "<h1>Ready: 1 CPU process on 1 node</h1>" in page
    assert all(f'<tr id="{check["name"]}">' in page for check in json.loads(done.out)["checks"])
    assert not re.search(r"https?:|<script|@import|url\(", page)
    wrong = call(capsys, "preflight", "tiny.yaml", "--html", tiny / "none/result.html")
    assert (wrong.code, wrong.err) == (
        2,
        f"error: --html {tiny}/none/result.html: cannot be written: No such file or directory\n",
    )


def test_preflight_tells_bad_rows_in_json_too(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "train.jsonl").write_text("[]\n{\n" + (tiny / "train.jsonl").read_text())
    done = call(capsys, "preflight", "tiny.yaml", "--json")
    report = json.loads(done.out)
    assert (done.code, report["status"]) == (5, "fail")
    (check,) = [check for check in report["checks"] if check["status"] == "fail"]
    assert {key: check[key] for key in ("name", "family", "status", "evidence", "fix")} == {
        "name": "data", "family": "data", "status": "fail",
        "evidence": f"{tiny}/train.jsonl:1:1: is a list, not an object [field], and 1 more",
        "fix": "see each with: muster data validate tiny.yaml",
    }  # fmt: skip
    assert done.err.splitlines() == [
        f"error: {tiny}/train.jsonl:1:1: is a list, not an object [field]",
        f"error: {tiny}/train.jsonl:2:2: not JSON: Expecting property name enclosed in double quotes [unreadable]",
    ]


def test_preflight_does_not_pass_rows_of_which_none_is_left(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "train.jsonl").write_text("[]\n")
    done = call(capsys, "preflight", "tiny.yaml", "-s", "data.on_bad_row=quarantine")
    assert done.code == 5
    assert done.err.splitlines()[0] == f"error: {tiny}/train.jsonl: every row has an error: none is left to use"


def test_preflight_fails_with_3(tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    (tiny / "base/model.safetensors").unlink()
    done = call(capsys, "preflight", "tiny.yaml")
    assert (done.code, done.err) == (3, "")
    (line,) = [" ".join(line.split()) for line in done.out.splitlines() if line.startswith("FAIL")]
    assert line == (
        f"FAIL model-files {tiny}/base/model.safetensors is missing or empty."
        " complete the model's files, or change model.variant"
    )


def test_more_gpus_than_exist_is_3(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "preflight", "spec.yaml", "-s", "cluster.device=gpu", "-s", "cluster.devices_per_node=8")
    assert (done.code, done.out) == (3, "")
    assert done.err == (
        "error: -s cluster.device=gpu: cluster.device is gpu and cluster.devices_per_node 8, but this machine has 0"
        " GPUs that can be used; plan for another with --gpus, or use cluster.device: cpu\n"
    )


def test_every_mistake_is_told_in_one_go(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the text, of values, of the model, of the devices and of the data together."""
    (folder / "many.yaml").write_text(
        "name: many\nmodel: {variant: qwen-9b}\ndata: {train: none.jsonl}\n"
        "training: {save_stpes: 5, precision: bf16, micro_batch_size: 2, global_batch_size: 7}\n"
        "cluster: {strategy: ddp}\n"
    )
    done = call(capsys, "run", "many.yaml")
    assert (done.code, done.out) == (2, "")
    told = [line.split(": ", 3)[1:3] for line in done.err.splitlines()]
    assert [place for place, _ in told] == [f"many.yaml:{n}" for n in ("2:18", "3:15", "4:12", "4:38", "4:62", "5:21")]
    assert [key.split(" ")[0] for _, key in told] == [
        "model.variant", "data.train", "training.save_stpes", "training.precision", "training.micro_batch_size", "ddp",
    ]  # fmt: skip


def test_too_few_gpus_beside_another_mistake_are_told_together(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = call(capsys, "plan", "spec.yaml", "-s", "cluster.device=gpu", "-s", "training.epochz=1")
    assert done.code == 2
    assert [line.split(": ")[1] for line in done.err.splitlines()] == ["-s cluster.device=gpu", "-s training.epochz=1"]


ODD_NAMES = {"x" * 300: "File name too long", "a/" * 3000: "File name too long", "a\0b": "embedded null byte"}


@pytest.mark.parametrize("name", ODD_NAMES, ids=["long", "deep", "null"])
def test_a_path_that_no_file_can_have(name: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "odd.yaml").write_text(json.dumps({"name": "odd", "model": {"variant": "base"}, "data": {"train": name}}))
    done = call(capsys, "run", "odd.yaml")
    assert done.code == 2
    assert f": data.train: no file can be called so: {ODD_NAMES[name]}" in done.err
    if "\0" not in name:  # which no command line can carry
        done = call(capsys, "run", "tiny.yaml", "--run-dir", name)
        assert done.code == 2
        assert ": no directory can be called so: " in done.err


def test_a_run_directory_that_is_a_loop_of_links(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "loop").symlink_to("loop")
    done = call(capsys, "run", "tiny.yaml", "--run-dir", "loop")
    assert (done.code, done.err.startswith("error: --run-dir loop: no directory can be called so")) == (2, True)
    done = call(capsys, "run", "tiny.yaml", "-s", "data.train=loop")
    assert done.code == 2
    assert "data.train: no file can be called so: Too many levels of symbolic links" in done.err


def test_a_spec_that_nests_without_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "deep.yaml").write_text("name: " + "[" * 5000)
    done = call(capsys, "plan", "deep.yaml")
    assert (done.code, done.err) == (2, "error: deep.yaml:1:1: not YAML that can be read: it nests without end\n")


def test_a_folder_that_is_no_checkpoint(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "run", "tiny.yaml", "--dry-run", "--resume", "base")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: --resume base: not a checkpoint directory; allowed: auto, never, or the path of one\n"


# run


def test_a_dry_run_refuses_what_the_run_would_refuse(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "train.jsonl").write_text("[]\n")
    done = call(capsys, "run", "tiny.yaml", "--dry-run")
    assert (done.code, json.loads(done.out)["plan"]["name"]) == (5, "tiny")
    assert done.err == f"error: {tiny}/train.jsonl:1:1: is a list, not an object [field]\n"


def test_a_dry_run_shows_no_secret_that_the_run_would_refuse(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "zzTopSecretValue99")
    for more in (("-s", "name=zzTopSecretValue99"), ("--run-dir", "zzTopSecretValue99/x")):
        done = call(capsys, "run", "tiny.yaml", "--dry-run", *more)
        assert (done.code, done.out) == (2, "")
        assert "zzTopSecretValue99" not in done.err


def test_a_dry_run_ends_as_the_run_would_where_a_check_fails(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "base/tokenizer.json").unlink()
    done = call(capsys, "run", "tiny.yaml", "--dry-run")
    assert done.code == 3
    assert json.loads(done.out)["plan"]["name"] == "tiny"
    assert "model-files: " in done.err


@pytest.mark.parametrize("argv", [("run",), ("run", "--dry-run"), ("preflight",)], ids=" ".join)
def test_missing_data_is_named_where_the_spec_names_it(
    argv: tuple[str, ...], tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny / "train.jsonl").unlink()
    done = call(capsys, argv[0], "tiny.yaml", *argv[1:], "-s", "data.eval=held/out.jsonl")
    assert (done.code, done.out) == (5, "")
    tail = "no such data file; a relative path starts at the spec's folder"
    assert done.err.splitlines()[-2:] == [
        f"error: -s data.eval=held/out.jsonl: data.eval: {tiny}/held/out.jsonl: {tail}",
        f"error: tiny.yaml:3:15: data.train: {tiny}/train.jsonl: {tail}",
    ]


def test_a_plan_warns_of_data_that_is_not_here(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "train.jsonl").unlink()
    done = call(capsys, "plan", "tiny.yaml")
    assert done.code == 0
    assert done.err.startswith("warning: tiny.yaml:3:15: data.train: ")


def dry_run(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, Any]:
    done = call(capsys, "run", "tiny.yaml", "--dry-run", *argv)
    assert (done.code, done.err) == (0, "")
    document = json.loads(done.out)
    assert isinstance(document, dict)
    return document


def test_a_dry_run_prints_what_would_run_and_writes_nothing(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tiny.rglob("*"))
    document = dry_run(capsys)
    plan, run = Plan.model_validate_json(json.dumps(document["plan"])), RunDir(tiny / "runs/tiny")
    assert document == {
        "plan": plan.model_dump(mode="json"),
        "rendered": rendered(plan, run.deepspeed),
        "argv": launch_argv(plan, run.root, run.accelerate, 1, 0, "auto"),
        "run_dir": str(run.root),
    }
    assert (plan.strategy, plan.precision, plan.world_size) == ("single", "fp32", 1)
    assert sorted(tiny.rglob("*")) == before


def test_a_run_directory_of_ones_own(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = dry_run(capsys, "--run-dir", "elsewhere")
    assert document["run_dir"] == str(tiny / "elsewhere")
    assert document["argv"][3] == str(tiny / "elsewhere")


def test_a_dry_run_prints_the_resume_that_was_asked_for(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(capsys, "--resume", "never")["argv"][-2:] == ["--resume", "never"]


def test_a_resume_that_is_neither_a_word_nor_a_directory(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "run", "tiny.yaml", "--dry-run", "--resume", "nevr").code == 2


def test_the_supervisor_of_a_job_outside_of_one(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "run", "--in-job", "tiny.yaml")
    assert (done.code, done.out) == (3, "")
    assert done.err == (
        "error: launch.supervisor is what a batch job starts, and this is no Slurm job: use muster run, or muster"
        " submit\n"
    )


def test_run_trains_on_this_machine_alone(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "run", "tiny.yaml", "-s", "cluster.nodes=2")
    assert (done.code, done.out) == (3, "")
    assert done.err == (
        "error: cluster.nodes is 2, and this is no Slurm job: use muster submit, or sbatch slurm/multi_node.sbatch;"
        " start accelerate launch with accelerate_configs/ddp_multi_node.yaml on every node; or use"
        " -s cluster.nodes=1\n"
    )


def test_bad_rows_are_5_before_anything_is_written(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "train.jsonl").write_text('{"messages": 3}\n')
    done = call(capsys, "run", "tiny.yaml")
    assert (done.code, done.out) == (5, "")
    assert f"error: {tiny}/train.jsonl:1:" in done.err
    assert not (tiny / "runs").exists()


def test_failed_checks_are_3_before_anything_is_written(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}
    (tiny / "train.jsonl").write_text(json.dumps(row) + "\n")
    (tiny / "base/tokenizer.json").unlink()
    done = call(capsys, "run", "tiny.yaml")
    assert (done.code, done.out) == (3, "")
    assert "error: the checks failed, nothing was started" in done.err.splitlines()
    assert not (tiny / "runs").exists()


def test_a_directory_that_is_no_run_is_2(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "run", "tiny.yaml", "--run-dir", tiny / "base")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == (
        f"error: {tiny}/base: is not a run directory and not empty; choose another with --run-dir"
    )


def test_resume_never_leaves_the_earlier_run_in_place_when_nothing_is_started(tiny: Path, capsys: Any) -> None:
    (tiny / "runs/tiny").mkdir(parents=True)
    (tiny / "runs/tiny/plan.json").write_text("{}")
    (tiny / "train.jsonl").unlink()
    assert call(capsys, "run", "tiny.yaml", "--resume", "never").code != 0
    assert (tiny / "runs/tiny/plan.json").exists()


# As a process


def test_the_exit_code_and_the_streams_of_a_process(folder: Path) -> None:
    fine = muster("plan", "spec.yaml", "--gpus", "8xA100-80GB", "--json", cwd=folder)
    wrong = muster("plan", "spec.yaml", "-s", "training.epochs=0", cwd=folder)
    assert (fine.code, json.loads(fine.out)["strategy"], fine.err) == (0, "zero3", "")
    assert (wrong.code, wrong.out, "Traceback" in wrong.err) == (2, "", False)


def test_a_reader_that_goes_away_is_no_error(folder: Path) -> None:
    argv = [sys.executable, "-m", "launch", "schema"]
    with subprocess.Popen(argv, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.wait(timeout=30), process.stderr.read()) == (0, b"")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_stream_that_the_shell_has_closed_is_no_error(folder: Path, closed: str) -> None:
    for arguments, code in (("schema", 0), ("status nowhere", 2)):
        shell = f"{shlex.quote(sys.executable)} -m launch {arguments} {closed}"
        done = subprocess.run(["sh", "-c", shell], cwd=folder, env=environment(), capture_output=True, text=True)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), (arguments, done.stderr)


def test_what_a_terminal_cannot_say_is_escaped(folder: Path) -> None:
    """`muster` of a locale that is not UTF-8: stdout raises on a character it lacks, unless it is told what to do."""
    (folder / "odd.jsonl").write_text('{"问题": 1}\n', encoding="utf-8")
    for encoding in ("ascii", "latin-1"):
        done = muster("data", "validate", "odd.jsonl", cwd=folder, PYTHONIOENCODING=encoding, PYTHONPATH=str(ROOT))
        assert "Traceback" not in done.err, done.err
        assert (done.code, r"\u95ee\u9898" in done.out) == (5, True), done.out


def test_rows_on_a_terminal_that_cannot_say_them_stay_json(folder: Path) -> None:
    (folder / "docs").mkdir()
    (folder / "docs/page.txt").write_text("Rotate the key after a leak 🔑, and say who did it, when, and why.\n" * 3)
    argv = ("data", "build", "docs", "--without-questions", "--distractors", "0")
    plain, ascii_only = (
        muster(*argv, cwd=folder, PYTHONIOENCODING=encoding, PYTHONPATH=str(ROOT)) for encoding in ("utf-8", "ascii")
    )
    assert "🔑" in plain.out
    assert "🔑" not in ascii_only.out
    assert list(map(json.loads, ascii_only.out.splitlines())) == list(map(json.loads, plain.out.splitlines()))
