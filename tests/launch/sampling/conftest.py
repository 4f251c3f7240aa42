"""The sampler as a process of its own, on machines that tests/fake_nvml pretends."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import fake_nvml
from tests.conftest import ROOT, environment, read_rows


class Sampling:
    """`python -m launch.sampling`, started as a worker starts it."""

    def __init__(self, run: Path, variables: dict[str, str], *options: object):
        run.mkdir(parents=True, exist_ok=True)
        self.file, self.log = run / "resources.jsonl", run / "stderr"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "launch.sampling", str(run), *map(str, options), "--parent", str(os.getpid())],
                stdin=subprocess.PIPE, stderr=log, env=environment(**variables), cwd=ROOT,
            )  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.file) if self.file.exists() else []

    def of(self, gpu: int | None) -> list[dict[str, Any]]:
        return [row for row in self.rows() if row["gpu"] == gpu]

    def until(self, reached: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.rows()[-8:]
            time.sleep(0.02)

    def cpu_seconds(self) -> float:
        """Of a core, in user and in kernel mode, since it began. Finer than /proc/PID/stat, which counts ticks."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) / 1e9

    def said(self) -> str:
        return self.log.read_text()

    def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fake-nvml")


@pytest.fixture
def sampling(cache: Path, tmp_path: Path) -> Iterator[Callable[..., Sampling]]:
    """sampling(scenario, changes of it, options...), or with None on a machine without a driver."""
    started: list[Sampling] = []

    def start(
        scenario: str | None, changes: dict[str, object] | None = None, *options: object, **variables: str
    ) -> Sampling:
        driver = fake_nvml.environment(cache, scenario, changes) if scenario else {}
        started.append(Sampling(tmp_path / f"run-{len(started)}", {**driver, **variables}, *options))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
