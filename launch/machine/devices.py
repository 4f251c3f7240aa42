"""Which of a machine's GPUs a process may use, or which slice of one that is divided (MIG).

CUDA counts GPUs from the fastest on unless it is told otherwise; here, as in nvidia-smi, they are counted by PCI bus.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# What makes CUDA count as NVML does (CUDA C++ Programming Guide, CUDA Environment Variables).
ORDER, BY_BUS = "CUDA_DEVICE_ORDER", "PCI_BUS_ID"
VISIBLE = "CUDA_VISIBLE_DEVICES"


class Gpu(NamedTuple):
    """A GPU as the driver lists it."""

    uuid: str
    """Empty where the driver does not tell, as of one that is lost."""
    slices: Mapping[int, str] | None = None
    """UUIDs of its MIG devices by the driver's number, of which there may be none; None where MIG is off."""


class Device(NamedTuple):
    """What a process computes on. Indices are the driver's."""

    gpu: int
    slice: int | None = None
    """Its number among the GPU's MIG devices; None for a whole GPU, and for one that is divided into nothing yet."""


def listed(nvml: Any) -> dict[int, Gpu]:
    """Every GPU of this machine, by its index. `nvml` is pynvml, connected to the driver."""
    return {index: _gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())}


def _gpu(nvml: Any, index: int) -> Gpu:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = str(nvml.nvmlDeviceGetUUID(handle))
    except nvml.NVMLError:
        return Gpu("")
    try:
        divided = bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except nvml.NVMLError:  # a GPU that cannot be divided, a driver that knows nothing of it
        divided = False
    return Gpu(uuid, dict(_slices(nvml, handle)) if divided else None)


def _slices(nvml: Any, handle: Any) -> Iterator[tuple[int, str]]:
    with contextlib.suppress(nvml.NVMLError):
        for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            with contextlib.suppress(nvml.NVMLError_NotFound):  # numbers are kept when a slice is taken away
                found = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
                yield number, str(nvml.nvmlDeviceGetUUID(found))


def handle_of(nvml: Any, device: Device) -> Any:
    """pynvml's handle of a device: that of the slice where it is one, which has memory and processes of its own."""
    whole = nvml.nvmlDeviceGetHandleByIndex(device.gpu)
    return whole if device.slice is None else nvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, device.slice)


def visible(gpus: Mapping[int, Gpu], names: str | None) -> list[Device]:
    """What CUDA_VISIBLE_DEVICES lets a process use, in its order; None is all.

    As the driver reads it (torch.cuda._parse_visible_devices was tried against it): all names are indices, UUIDs or the
    beginnings of UUIDs, of one kind; the first that is no GPU, or could be several, ends the list; a GPU that is named
    twice empties it. Of slices a process sees one, the first (NVIDIA MIG User Guide, CUDA Device Enumeration), also
    beside GPUs that are divided into nothing.
    """
    if names is None:
        found = [_whole_or_first(index, gpu) for index, gpu in gpus.items()]
    else:
        found = _named(gpus, [name.strip() for name in names.split(",")])
    slices = [device for device in found if device.slice is not None]
    whole = any(gpus[device.gpu].slices is None for device in found)
    return slices[:1] if slices and not whole else found


def mixed(devices: list[Device]) -> bool:
    """Slices beside whole GPUs, which no process sees together."""
    return len({device.slice is None for device in devices}) > 1


def _named(gpus: Mapping[int, Gpu], names: list[str]) -> list[Device]:
    kind = names[0][:4]
    if kind not in ("GPU-", "MIG-"):
        numbers = [int(match[0]) if (match := re.match(r"\+?\d+", name)) else -1 for name in names]
        known = {index: _whole_or_first(index, gpu) for index, gpu in gpus.items()}
        return _until_wrong([known.get(number) for number in numbers])
    uuids = {gpu.uuid: _whole_or_first(index, gpu) for index, gpu in gpus.items() if gpu.uuid}
    if kind == "MIG-":
        uuids = {
            uuid: Device(index, number) for index, gpu in gpus.items() for number, uuid in (gpu.slices or {}).items()
        }
    return _until_wrong([_only(uuids, name) if name.startswith(kind) else None for name in names])


def _only(uuids: Mapping[str, Device], name: str) -> Device | None:
    found = [device for uuid, device in uuids.items() if uuid.startswith(name)]
    return found[0] if len(found) == 1 else None


def _until_wrong(found: list[Device | None]) -> list[Device]:
    until = [device for device in found[: found.index(None) if None in found else None] if device is not None]
    return until if len(set(until)) == len(until) else []


def _whole_or_first(index: int, gpu: Gpu) -> Device:
    """CUDA takes the first slice of a GPU that is named as a whole."""
    return Device(index, min(gpu.slices) if gpu.slices else None)


def in_another_order(order: str | None, names: str | None) -> bool:
    """Whether CUDA, told so, may count GPUs of several kinds otherwise than the driver lists them."""
    by_uuid = names is not None and names[:4] in ("GPU-", "MIG-")
    return order not in (None, BY_BUS) and not by_uuid
