"""A spec file -> the Plan of what it asks for, on some devices, with every mistake told in one go."""

import glob
from collections.abc import Callable
from pathlib import Path

from launch.errors import ConflictError, DataError, DeviceError, NoPlanError, PreflightError, SpecError, UsageError
from launch.machine.discover import installed
from launch.machine.hardware import Topology
from launch.model.adapter import other_kind, other_modules
from launch.model.architecture import Architecture
from launch.model.files import caches, read_architecture
from launch.model.weights import header
from launch.mounts import refuse_hung
from launch.plan.plan import Plan, conflicts, resolve
from launch.plan.trained import adapter_config, trained
from launch.rundir import ADAPTER_WEIGHTS, PROGRESS, RunDir
from launch.spec import ClusterSpec, RunSpec
from launch.spec.file import draft, missing_data
from launch.wording import plural

TEXTS = (".jsonl", ".ndjson", ".json", ".csv")


def planned(
    path: str | Path,
    overrides: list[str],
    devices: Callable[[ClusterSpec], Topology],
    adjust: Callable[[RunSpec], RunSpec] = lambda spec: spec,
    data: bool = True,
) -> Plan:
    """The plan of a spec. `devices` finds what is there, `adjust` may change the spec before that.

    Raises SpecError with every mistake that can be told; DataError when missing files are all that is wrong (looked for
    where `data` is true), PreflightError when missing devices are or a file system hangs, NoPlanError when nothing
    fits.
    """
    found = draft(path, overrides)
    if found.spec is None:
        raise SpecError(found.mistakes)
    spec = adjust(found.spec)
    refuse_hung({"the Hugging Face cache": caches()[-1]})
    mistakes = list(found.mistakes)
    architecture, wrong = (None, []) if ("model", "variant") in found.dropped else _architecture(spec)
    mistakes += found.placed(wrong)
    topology, lacking = _devices(spec, devices)
    versions = installed()
    mistakes += found.placed(conflicts(spec, architecture, topology, versions))
    mistakes += found.placed(_continued(spec, architecture))
    absent = missing_data(found, spec) if data else []
    short = found.placed(lacking)
    if mistakes:
        raise SpecError([*mistakes, *short, *absent])
    if short:
        raise PreflightError("\n".join(map(str, sorted([*short, *absent]))))
    if absent:
        raise DataError(absent)
    assert architecture is not None
    assert topology is not None
    try:
        return resolve(spec, architecture, topology, versions, text_bytes(spec.data.train))
    except NoPlanError as error:
        raise NoPlanError(f"{path}: {error}", error.remedies) from None


def text_bytes(source: str) -> int | None:
    """The size of training rows in plain text; None where they are not there, compressed, or no text."""
    found = [Path(name) for name in glob.glob(source, recursive=True)]
    files = [file for path in found for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    if not files or any(file.suffix.lower() not in TEXTS for file in files):
        return None
    return sum(file.stat().st_size for file in files)


Problems = list[tuple[tuple[str, ...], str]]


def _architecture(spec: RunSpec) -> tuple[Architecture | None, Problems]:
    try:
        return read_architecture(spec.model.variant), []
    except ConflictError as error:
        return None, error.problems
    except UsageError as error:
        return None, [(("model", "variant"), str(error))]


def _continued(spec: RunSpec, architecture: Architecture | None) -> Problems:
    """Whether training can go on from lora.adapter, by its config and the shapes of its tensors."""
    if spec.lora.adapter is None:
        return []
    directory, path = Path(spec.lora.adapter), ("lora", "adapter")
    if RunDir(directory).plan.exists():
        return [(path, f"lora.adapter: {directory} is a run directory; its adapter is {RunDir(directory).adapter}")]
    try:
        differing = other_kind(adapter_config(directory), spec.lora)
    except UsageError as error:
        return [(path, f"lora.adapter: {error}")]
    if differing:
        return [(path, "\n".join([f"lora.adapter {directory}: is of another kind", *(f"  {d}" for d in differing)]))]
    shapes, damage = header(directory / ADAPTER_WEIGHTS)
    if damage:
        return [(path, f"lora.adapter: {damage[0]}")]
    if (directory / PROGRESS).is_file() or RunDir(directory.parent).plan.exists():
        try:
            trained(directory).check_base(spec.model.variant)
        except UsageError as error:
            return [(path, f"lora.adapter: {error}")]
    others = other_modules(shapes, architecture, spec.lora) if architecture else []
    if others:
        what = f"{plural(len(others), 'tensor')} of its pairs differ from the spec's, {others[0]} first"
        return [(path, f"lora.adapter {directory}: {what}; use the target_modules and model that it was trained with")]
    return []


def _devices(spec: RunSpec, devices: Callable[[ClusterSpec], Topology]) -> tuple[Topology | None, Problems]:
    try:
        return devices(spec.cluster), []
    except DeviceError as error:
        return None, [(error.path, str(error))]
