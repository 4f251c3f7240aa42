"""File systems that do not answer, as real mounts."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.errors import PreflightError
from launch.mounts import refuse_hung
from tests.conftest import Workspace, muster
from tests.faults.hung import hung_mount


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system that hangs")
    with hung_mount(tmp_path / "dead") as place:
        yield place


def test_places_that_answer_whether_they_are_there_or_not(tmp_path: Path) -> None:
    refuse_hung({"data.train": tmp_path, "data.eval": tmp_path / "none/*.jsonl", "model.variant": "a" * 5000})


def test_each_place_that_hangs_is_named_and_the_others_are_not(hung: Path, tmp_path: Path) -> None:
    with pytest.raises(PreflightError) as caught:
        refuse_hung({"data.train": hung / "rows/*.jsonl", "model.variant": tmp_path, "lora.adapter": hung}, seconds=3)
    assert str(caught.value).splitlines() == [
        f"data.train: {hung}/rows/*.jsonl has not answered within 3 s",
        f"lora.adapter: {hung} has not answered within 3 s",
        "the file system hangs (df, mount, dmesg): mend it, or use another",
    ]


@pytest.mark.parametrize(
    ("command", "option", "value", "what"),
    [
        ("plan", "-s", "data.train={}/train.jsonl", "data.train"),
        ("preflight", "-s", "model.variant={}/model", "model.variant"),
        ("preflight", "--run-dir", "{}/run", "the run directory"),
    ],
)
def test_a_command_ends_where_a_mount_hangs(
    command: str, option: str, value: str, what: str, hung: Path, workspace: Workspace
) -> None:
    """Dead storage is told in seconds; nobody has to kill a shell."""
    done = muster(command, workspace.spec("demo"), option, value.format(hung))
    assert (done.code, f"{what}: {hung}" in done.err) == (3, True), done.err


@pytest.mark.parametrize("command", ["plan", "preflight"])
def test_a_spec_that_lies_there_itself(command: str, hung: Path) -> None:
    done = muster(command, hung / "spec.yaml")
    assert (done.code, f"the spec: {hung}/spec.yaml has not answered" in done.err) == (3, True), done.err
