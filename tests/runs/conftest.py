"""What several files of runs begin with."""

import pytest

from tests.conftest import Workspace, make_base


@pytest.fixture(scope="module")
def wide(base_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A base whose every width is a multiple of 64, as bitsandbytes' CPU kernels need and all real models have."""
    root = tmp_path_factory.mktemp("wide")
    make_base(root / "base", intermediate_size=128)
    for name in ("train.jsonl", "eval.jsonl"):
        (root / name).symlink_to(base_workspace.root / name)
    return Workspace(root)
