"""A run whose nodes train in a container, on a real Slurm. stand_in/apptainer takes the place of Apptainer: it mounts
and hides as that does. pyxis is a plugin of Slurm that cannot be built here: of it the command lines alone are tested
(tests/launch/cluster/test_container.py)."""

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import ROOT, Workspace, muster, variables_of
from tests.slurm.chaos import NOTICED_SOON, assert_the_same, stop_supervisor
from tests.slurm.cluster import Cluster
from tests.slurm.runs import STEPS, SlurmRun
from tests.slurm.test_in_job import MISSED

STAND_IN = ROOT / "tests/slurm/stand_in"


@pytest.fixture(scope="module")
def cluster(real_slurm: None) -> Iterator[Cluster]:
    with Cluster(nodes=2) as started:
        yield started


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Debian, this Python and muster; the folder that the runs are in is not a part of it."""
    place = tmp_path / "muster.sif"
    (place / "root").mkdir(parents=True)
    system = ["/usr", "/bin", "/lib", "/lib64", "/etc", sys.base_prefix, sys.prefix, str(ROOT)]
    (place / "contents").write_text("".join(f"{path}\n" for path in system if Path(path).exists()))
    variables = {"PATH": f"{sys.prefix}/bin:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "IN_THE_IMAGE": "yes"}
    (place / "environment").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    return place


@pytest.mark.timeout(600)
def test_a_run_in_a_container_ends_as_one_on_the_nodes_themselves(
    cluster: Cluster, image: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes: asked and trained on, all of it inside."""
    plain = SlurmRun(cluster, workspace, "plain").submit()
    assert plain.ends() == "COMPLETED", cluster.output(plain.job)
    monkeypatch.setenv("PATH", f"{STAND_IN}:{sys.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    boxed = SlurmRun(cluster, workspace, "boxed", sections={"slurm": {"container": {"image": str(image)}}}).submit()
    boxed.at_step(2)
    seen = {name: ranks_of(cluster, name) for name in cluster.names}
    assert boxed.ends() == "COMPLETED", cluster.output(boxed.job)
    for node, found in seen.items():
        assert found, f"no rank on {node}"
        expected = {"IN_THE_IMAGE": "yes", "PYTHONNOUSERSITE": "1"}
        assert all(expected.items() <= variables.items() for variables, _ in found)
        assert not any("opt" in folders for _, folders in found), "the node's own file system is seen"
    assert_the_same(boxed, plain, 0.0)
    checks = json.loads((boxed.root / "preflight.json").read_text())["checks"]
    assert {check["status"] for check in checks if check["name"] == "fleet-directory"} <= {"pass", "skipped"}


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_supervisor_that_hangs_is_missed_from_outside_of_the_containers(
    cluster: Cluster, image: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In there is no scontrol that could give the job back."""
    monkeypatch.setenv("PATH", f"{STAND_IN}:{sys.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    sections = {"slurm": {"container": {"image": str(image)}}, **NOTICED_SOON}
    run = SlurmRun(cluster, workspace, "hung", sections=sections).submit()
    stop_supervisor(run.at_step(6))
    assert run.ends() == "COMPLETED", cluster.output(run.job)
    assert run.events("requeued")[0]["reason"] in MISSED
    assert [row["step"] for row in run.rows("samples.jsonl")] == list(range(1, STEPS + 1))
    cluster.wait_until(lambda: not any("launch.supervise.sentry" in words for name in cluster.names
                                       for words in cluster.processes(name).values()), "no sentry left")  # fmt: skip


def ranks_of(cluster: Cluster, node: str) -> list[tuple[dict[str, str], list[str]]]:
    """Environment and root folder of each worker on a node."""
    found = []
    for pid, words in cluster.processes(node).items():
        if "training" in words and "accelerate" not in str(words):
            with suppress(FileNotFoundError):  # it may end while it is looked at
                found.append((variables_of(pid), [path.name for path in Path(f"/proc/{pid}/root").iterdir()]))
    return found


def test_nodes_without_the_runtime_say_so(cluster: Cluster, image: Path, workspace: Workspace) -> None:
    run = SlurmRun(cluster, workspace, "none", sections={"slurm": {"container": {"image": str(image)}}}).submit()
    assert run.ends(seconds=180) == "FAILED"
    assert run.exit_code() == 3
    told = cluster.output(run.job)
    assert "cannot answer: slurmstepd-n0: error: execve(): apptainer: No such file or directory" in told


def test_submit_looks_for_the_image_and_for_what_starts_it(
    cluster: Cluster, image: Path, workspace: Workspace, tmp_path: Path
) -> None:
    spec = workspace.spec(slurm={"partition": "main", "time": "5"}, cluster={"device": "cpu"},
                          preflight={"accept": ["slurm-shared"]})  # fmt: skip
    here = {"SLURM_CONF": f"{cluster.directory}/slurm.conf"}
    path = f"{STAND_IN}:{sys.prefix}/bin:/usr/bin:/bin"

    def told(*words: str, **variables: str) -> str:
        keys = [part for word in words for part in ("-s", f"slurm.container.{word}")]
        return muster("submit", spec, "--dry-run", *keys, cwd=tmp_path, **here, **variables).err

    assert f"{tmp_path}/no.sif: no such image" in told("image=./no.sif")
    assert "slurm-container: apptainer is not on PATH here. slurm.modules: [apptainer]" in told(f"image={image}")
    assert f"apptainer starts {image}, which sees {tmp_path}" in told(f"image={image}", PATH=path, COLUMNS="400")
    missing = told("image=nvcr.io#nvidia/pytorch:25.01-py3", "runtime=pyxis")
    assert "slurm-container: srun here has no --container-image: Slurm has no pyxis" in missing
