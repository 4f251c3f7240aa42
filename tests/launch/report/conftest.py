"""One browser and one run for all tests that only look."""

from collections.abc import Iterator

import pytest

from launch.rundir import RunDir
from tests.conftest import muster
from tests.launch.report.browser import Browser, browser
from tests.launch.report.written import evaluate, write_run


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with browser() as window:
        yield window


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run with its report."""
    place = write_run(tmp_path_factory.mktemp("runs") / "night", gpus=8)
    evaluate(place)
    done = muster("report", place.root)
    assert done.code == 0, done.err
    return place
