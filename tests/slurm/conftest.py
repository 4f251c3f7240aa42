"""A cluster for each test: it starts in less than a second, and no test meets what another one has broken."""

import os
from collections.abc import Iterator

import pytest

from tests.slurm.accounting import absent
from tests.slurm.cluster import Cluster, missing


def needs(reason: str | None) -> None:
    """Skips for this reason or, with MUSTER_REQUIRE_SLURM=1, fails; goes on without one."""
    if reason and os.environ.get("MUSTER_REQUIRE_SLURM") == "1":
        pytest.fail(f"MUSTER_REQUIRE_SLURM=1, but {reason}", pytrace=False)
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def real_slurm() -> None:
    """For a test that starts its own Cluster, where one can run."""
    needs(missing())


@pytest.fixture(scope="session")
def real_slurmdbd(real_slurm: None) -> None:
    """Likewise for an AccountedCluster."""
    needs(absent())


@pytest.fixture
def cluster(real_slurm: None) -> Iterator[Cluster]:
    """Three nodes of two CPUs and two GPUs (devices that do nothing). A test that fails shows its jobs and logs."""
    with Cluster(nodes=3, gpus_per_node=2) as started:
        yield started
        # pytest shows this of a failed test alone.
        print(started.slurm("squeue", "--states=all", check=False), started.logs())
        for path in sorted((started.directory / "jobs").glob("*.out")):
            print(f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}")
