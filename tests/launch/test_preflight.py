"""Each check passes on a machine that is right and fails on one that is not."""

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest

from launch import discover
from launch.discover import FoundGpu
from launch.hardware import GIB
from launch.plan import Plan
from launch.preflight import CHECKS, Context, Result, run_checks, verdict
from launch.preflight import checks as preflight
from launch.rundir import RunDir
from launch.variants import VARIANTS
from tests.launch.conftest import CPU, plan_of, spec_of, write_model

SMALL = {"max_length": 512}
ON_CPU = plan_of(CPU, 1, spec_of("qwen2.5-7b-instruct", data=SMALL, training={"micro_batch_size": 1}))
ON_GPUS = plan_of("2xA100-80GB", 1, spec_of("qwen2.5-7b-instruct", data=SMALL))


def context(plan: Plan, root: Path = Path("/tmp/demo")) -> Context:
    return Context(plan=plan, run=RunDir(root))


def of_model(variant: str | Path) -> Context:
    spec = ON_CPU.spec.model_copy(update={"model": ON_CPU.spec.model.model_copy(update={"variant": str(variant)})})
    return context(ON_CPU.model_copy(update={"spec": spec}))


def with_gpus(monkeypatch: pytest.MonkeyPatch, *free: float) -> None:
    found = [
        FoundGpu(index, "NVIDIA A100-SXM4-80GB", int(79.2 * GIB), int(gib * GIB), (8, 0))
        for index, gib in enumerate(free)
    ]
    monkeypatch.setattr(discover, "gpus", lambda: found)


# The registry


def test_the_checks_and_their_names() -> None:
    results = run_checks(context(ON_CPU), CHECKS)
    assert [result.name for result in results] == ["packages", "devices", "memory", "model-files", "storage"]
    assert all(result.evidence for result in results)
    assert all(result.fix for result in results if result.status not in ("pass", "skipped"))


def test_a_check_that_breaks_is_unknown_and_hides_none_of_the_others() -> None:
    def broken_check(context: Context) -> Result:
        raise ZeroDivisionError("division by zero")

    results = run_checks(context(ON_CPU), [broken_check, preflight.packages])
    assert results[0] == Result(
        name="broken-check",
        family="node",
        status="unknown",
        evidence="the check itself failed: ZeroDivisionError: division by zero",
        fix="report this",
    )
    assert (results[1].name, results[1].status) == ("packages", "pass")


@pytest.mark.parametrize(
    ("statuses", "worst"),
    [
        (["pass", "skipped"], "pass"),
        (["pass", "warn"], "warn"),
        (["warn", "unknown"], "unknown"),
        (["unknown", "fail", "pass"], "fail"),
        ([], "pass"),
    ],
)
def test_the_verdict_is_the_worst(statuses: list[Any], worst: str) -> None:
    assert verdict([Result(name="x", family="node", status=status, evidence="") for status in statuses]) == worst


# packages


def test_the_installed_packages_are_new_enough() -> None:
    result = preflight.packages(context(ON_GPUS))
    assert (result.status, result.fix) == ("pass", "")
    named = [part.split()[0] for part in result.evidence.split(", ")]
    assert named == ["torch", "transformers", "accelerate", "peft", "datasets", "bitsandbytes"]
    assert f"torch {importlib.metadata.version('torch')}" in result.evidence


def test_deepspeed_is_needed_for_zero_and_bitsandbytes_for_its_optimizer() -> None:
    spec = spec_of(cluster={"strategy": "zero3"}, training={"optimizer": "adamw_torch"})
    evidence = preflight.packages(context(plan_of(spec=spec))).evidence
    assert "deepspeed" in evidence
    assert "bitsandbytes" not in evidence


def test_a_package_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(preflight.MINIMUM, "torch", "99.1")
    monkeypatch.setitem(preflight.MINIMUM, "no-such-package", "1.0")
    result = preflight.packages(context(ON_CPU))
    version = importlib.metadata.version("torch")
    assert (result.status, result.family) == ("fail", "software")
    assert result.evidence == f"torch {version} is older than 99.1; no-such-package is not installed (needs 1.0)"
    assert result.fix == "pip install -U 'torch>=99.1' 'no-such-package>=1.0'"


def test_the_floors_are_those_of_the_package() -> None:
    import tomllib

    from tests.conftest import ROOT

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = dict(requirement.split(">=") for requirement in project["dependencies"])
    floors = {**preflight.MINIMUM, **dict([preflight.DEEPSPEED, preflight.BITSANDBYTES])}
    assert floors == {name: declared[name] for name in floors}


# devices


def test_cpu_processes_on_enough_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discover, "cpu_count", lambda: 2)
    result = preflight.devices(context(ON_CPU))
    assert (result.status, result.evidence) == ("pass", "no GPU planned; 1 CPU process on 2 cores")


def test_more_cpu_processes_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discover, "cpu_count", lambda: 2)
    topology = CPU.model_copy(update={"devices_per_node": 4})
    result = preflight.devices(context(ON_CPU.model_copy(update={"topology": topology})))
    assert (result.status, result.evidence) == ("warn", "no GPU planned; 4 CPU processes on 2 cores")
    assert result.fix == "lower cluster.devices_per_node"


def test_as_many_gpus_as_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 70, 70)
    result = preflight.devices(context(ON_GPUS))
    assert (result.status, result.evidence) == ("pass", "2 GPUs (NVIDIA A100-SXM4-80GB), 2 planned")


