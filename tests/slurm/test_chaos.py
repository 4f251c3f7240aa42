"""Whatever is done to a run, it ends as the undisturbed one."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Workspace
from tests.slurm.chaos import SCENARIOS, Scenario, assert_the_same, disturbed, heal
from tests.slurm.cluster import Cluster
from tests.slurm.runs import Reader, SlurmRun

# Those that `make test` has time for; `make chaos` runs the others.
QUICK = ("rank-killed", "time-limit", "gpu-out-of-memory")


def _marked(scenario: Scenario) -> Any:
    marks = [] if scenario.name in QUICK else [pytest.mark.chaos]
    return pytest.param(scenario, id=scenario.name, marks=[*marks, pytest.mark.timeout(1200)])


@pytest.fixture(scope="module")
def nodes(real_slurm: None) -> Iterator[Cluster]:
    with Cluster(nodes=3) as cluster:
        yield cluster


@pytest.fixture
def cluster(nodes: Cluster) -> Iterator[Cluster]:
    """All its nodes up again after the test."""
    yield nodes
    nodes.slurm("scancel", "--user=root")
    heal(nodes)


@pytest.fixture(scope="module")
def undisturbed(nodes: Cluster, base_workspace: Workspace) -> SlurmRun:
    run = SlurmRun(nodes, base_workspace, "undisturbed-job").submit()
    assert run.ends() == "COMPLETED", nodes.output(run.job)
    return run


@pytest.mark.parametrize("scenario", [_marked(one) for one in SCENARIOS])
def test_a_fault(scenario: Scenario, cluster: Cluster, undisturbed: SlurmRun, workspace: Workspace) -> None:
    run = disturbed(scenario, cluster, workspace)
    with Reader(run) as reader:
        struck = scenario.strike(run)
        run.go_on()
        assert run.ends() == "COMPLETED", cluster.output(run.job)
    assert_the_same(run, undisturbed, scenario.tolerance)
    scenario.check(run)
    assert scenario.outcomes is None or tuple(run.outcomes()) == scenario.outcomes
    assert reader.looks > 10
    assert not reader.wrong
    assert run.job in reader.jobs, "started by hand, and known all the same"
    assert not {"failed", "interrupted"} & set(reader.states), "no fault of these is the end of the run"
    assert run.back_after(struck) >= 0
