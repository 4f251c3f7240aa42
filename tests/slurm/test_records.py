"""What a real Slurm says of jobs that end in its ways."""

import time
from collections.abc import Iterator

import pytest

from launch.diagnosis.records import slurm_hits
from tests.slurm.cluster import Cluster


@pytest.fixture(scope="module")
def cluster(real_slurm: None) -> Iterator[Cluster]:
    with Cluster(nodes=1) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def this_cluster(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(cluster.directory / "slurm.conf"))


def names(job: str) -> list[str]:
    hits, silent = slurm_hits(job)
    assert silent is None
    return [hit.known.name for hit in hits]


def test_a_job_that_was_cancelled(cluster: Cluster) -> None:
    job = cluster.submit("#!/bin/sh\nsleep infinity\n")
    cluster.wait(job, "RUNNING")
    cluster.slurm("scancel", job)
    cluster.wait(job, "CANCELLED")
    assert names(job) == ["cancelled"]
    (hit,), _ = slurm_hits(job)
    assert hit.file == f"scontrol {job}"  # this cluster keeps no accounting
    assert hit.time is not None
    assert abs(hit.time - time.time()) < 60


def test_a_job_that_ended_well_or_badly_by_itself_explains_nothing(cluster: Cluster) -> None:
    for code, state in ((0, "COMPLETED"), (3, "FAILED")):
        job = cluster.submit(f"#!/bin/sh\nexit {code}\n")
        cluster.wait(job, state)
        assert names(job) == []


def test_a_job_whose_node_failed(cluster: Cluster) -> None:
    job = cluster.submit("#!/bin/sh\nsleep infinity\n", "--no-requeue")
    cluster.wait(job, "RUNNING")
    node = cluster.job(job)["NodeList"]
    cluster.slurm("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    cluster.wait(job, "NODE_FAIL")
    assert names(job) == ["node-failure"]


def test_a_job_that_nobody_knows(cluster: Cluster) -> None:
    hits, silent = slurm_hits("999999")
    assert hits == []
    assert silent == "Slurm knows nothing of job 999999 any more"
