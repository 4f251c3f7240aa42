"""Driver, CUDA and torch: which go together."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from launch.plan.kernels import FLASH_PACKAGES
from launch.preflight import driver, installed_torch, kernel
from launch.preflight.driver import FLOOR, TOOLKIT, Architectures, judge_driver
from launch.preflight.installed_torch import there
from launch.preflight.kernel import FATAL, xids
from tests.conftest import ROOT, command
from tests.launch.preflight.conftest import ON_GPUS, context

FAKE = """
import json, sys
from launch.preflight import driver
from launch.preflight.selftest import gpus as selftest
{before}
print(json.dumps(driver.{check}(selftest.context_for("{gpus}")).model_dump()))
"""


def asked(check: str, scenario: str, tmp_path: Path, gpus: str = "8xA100-40GB", before: str = "") -> dict[str, Any]:
    """One check of a simulated machine, in a process that loads its driver."""
    from tests import fake_nvml

    variables = fake_nvml.environment(tmp_path, scenario)
    done = command("-c", FAKE.format(check=check, gpus=gpus, before=before), **variables)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out.splitlines()[-1])
    return found


# Driver against torch's CUDA


@pytest.mark.parametrize(
    ("installed", "cuda", "status"),
    [
        ("450.80.02", "11.8", "warn"),
        ("450.80.01", "11.8", "fail"),
        ("520.61.05", "11.8", None),
        ("525.60.12", "12.4", "fail"),
        ("525.60.13", "12.4", "warn"),
        ("550.54.14", "12.4", None),
        ("580.65.05", "13.0", "fail"),
        ("580.65.06", "13.0", None),
        ("580.65.06", "13.1", "warn"),
        ("590.44.01", "13.1", None),
        ("570.26", "12.8", None),
        ("590.44.01", "13.4", "warn"),  # a toolkit that the table does not have
        ("999.1", "14.0", "unknown"),
    ],
)
def test_a_driver_is_judged_by_both_tables(installed: str, cuda: str, status: str | None) -> None:
    found = judge_driver(installed, cuda, newest="13.1")
    assert (found and found[0]) == status
    if found and status != "unknown":
        assert installed in found[1]
        assert cuda in found[1]


def test_a_toolkit_s_own_driver_is_never_below_the_floor_of_its_major_version() -> None:
    from launch.versions import release

    assert all(release(own) >= release(FLOOR[int(cuda.split(".")[0])]) for cuda, own in TOOLKIT.items())


def test_the_driver_and_what_torch_was_built_for(tmp_path: Path) -> None:
    before = "driver.torch_build = lambda: ('2.13.0', '13.1')"
    found = asked("loaded", "a100x8", tmp_path, before=before)
    assert found["values"]["torch_cuda"] == "13.1"
    assert found["status"] in ("warn", "fail")
    assert "CUDA 13.1" in found["evidence"]
    assert found["fix"].startswith("upgrade the driver")


# torch


def test_torch_s_build_is_read_from_its_files() -> None:
    import torch

    version, cuda = driver.torch_build()
    # A CUDA build calls itself 2.11.0 in its metadata and 2.11.0+cu130 in its module.
    assert version is not None
    assert (version.partition("+")[0], cuda) == (torch.__version__.partition("+")[0], torch.version.cuda)


def test_a_torch_for_the_cpu_fails_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "torch_build", lambda: ("2.13.0+cpu", None))
    assert driver.build(context(ON_GPUS)).evidence == "torch 2.13.0+cpu is built for the CPU alone"
    monkeypatch.setattr(driver, "torch_build", lambda: ("2.13.0", "12.8"))
    assert driver.build(context(ON_GPUS)).status == "pass"
    monkeypatch.setattr(driver, "torch_build", lambda: (None, None))
    assert driver.build(context(ON_GPUS)).status == "fail"


@pytest.mark.parametrize(
    ("capability", "names", "runs"),
    [
        ((8, 0), ["sm_80"], True),
        ((8, 9), ["sm_80", "sm_90"], True),  # a later minor version of the same major
        ((8, 6), ["sm_89"], False),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["sm_80", "compute_80"], True),  # PTX
        ((7, 0), ["sm_75", "sm_80", "compute_90"], False),
        ((12, 0), ["sm_120"], True),
        ((9, 0), ["sm_90a"], True),
        ((10, 3), ["sm_90", "sm_100a"], False),  # for 10.0 alone
        ((10, 3), ["sm_100f"], True),  # for its family
        ((10, 0), ["compute_90a"], False),
        ((12, 0), ["compute_100f"], False),
        ((8, 0), [], False),
    ],
)
def test_which_gpus_a_build_has_kernels_for(capability: tuple[int, int], names: list[str], runs: bool) -> None:
    assert Architectures(names).runs(capability) is runs


def test_gpus_that_torch_has_no_kernel_for(tmp_path: Path) -> None:
    before = "driver.ask_torch = lambda: {'architectures': ['sm_75', 'sm_80', 'sm_86']}"
    old = asked("architectures", "v100x2", tmp_path, "2xV100-32GB", before)
    assert (old["status"], old["evidence"]) == ("fail", "GPUs 0, 1: torch has no kernel for compute capability 7.0")
    assert asked("architectures", "a100x8", tmp_path, before=before)["status"] == "pass"


def test_a_torch_that_cannot_be_imported_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = driver.architectures(context(ON_GPUS))
    assert (found.status, found.evidence) == (
        "fail",
        "torch cannot be imported: ImportError: libcudart.so.12: cannot open shared object file",
    )
    assert driver.nccl(context(ON_GPUS)).status == "unknown"
    assert driver.torch_build()[0] is not None  # its files still tell its version


def test_a_torch_that_takes_too_long_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cold storage is slow: that is no reason to call it broken."""
    (tmp_path / "torch.py").write_text("import time; time.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(installed_torch, "ASK_SECONDS", 0.5)
    assert driver.architectures(context(ON_GPUS)).status == "unknown"


def test_the_real_torch_answers() -> None:
    import torch

    found = driver.ask_torch()
    assert isinstance(found, dict)
    assert found["cuda"] == torch.version.cuda


@pytest.mark.parametrize(
    ("scenario", "gpus", "status"), [("a100x8", "8xA100-40GB", "pass"), ("v100x2", "2xV100-32GB", "fail")]
)
def test_bf16_needs_compute_capability_8(scenario: str, gpus: str, status: str, tmp_path: Path) -> None:
    before = (
        "context = selftest.context_for; selftest.context_for = lambda gpus: (lambda c: c.model_copy(update={'plan':"
        " c.plan.model_copy(update={'precision': 'bf16'})}))(context(gpus))"
    )
    assert asked("precision", scenario, tmp_path, gpus, before)["status"] == status


@pytest.mark.parametrize(
    ("kernels", "scenario", "gpus", "there", "status", "evidence"),
    [
        ("fa3", "h100x8", "8xH100-80GB", True, "pass", "flash_attn_interface is there, and made for them"),
        ("fa3", "h100x8", "8xH100-80GB", False, "fail", "flash_attn_interface, which has the kernels of fa3, is not"),
        ("fa4", "h100x8", "8xH100-80GB", True, "pass", "flash_attn.cute.interface is there"),
        ("fa4", "h100x8", "8xH100-80GB", False, "fail", "flash_attn.cute.interface, which has the kernels of fa4, is"),
        ("fa3", "a100x8", "8xA100-40GB", True, "fail", "fa3 has no kernel for compute capability 8.0"),
        ("torch", "a100x8", "8xA100-40GB", False, "skipped", "torch's own kernels are used"),
    ],
)
def test_a_package_of_flash_attention_and_the_gpus_that_it_is_for(
    kernels: str, scenario: str, gpus: str, there: bool, status: str, evidence: str, tmp_path: Path
) -> None:
    (tmp_path / "flash_attn").mkdir()  # FlashAttention-2, which has no part of 4
    (tmp_path / "flash_attn/__init__.py").touch()
    if there:
        file = tmp_path / f"{FLASH_PACKAGES[kernels][0].replace('.', '/')}.py"  # type: ignore[index]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    before = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "context = selftest.context_for\n"
        "def changed(gpus):\n"
        "    found = context(gpus)\n"
        f"    model = found.plan.spec.model.model_copy(update={{'flash_attention': {kernels!r}}})\n"
        "    spec = found.plan.spec.model_copy(update={'model': model})\n"
        "    return found.model_copy(update={'plan': found.plan.model_copy(update={'spec': spec})})\n"
        "selftest.context_for = changed"
    )
    if status == "skipped":
        assert driver.without_flash_package(context(ON_GPUS)) == evidence
        return
    found = asked("flash_attention", scenario, tmp_path, gpus, before)
    assert found["status"] == status
    assert evidence in found["evidence"]
    assert bool(found["fix"]) == (status == "fail")


