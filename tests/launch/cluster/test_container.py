"""A container's command lines to the letter; what is mounted, and which variables come along."""

from pathlib import Path
from typing import Any

import pytest

from launch.cluster.allocation import Allocation
from launch.cluster.container import NODE, Inside, inside, unmountable
from launch.errors import SpecError
from launch.plan import Plan
from launch.rundir import RunDir
from launch.spec.file import read_spec
from launch.supervise.srun import step_argv
from tests.conftest import ROOT
from tests.launch.conftest import plan_of, spec_of, write_model

GOLDEN = ROOT / "tests/golden/slurm"
JOB = Allocation(job="7", number=7, nodes=("n0", "n1"), restarts=0, cpus=16)
IMAGES = {
    "apptainer": {"image": "/images/muster.sif", "mounts": ["/scratch", "/ref:/reference:ro"]},
    "pyxis": {"image": "/images/muster.sqsh", "runtime": "pyxis", "python": "/opt/venv/bin/python"},
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a run, a model, data and a Hugging Face cache, each in a folder of its own."""
    for name in ("runs/demo", "data", "other", "hf/hub"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "other/rows.jsonl").touch()
    (tmp_path / "data/train.jsonl").symlink_to(tmp_path / "other/rows.jsonl")
    write_model(tmp_path / "model")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def plan(place: Path, container: dict[str, Any], device: str = "gpu") -> Plan:
    """Of the recipe, with the model and the data of `place`."""
    found = plan_of("2xA100-80GB", 2)
    spec = spec_of(
        str(place / "model"), data={"train": str(place / "data/train.jsonl")},
        slurm={"container": container, "environment": {"NCCL_SOCKET_IFNAME": "ib0"}},
    )  # fmt: skip
    topology = found.topology.model_copy(update={"device": device})
    return found.model_copy(update={"spec": spec, "topology": topology})


def within(place: Path, container: dict[str, Any], device: str = "gpu", resume: str = "auto", **outer: str) -> Inside:
    return inside(plan(place, container, device), RunDir(place / "runs/demo"), resume, outer)


@pytest.mark.parametrize("runtime", IMAGES)
def test_a_step_s_command_line_to_the_letter(place: Path, runtime: str) -> None:
    found = within(place, IMAGES[runtime], NCCL_DEBUG="INFO", HOME="/home/me", HF_HOME="/hf")
    argv = step_argv(JOB, found, ["n0", "n1"], "muster-1", "launch.supervise.node", "/runs/demo", 1)
    told = "\n".join(argv).replace(str(place), "/place") + "\n"
    assert told == (GOLDEN / f"step-{runtime}.argv").read_text()


def test_without_an_image_a_step_runs_on_the_node_itself(place: Path) -> None:
    found = within(place, {"mounts": ["/scratch"], "runtime": "pyxis"})
    assert found is NODE
    assert found.environment({"PYTHONPATH": "/ours", "A": "b"}) == {"PYTHONPATH": "/ours", "A": "b"}


def test_the_driver_is_there_for_gpus_alone(place: Path) -> None:
    on_gpu, on_cpu = (within(place, IMAGES["apptainer"], device) for device in ("gpu", "cpu"))
    assert [word for word in on_gpu.command if word not in on_cpu.command] == ["--nv"]
    on_gpu, on_cpu = (within(place, IMAGES["pyxis"], device) for device in ("gpu", "cpu"))
    assert on_gpu.environment({})["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert on_gpu.environment({"NVIDIA_VISIBLE_DEVICES": "0"})["NVIDIA_VISIBLE_DEVICES"] == "0"
    assert "NVIDIA_VISIBLE_DEVICES" not in on_cpu.environment({})


def test_packages_of_the_python_outside_stay_outside(place: Path) -> None:
    found = within(place, IMAGES["apptainer"])
    outer = {"PYTHONPATH": "/host/packages", "VIRTUAL_ENV": "/host", "NCCL_DEBUG": "INFO", "SLURM_NODEID": "1"}
    assert found.environment(outer) == {"NCCL_DEBUG": "INFO", "SLURM_NODEID": "1", "PYTHONNOUSERSITE": "1"}


def test_what_a_run_opens_is_mounted_at_its_own_path(place: Path) -> None:
    """Also what a symbolic link leads to, and a checkpoint of another run; not what does not lie on this disk."""
    (place / "earlier/checkpoints/step-000004").mkdir(parents=True)
    found = within(place, {"image": "/i.sif"}, resume=str(place / "earlier/checkpoints/step-000004"))
    names = ("data", "earlier/checkpoints/step-000004", "hf", "model", "other", "runs/demo")
    assert found.mounts == tuple(f"{place / name}:{place / name}" for name in names)


def test_a_folder_inside_another_comes_with_it(place: Path) -> None:
    nested = plan(place, {"image": "/i.sif"})
    data = nested.spec.data.model_copy(update={"train": f"{place}/model/**/*.json"})
    nested = nested.model_copy(update={"spec": nested.spec.model_copy(update={"data": data})})
    found = inside(nested, RunDir(place / "model/runs/new"))
    assert [each.partition(":")[0] for each in found.mounts] == [f"{place}/hf", f"{place}/model"]


def test_paths_that_cannot_be_mounted(place: Path) -> None:
    assert unmountable(["/a:/a", "/a:/b:ro", "/a,b:/a,b", "/a:b:/a:b"]) == ["/a,b:/a,b", "/a:b:/a:b"]


@pytest.mark.parametrize(
    ("container", "told"),
    [
        ("{mounts: [scratch]}", "slurm.container.mounts.0: 'scratch' is not allowed"),
        ("{mounts: ['/a:/b:rx']}", "slurm.container.mounts.0: '/a:/b:rx' is not allowed"),
        ("{image: a.sif, runtime: docker}", "runtime: 'docker' is not allowed; allowed: apptainer, pyxis"),
        ("{image: a.sif, runtime: pyxis}", "a.sif is an image of apptainer: runtime: apptainer, or an image"),
        ("{imag: a.sif}", "slurm.container.imag: unknown key. Did you mean 'image'?"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_what_is_allowed(tmp_path: Path, container: str, told: str) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("name: a\nmodel: {variant: qwen2.5-7b-instruct}\ndata: {train: t.jsonl}\n"
                    f"slurm:\n  container: {container}\n")  # fmt: skip
    (tmp_path / "t.jsonl").touch()
    with pytest.raises(SpecError) as error:
        read_spec(spec)
    assert told in str(error.value)


def test_a_relative_image_starts_at_the_file_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in a registry is no file. A site names the runtime, and a spec the image."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/site.yaml").write_text("slurm: {container: {image: site.sqsh, runtime: pyxis, mounts: [/s]}}")
    monkeypatch.setenv("MUSTER_SITE", str(tmp_path / "site/site.yaml"))
    (tmp_path / "t.jsonl").touch()
    spec = tmp_path / "spec.yaml"
    spec.write_text("name: a\nmodel: {variant: qwen2.5-7b-instruct}\ndata: {train: t.jsonl}\n")
    assert read_spec(spec).slurm.container.image == str(tmp_path / "site/site.sqsh")
    found = read_spec(spec, ["slurm.container.image=nvcr.io#nvidia/pytorch:25.01-py3"]).slurm.container
    assert (found.image, found.runtime, found.mounts) == ("nvcr.io#nvidia/pytorch:25.01-py3", "pyxis", ["/s"])
    assert read_spec(spec, ["slurm.container.image=./own.sqsh"]).slurm.container.image == str(tmp_path / "own.sqsh")
    assert read_spec(spec, ["slurm.container.image=null"]).slurm.container.image is None
