"""The gates that .ci runs, so that they hold on a laptop as well."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT, environment

GATES = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "import-linter": ["lint-imports"],
}


@pytest.mark.parametrize("gate", GATES)
def test_gate(gate: str) -> None:
    program, *arguments = GATES[gate]
    path = Path(sys.executable).with_name(program)
    assert path.exists(), f"{program} is not installed beside {sys.executable}: pip install -e .[test]"
    done = subprocess.run([path, *arguments], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_oldest_environment_holds_the_oldest_libraries() -> None:
    """Those that pyproject.toml names; `.ci/oldest.txt` says how it is made."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    floors = dict(requirement.split(">=") for requirement in named if ">=" in requirement)
    lines = (ROOT / ".ci" / "oldest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    for name, floor in floors.items():
        if name == "torch":  # .ci/oldest installs it
            continue
        assert re.fullmatch(rf"{re.escape(floor)}(\.\d+)*", pinned[name]), f"{name}>={floor} but {pinned[name]}"
