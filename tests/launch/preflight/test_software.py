"""Packages: new enough, whole, and fit for torch's CUDA."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from launch.preflight import software
from tests.conftest import ROOT
from tests.launch.conftest import plan_of, spec_of
from tests.launch.preflight.conftest import ON_CPU, ON_GPUS, context


def test_the_installed_packages_are_new_enough() -> None:
    found = software.packages(context(ON_GPUS))
    assert (found.status, found.fix) == ("pass", "")
    assert list(found.values["versions"]) == ["torch", "transformers", "accelerate", "peft", "datasets", "bitsandbytes"]
    assert f"torch {version('torch')}" in found.evidence


def test_deepspeed_is_needed_for_zero_and_bitsandbytes_for_its_optimizer() -> None:
    spec = spec_of(cluster={"strategy": "zero3"}, training={"optimizer": "adamw_torch"})
    names = software.packages(context(plan_of(spec=spec))).values["versions"]
    assert "deepspeed" in names
    assert "bitsandbytes" not in names


def test_a_package_that_is_too_old_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(software.MINIMUM, "torch", "99.1")
    monkeypatch.setitem(software.MINIMUM, "no-such-package", "1.0")
    found = software.packages(context(ON_CPU))
    assert found.status == "fail"
    assert found.evidence == (
        f"torch {version('torch')} is older than 99.1; no-such-package is not installed (needs 1.0)"
    )
    assert found.fix == "pip install -U 'torch>=99.1' 'no-such-package>=1.0'"


def test_the_floors_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = dict(requirement.split(">=") for requirement in project["dependencies"])
    floors = {**software.MINIMUM, **dict([software.DEEPSPEED, software.BITSANDBYTES])}
    assert floors == {name: declared[name] for name in floors}


@pytest.mark.parametrize(
    ("cuda", "status"), [("12.8", "pass"), ("12.9", "pass"), ("13.0", "pass"), ("11.1", "pass"), ("10.2", "fail")]
)
def test_bitsandbytes_has_kernels_for_torch_s_cuda(cuda: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed one: kernels for 11.8 to 13.2. It takes the nearest of the same major version."""
    monkeypatch.setattr(software, "torch_build", lambda: ("2.13.0", cuda))
    found = software.bitsandbytes(context(ON_GPUS))
    assert found.status == status, found
    monkeypatch.setattr(software, "torch_build", lambda: ("2.13.0", None))
    assert software.bitsandbytes(context(ON_GPUS)).status == "unknown"


def test_bitsandbytes_is_looked_at_where_something_uses_it() -> None:
    plain = plan_of(spec=spec_of(training={"optimizer": "adamw_torch"}))
    assert software.without_bitsandbytes(context(plain)) == "nothing in this run uses bitsandbytes"
    assert software.without_bitsandbytes(context(ON_GPUS)) is None
    assert software.without_bitsandbytes(context(ON_CPU)) == "the plan trains on the CPU"


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CUDA toolkit whose nvcc says that it is 12.4."""
    (tmp_path / "bin").mkdir()
    nvcc = tmp_path / "bin/nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.4, V12.4.131'\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("DS_BUILD_FUSED_ADAM", "1")
    return tmp_path


@pytest.mark.parametrize(("cuda", "status"), [("12.8", "pass"), ("13.0", "fail"), (None, "unknown")])
def test_nvcc_is_of_torch_s_major_version(
    cuda: str | None, status: str, toolkit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(software, "torch_build", lambda: ("2.13.0", cuda))
    found = software.compiler(context(ON_GPUS))
    assert found.status == status
    if status == "fail":
        assert found.evidence == f"{toolkit}/bin/nvcc is CUDA 12.4, torch is built for 13.0"
        assert found.fix == "install the CUDA toolkit 13.0 and set CUDA_HOME, or unset DS_BUILD_FUSED_ADAM"


def test_nvcc_that_is_not_there(toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_HOME", str(toolkit / "gone"))
    found = software.compiler(context(ON_GPUS))
    assert (found.status, found.evidence) == ("fail", f"nvcc is not there (CUDA_HOME={toolkit}/gone)")


def test_nvcc_concerns_a_run_that_compiles(toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zero = context(plan_of(spec=spec_of(cluster={"strategy": "zero3"})))
    assert software.without_ops(zero) is None
    assert software.without_ops(context(ON_GPUS)) is not None
    monkeypatch.delenv("DS_BUILD_FUSED_ADAM")
    assert software.without_ops(zero) is not None