def test_a_module_inside_a_package_that_has_it_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FlashAttention 2 is a flash_attn without flash_attn.cute. What breaks on import is there all the same."""
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "flash_attn"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    assert there("flash_attn")
    assert not there("flash_attn.cute.interface")
    (package / "cute").mkdir()
    assert not there("flash_attn.cute.interface")
    (package / "cute/interface.py").touch()
    assert there("flash_attn.cute.interface")
    assert not there("flash_attn.cute.interface.more")
    assert not there("flash_attn_interface")


@pytest.mark.parametrize(("cuda", "wheel"), [("12.8", "2.27.5"), ("13.0", "2.28.9"), (None, "2.28.9")])
def test_the_wheel_of_torch_s_own_cuda(cuda: str | None, wheel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that were installed one after the other."""
    monkeypatch.setattr(installed_torch, "torch_build", lambda: ("2.13.0", cuda))
    monkeypatch.setattr(
        installed_torch, "version", {"nvidia-nccl-cu12": "2.27.5", "nvidia-nccl-cu13": "2.28.9"}.__getitem__
    )
    assert installed_torch.nccl_wheel() == wheel


def test_another_nccl_than_torch_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "ask_torch", lambda: {"nccl": "2.18.3", "libraries": ["/opt/lib/libnccl.so.2"]})
    monkeypatch.setattr(driver, "nccl_wheel", lambda: "2.29.1")
    found = driver.nccl(context(ON_GPUS))
    assert (found.status, found.evidence) == (
        "warn",
        "NCCL 2.18.3 (/opt/lib/libnccl.so.2) is loaded, the wheel beside torch is 2.29.1",
    )
    monkeypatch.setattr(driver, "nccl_wheel", lambda: "2.18.3")
    assert driver.nccl(context(ON_GPUS)).status == "pass"


