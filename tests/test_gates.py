"""The gates that .ci runs, so that they hold on a laptop as well."""

import subprocess
import sys
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
