"""How GPUs reach their host and one another: PCIe, NVLink, each other's memory, the NVSwitch fabric."""

import contextlib
import re
from ctypes import byref
from typing import Any

from launch.preflight.check import on_several_gpus
from launch.preflight.nvml import Unread, gpu_check, grouped, judge, named, planned, read
from launch.preflight.result import Context, Finding, warned
from launch.wording import plural

# nvml.h; pynvml's own constant of the first is a tuple.
P2P_READ, P2P_STATUS_OK, FABRIC_COMPLETED = 0, 0, 3


def pcie(context: Context) -> Finding:
    def widths(nvml: Any, handle: Any) -> list[int]:
        current = int(nvml.nvmlDeviceGetCurrPcieLinkWidth(handle))
        return [current, int(nvml.nvmlDeviceGetMaxPcieLinkWidth(handle))]

    return judge(
        read(context, widths), lambda w: f"{w[0]} of {w[1]} PCIe lanes" if w[0] < w[1] else None,
        "all PCIe lanes", "reseat the card or its riser", missing="these GPUs have no PCIe link of their own",
    )  # fmt: skip


def nvlink(context: Context) -> Finding:
    """Links that are down on some GPUs and up on others of the same kind.

    Links that lead nowhere are down on healthy machines: of V100s on smaller boards, of cards without a bridge. On a
    board with later SXM modules all lead somewhere.
    """

    def down(nvml: Any, handle: Any) -> dict[str, Any]:
        """Its kind, and the numbers of links that are up and down; those that it does not have are left out."""
        up: dict[int, bool] = {}
        for link in range(nvml.NVML_NVLINK_MAX_LINKS):
            with contextlib.suppress(nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument):
                up[link] = bool(nvml.nvmlDeviceGetNvLinkState(handle, link))
        if not up:
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
        links = {state: [link for link, is_up in up.items() if is_up is state] for state in (True, False)}
        return {"kind": nvml.nvmlDeviceGetName(handle), "up": links[True], "down": links[False]}

    readings = read(context, down)
    found = [r.value for r in readings if not isinstance(r.value, Unread)]
    most = {kind: max(len(f["up"]) for f in found if f["kind"] == kind) for kind in {f["kind"] for f in found}}

    def wrong(links: dict[str, Any]) -> str | None:
        if len(links["up"]) == most[links["kind"]]:
            return None
        told = ", ".join(map(str, links["down"]))
        return f"NVLink {told} down, {len(links['up'])} up where others have {most[links['kind']]}"

    fine = "as many NVLinks up on each" if any(most.values()) else "no NVLink is wired"
    fix = "restart the fabric manager, or reset the GPUs"
    finding = judge(readings, wrong, fine, fix, missing="these GPUs have no NVLink")
    alike = {r.index: len(links["down"]) for r in readings if (links := _wired(r.value))}
    if finding.status == "pass" and any(alike.values()):
        lost = grouped({index: f"{plural(number, 'NVLink')} down" for index, number in alike.items() if number})
        return warned(f"{lost}, though on such a board all are wired", fix, **finding.values)
    return finding


# Modules of NVSwitch boards by the driver's names; their cards are called PCIe or NVL.
WIRED = re.compile(r"SXM[3-9]|HBM3|NVIDIA (H200|B200|B300)$")


def _wired(links: dict[str, Any] | Unread) -> dict[str, Any] | None:
    return links if not isinstance(links, Unread) and WIRED.search(links["kind"]) else None


def peers(context: Context) -> Finding:
    """Whether each pair of GPUs reads the other's memory as all the other pairs do; on two sockets some cannot."""

    def able(nvml: Any, handle: Any) -> list[int]:
        """The GPUs whose memory this one reads, itself among them."""
        nvml.nvmlDeviceGetUUID(handle)  # raises where this one is lost: below only the other one can be
        found = []
        for index, _ in planned(nvml, context):
            try:
                other = nvml.nvmlDeviceGetHandleByIndex(index)
                own = nvml.nvmlDeviceGetIndex(handle) == index
                if own or nvml.nvmlDeviceGetP2PStatus(handle, other, P2P_READ) == P2P_STATUS_OK:
                    found.append(index)
            except nvml.NVMLError_GpuIsLost:
                continue
        return found

    readings = read(context, able)
    indices = {r.index for r in readings}
    alone = all(len(r.value) <= 1 for r in readings if not isinstance(r.value, Unread))

    def wrong(reached: list[int]) -> str | None:
        cut = [] if alone else sorted(indices - set(reached))
        return f"cannot reach the memory of {named(cut)}, as other pairs can" if cut else None

    fine = "exchange through the host's memory, all alike" if alone else "each reaches the others' memory"
    fix = "usual across two sockets, and slower; else see nvidia-smi topo -p2p r, and the node's IOMMU and ACS settings"
    return judge(readings, wrong, fine, fix, warning=True)


def fabric(context: Context) -> Finding:
    def state(nvml: Any, handle: Any) -> list[int]:
        info = nvml.c_nvmlGpuFabricInfoV_t()
        info.version = nvml.nvmlGpuFabricInfo_v2
        nvml.nvmlDeviceGetGpuFabricInfoV(handle, byref(info))
        if info.state == nvml.NVML_GPU_FABRIC_STATE_NOT_SUPPORTED:
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
        return [int(info.state), int(info.status)]

    def wrong(found: list[int]) -> str | None:
        if found[0] != FABRIC_COMPLETED:
            return "has not joined the NVSwitch fabric"
        return f"could not join the NVSwitch fabric (error {found[1]})" if found[1] else None

    fix = "start nvidia-fabricmanager, of the driver's own version"
    missing = "these GPUs have no NVSwitch fabric"
    return judge(read(context, state), wrong, "in the NVSwitch fabric", fix, missing=missing)


CHECKS = (
    gpu_check("gpu-pcie", "PCIe lanes that are missing", "width below the most; the generation drops when idle", pcie),
    gpu_check(
        "gpu-nvlink", "an NVLink that is down", "fewer up than on another GPU of its kind; any on an SXM board warns",
        nvlink, concerns=on_several_gpus,
    ),
    gpu_check(
        "gpu-peers", "pairs of GPUs that cannot reach each other's memory as the others do",
        "some pairs can and some cannot: warns", peers, concerns=on_several_gpus,
    ),
    gpu_check(
        "gpu-fabric", "GPUs that have not joined the NVSwitch fabric", "state completed, status success (nvml.h)",
        fabric,
    ),
)  # fmt: skip