def test_cuda_compat_first_on_the_path(tmp_path: Path) -> None:
    place = tmp_path / "cuda/compat"
    place.mkdir(parents=True)
    (place / "libcuda.so.550.54.14").touch()
    before = f"import os; os.environ['LD_LIBRARY_PATH'] = '{place}:' + os.environ['LD_LIBRARY_PATH']"
    assert asked("compat", "a100x8", tmp_path, before=before)["status"] == "warn"
    assert asked("compat", "a100x8", tmp_path)["status"] == "pass"

    consumer = "include t4x1.scenario\ngpu.*.name = NVIDIA GeForce RTX 4090\n"
    found = asked("compat", consumer, tmp_path, "1xT4-16GB", before)
    assert found["status"] == "fail"
    assert "does not serve GPU 0: NVIDIA GeForce RTX 4090" in found["evidence"]


@pytest.mark.parametrize(("newest", "status"), [(11070, "fail"), (12080, "warn")])
def test_an_old_driver_that_a_compatibility_library_makes_up_for(newest: int, status: str, tmp_path: Path) -> None:
    """NVML tells the CUDA version of the libcuda that is first on the path."""
    scenario = f"include driver-too-old.scenario\ncuda = {newest}\n"
    found = asked("loaded", scenario, tmp_path, before="driver.torch_build = lambda: ('2.11.0', '12.8')")
    assert found["status"] == status
    assert "driver 515.65.01 is older than 525.60.13, which CUDA 12.8 needs" in found["evidence"]
    assert ("a compatibility library runs CUDA up to 12.8 here" in found["evidence"]) == (status == "warn")


# Xid errors

LOG = """\
6,1200,5000000,-;NVRM: loading NVIDIA UNIX x86_64 Kernel Module  580.65.06
3,1201,60000000,-;NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.
3,1202,61000000,-;NVRM: Xid (PCI:0000:5e:00): 31, pid=1234, name=python3, Ch 00000008, MMU Fault
3,1203,90000000,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus.
 SUBSYSTEM=pci
"""


def test_fatal_xids_are_found_once_with_their_age() -> None:
    """31 is an application's own fault."""
    assert [str(xid) for xid in xids(LOG, uptime=3690.0)] == [
        "Xid 79 (GPU has fallen off the bus) at PCI 0000:3b:00, 1.0 h ago"
    ]
    assert not FATAL.keys() & {13, 31, 43, 45, 68}


