"""A run's job.json."""

from pathlib import Path

import pytest

from launch.cluster.job import recorded
from launch.rundir import RunDir


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff\xfe", b"null"])
def test_a_damaged_record_is_none(tmp_path: Path, content: bytes) -> None:
    RunDir(tmp_path).job.write_bytes(content)
    assert recorded(RunDir(tmp_path)) is None
