"""muster plan --compare: kinds of GPUs side by side."""

import json
from pathlib import Path

import pytest

from launch.wording import span
from tests.launch.conftest import in_process as call
from tests.launch.conftest import plan_of, spec_of

SPEC = "name: demo\nmodel: {variant: qwen2.5-14b-instruct}\ndata: {train: train.jsonl, max_length: 2048}\n"


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return str(path)


def test_each_row_is_the_plan_for_its_gpus(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", spec, "--compare", "8xA100-80GB, 8xRTX4090-24GB", "--nodes", "2", "--json")
    assert (done.code, done.err) == (0, "")
    large, small = json.loads(done.out)
    plan = plan_of("8xA100-80GB", 2, spec_of(data={"max_length": 2048}, cluster={"nodes": 2}))
    assert (large["gpus"], large["strategy"], large["global_batch_size"]) == ("8xA100-80GB", plan.strategy, 256)
    assert (large["process_bytes"], large["why"]) == (plan.memory.process_bytes, plan.reason)
    assert (small["gpus"], small["strategy"]) == ("8xRTX4090-24GB", None)
    assert small["why"].startswith("no plan fits 2 x 8 RTX4090-24GB with 23.6 GiB each: ")


def test_what_a_spec_s_own_nodes_say_of_its_batch_holds_on_others(
    spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """2 x 8 devices x 4 x 4: --nodes says what is planned for, not what the spec asks for."""
    asked = (
        "-s",
        "cluster.nodes=2",
        "-s",
        "cluster.devices_per_node=8",
        "-s",
        "model.quantization=nf4",
        "--nodes",
        "1",
    )
    one = json.loads(call(capsys, "plan", spec, *asked, "--gpus", "1xA100-80GB", "--json").out)
    assert (one["world_size"], one["global_batch_size"]) == (1, 256)
    assert one["notes"] == ["one device instead of 16: the global batch of 256, schedule and order of samples are kept"]
    eight = call(capsys, "plan", spec, *asked, "--gpus", "8xA100-80GB", "--json")
    assert json.loads(eight.out)["world_size"] == 8
    assert "the global batch is 128 on 8 devices, 256 on the 16 that the spec asks for" in eight.err
    (row,) = json.loads(call(capsys, "plan", spec, *asked, "--compare", "1xA100-80GB", "--json").out)
    assert row["global_batch_size"] == 256


def test_a_kind_that_is_not_known_is_this_option_s(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", spec, "--compare", "8xA100-80GB,8xH10-80GB")
    assert done.code == 2
    assert done.err.startswith("error: --compare 8xH10-80GB: not COUNTxTYPE with a known type. Did you mean H100-80GB?")


def test_for_people(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", spec, "--compare", "8xA100-80GB,T4-16GB")
    assert done.code == 0
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[0] == ["GPUs", "strategy", "recompute", "batch", "per", "device", "tokens/s", "duration"]
    assert lines[1][:4] == ["8xA100-80GB", "ddp", "42/48", "128"]
    assert lines[1][-1] == "-"  # there are no rows to tell by
    assert lines[2] == ["T4-16GB", "-", "-", "-", "does", "not", "fit", "-", "-"]
    assert "another global batch" not in done.out
    assert "T4-16GB: no plan fits 1 x 1 T4-16GB" in done.out


def test_how_long_it_takes_and_which_row_is_another_training(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    gpus = ("--compare", "8xA100-80GB,4xA100-80GB,8xH100-80GB", "-s", "training.max_steps=100")
    rows = json.loads(call(capsys, "plan", spec, *gpus, "--json").out)
    assert [row["other_batch"] for row in rows] == [False, True, False]
    for row in rows:
        assert row["duration_seconds"] == pytest.approx(100 * row["throughput"]["step_seconds"], abs=0.1)
    done = call(capsys, "plan", spec, *gpus)
    lines = done.out.splitlines()
    assert [line.split()[3] for line in lines[1:4]] == ["128", "64*", "128"]
    assert [" ".join(line.split()[-2:]) for line in lines[1:4]] == [span(row["duration_seconds"]) for row in rows]
    assert "* another global batch than 8xA100-80GB, which is another training" in done.out
    kept = call(capsys, "plan", spec, *gpus, "-s", "training.global_batch_size=128", "--json")
    assert {(row["global_batch_size"], row["other_batch"]) for row in json.loads(kept.out)} == {(128, False)}


def test_the_batch_that_is_advised_is_one_that_every_row_can_share(
    spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus = ("--compare", "8xA100-80GB,6xA100-80GB")
    told = " ".join(call(capsys, "plan", spec, *gpus).out.split())
    asked = "training.global_batch_size: 120 is the nearest that they can"
    assert f"is another training: they cannot all share that; {asked}" in told
    kept = call(capsys, "plan", spec, *gpus, "-s", "training.global_batch_size=120", "--json")
    assert [row["global_batch_size"] for row in json.loads(kept.out)] == [120, 120]


def test_the_advised_batch_is_said_with_the_keys_that_it_takes_the_place_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = "training: {micro_batch_size: 3, gradient_accumulation_steps: 5}\n"
    bare = tmp_path / "bare.yaml"
    bare.write_text("name: demo\nmodel: {variant: qwen2.5-7b}\ndata: {train: a.jsonl, max_length: 1024}\n")
    stated = tmp_path / "stated.yaml"
    stated.write_text(bare.read_text() + given)
    gpus = ("--compare", "7xA100-80GB,8xH100-80GB")
    told = " ".join(call(capsys, "plan", str(stated), *gpus).out.split())
    instead = "in place of gradient_accumulation_steps and micro_batch_size"
    assert f"training.global_batch_size: 112 {instead} is the nearest that they can" in told
    kept = call(capsys, "plan", str(bare), *gpus, "-s", "training.global_batch_size=112", "--json")
    assert [row["global_batch_size"] for row in json.loads(kept.out)] == [112, 112]


def test_gpus_that_cannot_share_the_batch_are_a_row_as_well(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    gpus = ("--compare", "8xA100-80GB,7xA100-80GB", "-s", "training.global_batch_size=128")
    fits, odd = json.loads(call(capsys, "plan", spec, *gpus, "--json").out)
    assert (fits["strategy"], fits["global_batch_size"]) == ("ddp", 128)
    assert (odd["gpus"], odd["strategy"]) == ("7xA100-80GB", None)
    assert odd["why"].endswith("micro-batches of 1 on 7 devices; nearest that can: 126 or 133")
    shown = call(capsys, "plan", spec, *gpus)
    assert shown.code == 0
    assert shown.out.splitlines()[2].split() == ["7xA100-80GB", "-", "-", "-", "cannot", "run", "-", "-"]
    alone = call(capsys, "plan", spec, "--compare", "7xA100-80GB,9xA100-80GB", "-s", "training.global_batch_size=128")
    assert alone.code == 2
    assert "on 7 devices" in alone.err


def test_a_type_that_is_unknown(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", spec, "--compare", "8xA100-80GB,8xA800")
    assert (done.code, done.out) == (2, "")
    assert "8xA800: not COUNTxTYPE with a known type" in done.err


def test_two_answers_to_one_question(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", spec, "--compare", "8xA100-80GB", "--gpus", "8xA100-80GB")
    expected = "error: --gpus and --compare: only one says what to plan for; give all kinds with --compare\n"
    assert (done.code, done.out, done.err) == (2, "", expected)
    done = call(capsys, "plan", spec, "--compare", "8xA100-80GB", "--render", "torchrun")
    expected = "error: --compare and --render: a launcher takes one plan; give one of them\n"
    assert (done.code, done.out, done.err) == (2, "", expected)


@pytest.mark.parametrize("kinds", ["", "8xA100-80GB,,4xL40S-48GB", "8xA100-80GB, "])
def test_a_kind_that_is_left_out(kinds: str, spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "plan", spec, "--compare", kinds)
    assert (done.code, done.out) == (2, "")
    assert f"--compare {kinds}: a kind of GPUs between commas" in done.err