def test_an_error_of_a_slice_is_one_of_its_gpu() -> None:
    """The kernel's log names the slice of a divided GPU after its address."""
    log = "3,1,60000000,-;NVRM: Xid (PCI:0000:3B:00 GPU-I:05): 94, pid=77, name=python3, Contained: SM (0x1)\n"
    (found,) = xids(log, uptime=60.0)
    assert (found.number, kernel.place(found.pci)) == (94, "0000:3b:00")


XIDS = """
import json, time
from launch.preflight import kernel
from launch.preflight.selftest import gpus as selftest
kernel.read_log = lambda: "3,1,{now},-;NVRM: Xid (PCI:0000:{bus}:00): 79, pid=1, GPU has fallen off the bus.\\n"
print(json.dumps(kernel.fatal_errors(selftest.context_for("{gpus}")).model_dump()))
"""


@pytest.mark.parametrize(
    ("gpus", "bus", "scenario", "status", "told"),
    [
        ("8xH100-80GB", "3b", "h100x8", "fail", ", 0.0 h ago"),
        ("1xH100-80GB", "19", "h100x8", "fail", ", 0.0 h ago"),
        ("1xH100-80GB", "3b", "h100x8", "warn", ", 0.0 h ago, a GPU that is not planned"),
        ("8xH100-80GB", "77", "h100x8", "warn", ", 0.0 h ago, a GPU that is not planned"),  # of another job
        ("8xH100-80GB", "5d", "gpu-lost", "fail", ", 0.0 h ago"),  # the error has taken it away
        ("8xH100-80GB", "77", "gpu-lost", "fail", ", 0.0 h ago"),  # it may be the one that is lost
        ("8xH100-80GB", "3b", "driver-not-loaded", "fail", ", 0.0 h ago"),
        ("8xH100-80GB", "3b", "include h100x8.scenario\ndelay.* = forever\n", "fail", ", 0.0 h ago"),
    ],
)
def test_an_xid_is_judged_by_whose_gpu_it_is(
    gpus: str, bus: str, scenario: str, status: str, told: str, tmp_path: Path
) -> None:
    from tests import fake_nvml

    code = XIDS.format(now=int(time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6), bus=bus, gpus=gpus)
    done = command("-c", code, **fake_nvml.environment(tmp_path, scenario))
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["status"], found["evidence"]) == (
        status,
        f"Xid 79 (GPU has fallen off the bus) at PCI 0000:{bus}:00{told}",
    )


@pytest.mark.parametrize(("age", "status"), [(0.9, "fail"), (1.1, "warn")])
def test_a_recent_xid_fails_and_an_old_one_warns(age: float, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In hours, however long the machine that runs the test has been up."""
    from tests.launch.conftest import plan_of, spec_of

    uptime = 7200.0
    log = f"3,1203,{int((uptime - 3600 * age) * 1e6)},-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen.\n"
    monkeypatch.setattr(kernel, "read_log", lambda: log)
    monkeypatch.setattr(kernel, "log_time", lambda: uptime)
    found = kernel.fatal_errors(context(plan_of(spec=spec_of(preflight={"xid_hours": 1}))))
    assert (found.status, found.values["xids"]) == (status, [79])


def test_the_kernel_s_own_log_is_read_or_unknown(tmp_path: Path) -> None:
    if os.access(kernel.LOG, os.R_OK):
        assert kernel.read_log()
    with pytest.raises(OSError, match="No such file"):
        kernel.read_log(tmp_path / "none")


def test_a_log_that_cannot_be_read_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse() -> str:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(kernel, "read_log", refuse)
    found = kernel.fatal_errors(context(ON_GPUS))
    assert (found.status, found.evidence) == ("unknown", "the kernel's log cannot be read: Operation not permitted")
    monkeypatch.setattr(kernel, "read_log", lambda: "")
    assert kernel.fatal_errors(context(ON_GPUS)).status == "unknown"


def test_the_simulated_driver_is_part_of_the_package() -> None:
    """Every file of it is named in pyproject.toml."""
    named = (ROOT / "pyproject.toml").read_text()
    files = list((ROOT / "tests/fake_nvml").glob("*.[ch]"))
    assert files
    assert all(f'"tests/fake_nvml/{path.name}"' in named for path in files)
