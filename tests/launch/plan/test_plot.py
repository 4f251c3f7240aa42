"""Memory against sequence length: the numbers behind the lines, and the picture."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from launch.errors import UsageError
from launch.plan.plot import lengths, memory_curves, write_memory_plot
from launch.versions import NEWEST
from tests.launch.conftest import in_process as call
from tests.launch.conftest import plan_of, spec_of

SPEC = "name: demo\nmodel: {variant: qwen2.5-14b-instruct}\ndata: {train: train.jsonl, max_length: 4096}\n"
PLAN = plan_of("8xA100-80GB", 1, spec_of(data={"max_length": 2048}))


def test_each_line_is_a_way_to_run_and_passes_through_the_plan() -> None:
    """Those with as many checkpointed blocks as fit lie between two lines."""
    curves = memory_curves(PLAN, NEWEST)
    ways = [c for c in PLAN.candidates if c.checkpointed_layers in (0, 48)]
    assert len(ways) < len(PLAN.candidates)
    assert list(curves) == [(c.strategy, c.gradient_checkpointing) for c in ways]
    for candidate in ways:
        points = dict(curves[candidate.strategy, candidate.gradient_checkpointing])
        assert points[2048] == candidate.memory.process_bytes
        assert list(points.values()) == sorted(points.values())


def test_lengths_reach_four_times_the_spec_s_or_as_far_as_the_model() -> None:
    assert lengths(2000, 32768) == [256, 384, 512, 768, 1024, 1536, 2000, 2048, 3072, 4096, 6144]
    assert lengths(2048, 2048)[-1] == 2048
    assert lengths(100, 32768) == [100, 256, 384, 512, 768, 1024]


def test_the_picture_says_what_it_shows(tmp_path: Path) -> None:
    file = tmp_path / "memory.svg"
    write_memory_plot(PLAN, NEWEST, file)
    drawn = ElementTree.parse(file).getroot()
    texts = {text.strip() for element in drawn.iter() if (text := element.text or "").strip()}
    assert {"ddp, with checkpointing", "zero3, without checkpointing", "80% of A100-80GB", "2,048"} <= texts
    assert {"sequence length (tokens)", "memory of a device (GiB)"} <= texts
    first = file.read_bytes()
    write_memory_plot(PLAN, NEWEST, file)
    assert file.read_bytes() == first


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"allowed: a name that ends in \.svg, \.png, \.pdf"):
        write_memory_plot(PLAN, NEWEST, tmp_path / "memory.jpg")
    with pytest.raises(UsageError, match="cannot be written: No such file or directory"):
        write_memory_plot(PLAN, NEWEST, tmp_path / "missing" / "memory.svg")


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, file = tmp_path / "spec.yaml", tmp_path / "memory.svg"
    spec.write_text(SPEC)
    done = call(capsys, "plan", str(spec), "--gpus", "8xA100-80GB", "--plot", str(file), "--json")
    assert (done.code, json.loads(done.out)["strategy"]) == (0, "zero3")
    assert file.read_text().startswith("<?xml")
    done = call(capsys, "plan", str(spec), "--compare", "8xA100-80GB", "--plot", str(file))
    assert (done.code, done.err) == (
        2, "error: --plot and --compare: a picture is of one kind of GPUs; give it with --gpus\n",
    )  # fmt: skip