@pytest.mark.parametrize(
    ("free", "evidence"),
    [([70], "1 GPUs (NVIDIA A100-SXM4-80GB), 2 planned"), ([], "0 GPUs (none), 2 planned")],
)
def test_fewer_gpus_than_planned(free: list[float], evidence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, *free)
    result = preflight.devices(context(ON_GPUS))
    assert (result.status, result.evidence) == ("fail", evidence)
    assert result.fix == "lower cluster.devices_per_node"


# memory


def needing(plan: Plan, gib: int) -> Plan:
    return plan.model_copy(update={"memory": plan.memory.model_copy(update={"process_bytes": gib * GIB})})


def test_enough_free_memory_on_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 78, 77)
    result = preflight.memory(context(needing(ON_GPUS, 30)))
    assert (result.status, result.evidence) == (
        "pass",
        "GPU 0: 78.0 GiB free, GPU 1: 77.0 GiB free; the plan needs 30.0 GiB",
    )


def test_a_gpu_that_somebody_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 78, 12.5)
    result = preflight.memory(context(needing(ON_GPUS, 30)))
    assert (result.status, result.evidence) == ("fail", "GPU 1: 12.5 GiB free; the plan needs 30.0 GiB")
    assert result.fix == "stop what else runs on these GPUs (nvidia-smi)"


def test_memory_of_gpus_that_cannot_be_read_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch)
    assert preflight.memory(context(ON_GPUS)).status == "unknown"


def test_offloading_needs_memory_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, *[78] * 8)
    monkeypatch.setattr(discover, "host_memory", lambda: GIB)
    plan = plan_of("8xA100-80GB", 1, spec_of(cluster={"strategy": "zero3_offload"}))
    assert preflight.memory(context(plan)).status == "fail"


@pytest.mark.parametrize(("free", "status"), [(25, "pass"), (15, "fail")])
def test_host_memory_of_all_cpu_processes(free: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discover, "host_memory", lambda: free * GIB)
    topology = CPU.model_copy(update={"devices_per_node": 2})
    plan = needing(ON_CPU.model_copy(update={"topology": topology}), 10)
    result = preflight.memory(context(plan))
    assert (result.status, result.evidence) == (
        status,
        f"{free}.0 GiB of host memory free; the plan needs 20.0 GiB",
    )
    assert result.fix == ("" if status == "pass" else "free memory or use fewer processes")


# model-files


def test_a_whole_model(tmp_path: Path) -> None:
    result = preflight.model_files(of_model(write_model(tmp_path)))
    assert (result.status, result.evidence) == ("pass", str(tmp_path))


def test_a_model_with_files_missing(tmp_path: Path) -> None:
    write_model(tmp_path, shards=("a.safetensors", "b.safetensors"))
    (tmp_path / "b.safetensors").unlink()
    (tmp_path / "tokenizer.json").unlink()
    result = preflight.model_files(of_model(tmp_path))
    assert (result.status, result.evidence) == (
        "fail",
        f"{tmp_path}/b.safetensors is missing or empty, but model.safetensors.index.json names it;"
        f" {tmp_path}: no tokenizer (tokenizer.json, vocab.json, tokenizer.model)",
    )
    assert result.fix == "complete the model's files, or change model.variant"


def test_a_model_that_will_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    result = preflight.model_files(of_model("qwen3-8b"))
    assert (result.status, result.evidence) == ("warn", "qwen3-8b is not on this machine and will be downloaded")


@pytest.mark.parametrize("variant", ["qwen3-8b", "qwen-7b-chat"])
def test_a_model_of_which_the_cache_has_the_config_alone(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As reading a tokenizer leaves it; of an original checkpoint there is then nothing to import yet."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    repository = tmp_path / f"models--{VARIANTS[variant].hub.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("abc")
    model_type = "qwen" if VARIANTS[variant].original else "qwen3"
    (write_model(repository / "snapshots/abc", model_type=model_type) / "model.safetensors").unlink()
    result = preflight.model_files(of_model(variant))
    assert (result.status, result.evidence) == (
        "warn",
        f"{variant} is not whole on this machine and will be downloaded",
    )


def test_the_download_can_be_typed_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert preflight.model_files(of_model("qwen3-8b")).fix.endswith("hf download Qwen/Qwen3-8B")


# storage


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    result = preflight.storage(context(ON_CPU, tmp_path / "runs/demo"))
    assert (result.status, result.fix) == ("pass", "")
    assert result.evidence.startswith(f"{tmp_path} can be written; ")
    # 64 MiB, and five checkpoints of 12 bytes for each of 20,185,088 adapter parameters.
    assert result.evidence.endswith(" free, 1.2 GiB needed for checkpoints")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written() -> None:
    result = preflight.storage(context(ON_CPU, Path("/proc/demo")))
    assert (result.status, result.evidence.split(": ")[0]) == ("fail", "/proc")
    assert result.fix == "choose another place with --run-dir"


def test_a_place_that_is_too_small(tmp_path: Path) -> None:
    training = ON_CPU.spec.training.model_copy(update={"save_total_limit": 10**9})
    plan = ON_CPU.model_copy(update={"spec": ON_CPU.spec.model_copy(update={"training": training})})
    result = preflight.storage(context(plan, tmp_path))
    assert (result.status, result.fix) == ("fail", "free space, or choose another place with --run-dir")
    assert result.evidence.endswith(" GiB needed for checkpoints")


def test_a_file_in_place_of_the_run_directory(tmp_path: Path) -> None:
    (tmp_path / "demo").touch()
    assert preflight.storage(context(ON_CPU, tmp_path / "demo")).status == "fail"
