"""The exit codes are a contract: scripts and schedulers read them."""

import re

import pytest

from launch import errors
from launch.errors import DataError, ExitCode, Mistake, MusterError, SpecError


def test_exit_codes() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "DONE": 0,
        "INTERNAL": 1,
        "USAGE": 2,
        "PREFLIGHT": 3,
        "NO_PLAN": 4,
        "DATA": 5,
        "GPU_MEMORY": 6,
        "NUMERICAL": 7,
        "COMMUNICATION": 8,
        "HOST": 9,
        "WORKER": 10,
        "STOPPED": 75,
    }


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn = dict(re.findall(r"-- (\w+) +(\d+) ", errors.__doc__ or ""))
    classes = {
        name: str(int(value.exit_code))
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, MusterError) and not name.startswith("_")
    }
    assert drawn == {name: code for name, code in classes.items() if name != "MusterError"}


@pytest.mark.parametrize("kind", [SpecError, DataError])
def test_mistakes_are_sorted_by_place_and_the_hidden_ones_counted(kind: type[SpecError]) -> None:
    error = kind(
        [Mistake("b", 1, 1, "x"), Mistake("a", 10, 1, "x"), Mistake("a", 9, 2, "x"), Mistake("a", 0, 0, "x")], 7
    )
    assert str(error) == "a: x\na:9:2: x\na:10:1: x\nb:1:1: x\nand 7 more"
