"""Which storage other machines see, by the kernel's list of mounts."""

from pathlib import Path

import pytest

from launch.cluster import storage
from launch.cluster.storage import storage_of


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home/me").mkdir(parents=True)
    (tmp_path / "my data").mkdir()
    lines = [
        "overlay / overlay rw 0 0",
        f"server:/export {tmp_path}/home nfs4 rw 0 0",
        f"/dev/sda1 {str(tmp_path / 'my data').replace(' ', chr(92) + '040')} ext4 rw 0 0",
    ]
    (tmp_path / "mounts").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(storage, "MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(storage, "EXPORTS", tmp_path / "etab")
    return tmp_path


def test_a_file_system_of_the_network(mounts: Path) -> None:
    found = storage_of(mounts / "home/me/not/yet/there")
    assert found == (str(mounts / "home"), "nfs4", "server:/export", True)


def test_a_disk_of_this_machine_alone(mounts: Path) -> None:
    assert storage_of(mounts / "my data/run")[1:] == ("ext4", "/dev/sda1", False)
    assert storage_of(mounts).kind == "overlay"


def test_a_disk_that_this_machine_exports(mounts: Path) -> None:
    (mounts / "etab").write_text(f"{mounts}/my data\t10.0.0.0/8(rw,sync)\n")
    assert storage_of(mounts / "my data/run").shared is True
    assert storage_of(mounts).shared is False


def test_a_kind_that_does_not_tell(mounts: Path) -> None:
    (mounts / "mounts").write_text("x / fuse.something rw 0 0\n")
    assert storage_of(mounts).shared is None
