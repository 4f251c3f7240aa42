"""A spec file -> the Plan of what it asks for, on some devices, with every mistake told in one go."""

from collections.abc import Callable
from pathlib import Path

from launch.architecture import Architecture
from launch.discover import installed
from launch.errors import ConflictError, DataError, DeviceError, NoPlanError, PreflightError, SpecError, UsageError
from launch.hardware import Topology
from launch.model_files import read_architecture
from launch.plan import Plan, conflicts, resolve
from launch.spec import ClusterSpec, RunSpec
from launch.specfile import draft, missing_data


def planned(
    path: str | Path,
    overrides: list[str],
    devices: Callable[[ClusterSpec], Topology],
    adjust: Callable[[RunSpec], RunSpec] = lambda spec: spec,
    data: bool = True,
) -> Plan:
    """The plan of a spec. `devices` finds what is there, `adjust` may change the spec before that.

    Raises SpecError with every mistake that can be told; DataError when missing files are all that is wrong (looked for
    where `data` is true), PreflightError when missing devices are, NoPlanError when nothing fits.
    """
    found = draft(path, overrides)
    if found.spec is None:
        raise SpecError(found.mistakes)
    spec = adjust(found.spec)
    mistakes = list(found.mistakes)
    architecture, wrong = (None, []) if ("model", "variant") in found.dropped else _architecture(spec)
    mistakes += found.placed(wrong)
    topology, lacking = _devices(spec, devices)
    versions = installed()
    mistakes += found.placed(conflicts(spec, architecture, topology, versions))
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
        return resolve(spec, architecture, topology, versions)
    except NoPlanError as error:
        raise NoPlanError(f"{path}: {error}") from None


Problems = list[tuple[tuple[str, ...], str]]


def _architecture(spec: RunSpec) -> tuple[Architecture | None, Problems]:
    try:
        return read_architecture(spec.model.variant), []
    except ConflictError as error:
        return None, error.problems
    except UsageError as error:
        return None, [(("model", "variant"), str(error))]


def _devices(spec: RunSpec, devices: Callable[[ClusterSpec], Topology]) -> tuple[Topology | None, Problems]:
    try:
        return devices(spec.cluster), []
    except DeviceError as error:
        return None, [(error.path, str(error))]
