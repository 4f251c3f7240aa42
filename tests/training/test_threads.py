"""How long torch's threads on a CPU spin before they sleep: what libgomp has read when a worker has loaded torch."""

import re

import pytest

from tests.conftest import command


@pytest.fixture(autouse=True)
def nobody_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has imported `training`, too."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)


def spins(**environment: str) -> int:
    """What libgomp says of itself as it is loaded."""
    code = "import sys, training; assert 'torch' not in sys.modules; import torch"
    done = command("-c", code, OMP_DISPLAY_ENV="VERBOSE", **environment)
    assert done.code == 0, done.err
    told = re.search(r"GOMP_SPINCOUNT = '(\d+)'", done.err)
    assert told is not None, done.err
    return int(told[1])


def test_a_worker_s_threads_sleep_soon() -> None:
    assert spins() == 1000


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"GOMP_SPINCOUNT": "7"}, 7),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, 0),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, 30_000_000_000),
    ],
)
def test_the_environment_says_otherwise(environment: dict[str, str], expected: int) -> None:
    assert spins(**environment) == expected
