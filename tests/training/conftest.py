"""What tests of the training half share."""

from pathlib import Path

import pytest

from tests.conftest import Workspace, make_base


@pytest.fixture
def wide_base(workspace: Workspace) -> Workspace:
    """A base whose every width is a multiple of 64, as bitsandbytes' CPU kernels need and all real models have."""
    root = Path(workspace.root, "wide")
    root.mkdir()
    make_base(root / "base", intermediate_size=128)
    for name in ("train.jsonl", "eval.jsonl"):
        (root / name).symlink_to(workspace.root / name)
    return Workspace(root)
