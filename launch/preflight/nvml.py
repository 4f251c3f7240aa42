"""What the driver says of each planned GPU, through NVML. A value that cannot be read is an Unread, never a default."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from launch.machine.devices import VISIBLE, Device, handle_of, listed, visible
from launch.preflight.check import DRIVER, Check, on_gpus
from launch.preflight.result import Context, Finding, failed, passed, unknown, warned
from launch.wording import plural

T = TypeVar("T")


@dataclass(frozen=True)
class Unread:
    why: str
    lost: bool = False
    """The GPU is gone: it fell off the bus, or takes nothing until it is reset."""
    unsupported: bool = False
    """The GPU has no such thing."""


@dataclass(frozen=True)
class Reading(Generic[T]):
    index: int
    value: T | Unread


class NoDriverError(Exception):
    """There is no driver that answers."""

    def __init__(self, code: int, why: str):
        self.code, self.why = code, why
        super().__init__(code, why)


@contextlib.contextmanager
def driver() -> Iterator[Any]:
    """pynvml, connected to the driver. Raises NoDriverError."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NoDriverError(error.value, str(error).rstrip(".")) from None
    try:
        yield pynvml
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def asking(check: Callable[[Context], Finding]) -> Callable[[Context], Finding]:
    """A check that is unknown where there is no driver to ask."""

    def asked(context: Context) -> Finding:
        import pynvml

        try:
            return check(context)
        except NoDriverError as error:
            return unknown(f"the driver cannot be asked: {error.why}", "see the check driver")
        except pynvml.NVMLError as error:
            return unknown(f"the driver does not tell: {error}", "see nvidia-smi -q")

    return asked


def gpu_check(name: str, finds: str, threshold: str, run: Callable[[Context], Finding], **more: Any) -> Check:
    """A check that asks the driver; `more` are Check's other fields."""
    return Check(name, "gpu", finds, threshold, asking(run), **{"concerns": on_gpus, "deadline": DRIVER, **more})


def read(context: Context, value: Callable[[Any, Any], T], own: bool = False) -> list[Reading[T]]:
    """`value(pynvml, handle)` of each GPU that the plan trains on, of a slice's GPU; `own`: of the slice itself."""
    with driver() as nvml:
        return [
            Reading(device.gpu, _read(nvml, device if own else Device(device.gpu), value))
            for device in planned(nvml, context)
        ]


def planned(nvml: Any, context: Context) -> list[Device]:
    """What the plan trains on: the first of those that this process may use."""
    return usable(nvml)[: context.plan.topology.devices_per_node]


def usable(nvml: Any) -> list[Device]:
    """What this process may use."""
    return visible(listed(nvml), os.environ.get(VISIBLE))


def _read(nvml: Any, device: Device, value: Callable[[Any, Any], T]) -> T | Unread:
    try:
        return value(nvml, handle_of(nvml, device))
    except nvml.NVMLError as error:
        return unread(nvml, error)


def unread(nvml: Any, error: Any) -> Unread:
    code = error.value
    if code == nvml.NVML_ERROR_FUNCTION_NOT_FOUND:
        return Unread("the driver is too old to tell")
    gone = (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED)
    return Unread(str(error), lost=code in gone, unsupported=code == nvml.NVML_ERROR_NOT_SUPPORTED)


def judge(
    readings: Sequence[Reading[T]],
    wrong: Callable[[T], str | None],
    fine: str,
    fix: str,
    *,
    missing: str = "",
    warning: bool = False,
) -> Finding:
    """One finding over all GPUs. `wrong` says what is wrong with a value, `fine` what all of them have.

    `missing` is what a GPU lacks that does not support the reading: then there is nothing to find. A lost GPU fails
    every check that reaches it; another value that could not be read makes the finding unknown, unless something is
    wrong.
    """
    if not readings:
        return unknown("no planned GPU can be seen", "see the check gpu-count")
    values = {str(r.index): r.value.why if isinstance(r.value, Unread) else r.value for r in readings}
    gone = [r.index for r in readings if isinstance(r.value, Unread) and r.value.lost]
    if gone:
        why = next(r.value.why for r in readings if isinstance(r.value, Unread) and r.value.lost)
        return failed(f"{named(gone)} cannot be reached: {why}", RESET, gpus=values)
    told = {r.index: wrong(r.value) for r in readings if not isinstance(r.value, Unread)}
    bad = {index: why for index, why in told.items() if why}
    if bad:
        return (warned if warning else failed)(grouped(bad), fix, gpus=values)
    closed = {r.index: r.value for r in readings if isinstance(r.value, Unread)}
    if missing and closed and len(closed) == len(readings) and all(u.unsupported for u in closed.values()):
        return Finding(status="skipped", evidence=missing, values={"gpus": values})
    silent = {index: u.why for index, u in closed.items() if not (missing and u.unsupported)}
    if silent:
        return unknown(grouped(silent), "see nvidia-smi -q, and the driver's version", gpus=values)
    without = f"; {grouped({index: u.why for index, u in closed.items()})}" if closed else ""
    return passed(f"{plural(len(told), 'GPU')}: {fine}{without}", gpus=values)


RESET = "reset it (nvidia-smi --gpu-reset -i N) or restart the node; leave it out of the job until then"


def grouped(told: dict[int, str]) -> str:
    """What is said of GPUs, those of which the same is said together."""
    same: dict[str, list[int]] = {}
    for index, why in told.items():
        same.setdefault(why, []).append(index)
    return "; ".join(f"{named(indices)}: {why}" for why, indices in same.items())


def named(indices: Sequence[int]) -> str:
    return f"GPU {', '.join(map(str, indices))}" if len(indices) < 2 else f"GPUs {', '.join(map(str, indices))}"
