"""Which GPU of the catalogue a site's GRES type is. Pure."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from launch.cluster.answers import Node
from launch.machine.hardware import CATALOGUE, GIB, Gpu
from launch.spec.slurm import SlurmSpec

_DASHED = re.compile(r"[^a-z0-9]+")
# A MIG profile by its parts of seven and its memory: 3g.20gb, 1c.3g.20gb.
PROFILE = re.compile(r"(?:\dc[._])?(\d)g[._](\d+)gb")


class Offer(NamedTuple):
    """What a partition's nodes have: the fewest GPUs that one of them has, and what they are."""

    gpus: int
    type: str | None
    gpu: Gpu | None
    """None where nothing tells."""
    note: str = ""
    """What was assumed."""


def gpu_of(kind: str) -> tuple[Gpu | None, bool]:
    """The catalogue's GPU for `a100`, `nvidia_h100_80gb_hbm3` or `rtx_4090`, and whether nothing else can be meant.

    Where a kind is made with several memories and the type does not tell which, the smallest. Of a slice (MIG), such as
    `a100_3g.20gb`, it is the slice.
    """
    if profile := PROFILE.search(kind.lower()):
        return _slice(gpu_of(kind[: profile.start()])[0] or CATALOGUE["A100-40GB"], profile), True
    words = [word for word in _DASHED.split(kind.lower()) if word]
    joined = {a + b for a, b in pairwise(words)} | set(words) | {f"rtx{word}" for word in words}
    kinds = [gpu for gpu in CATALOGUE.values() if gpu.name.split("-")[0].lower() in joined]
    if not kinds:
        return None, False
    sizes = [int(match[1]) for word in words if (match := re.fullmatch(r"(\d{2,3})g[bi]?b?", word))]
    plain = [int(word) for word in words if word in {_size(gpu) for gpu in kinds}]
    wanted = next(iter(sizes or plain), None)
    if wanted is None:
        return min(kinds, key=lambda gpu: gpu.memory_bytes), len(kinds) == 1
    nearest = min(kinds, key=lambda gpu: abs(int(_size(gpu)) - wanted))
    return nearest, abs(int(_size(nearest)) - wanted) <= 8


def _slice(whole: Gpu, profile: "re.Match[str]") -> Gpu:
    """Its memory is what the driver leaves of the profile's, 4.75 GiB of 1g.5gb; it computes and reads as a share of a
    GPU with seven such parts does (NVIDIA MIG User Guide, Supported MIG Profiles)."""
    share, gigabytes = int(profile[1]) / 7, int(profile[2])
    rates = whole.rates
    part = {key: getattr(rates, key) * share for key in ("flops", "fp32", "memory")} | {"link": rates.host}
    return Gpu(
        name=f"{whole.name.split('-')[0]} MIG {profile[0].replace('_', '.')}", memory_bytes=int(0.95 * gigabytes * GIB),
        capability=whole.capability, rates=rates.model_copy(update=part),
    )  # fmt: skip


def is_slice(gpu: Gpu) -> bool:
    return " MIG " in gpu.name


def _size(gpu: Gpu) -> str:
    """`80` of A100-80GB."""
    return re.sub(r"\D", "", gpu.name.split("-")[-1])


def offer(nodes: Sequence[Node], slurm: SlurmSpec) -> Offer | None:
    """What a run in this partition can count on, of the type that it asks for; None where no node has such GPUs."""
    usable = [node for node in nodes if node.usable] or list(nodes)
    having = [node for node in usable if node.offered(slurm.gres, slurm.gpu_type)]
    if not having:
        return None
    count = min(node.offered(slurm.gres, slurm.gpu_type) for node in having)
    kinds = {gres.type for node in having for gres in node.gres if gres.name == slurm.gres}
    if slurm.gpu_type is not None:
        kinds &= {slurm.gpu_type}
    if slurm.gpu_model is not None:
        named = {name.lower(): gpu for name, gpu in CATALOGUE.items()}.get(slurm.gpu_model.lower())
        return Offer(count, slurm.gpu_type, named)
    found = {kind: gpu_of(kind) for kind in kinds if kind is not None}
    if None in kinds or any(gpu is None for gpu, _ in found.values()):
        return Offer(count, next((kind for kind, (gpu, _) in found.items() if gpu is None), None), None)
    known = {kind: gpu for kind, (gpu, _) in found.items() if gpu is not None}
    kind, smallest = min(known.items(), key=lambda item: item[1].memory_bytes)
    return Offer(count, kind, smallest, _assumed(known, smallest, found[kind][1]))


def _assumed(known: dict[str, Gpu], smallest: Gpu, certain: bool) -> str:
    if len(set(known.values())) > 1:
        kinds = ", ".join(sorted(known))
        return f"the nodes have {kinds}; planned for {smallest.name}, the smallest: slurm.gpu_type asks for one of them"
    if not certain:
        return (
            f"{next(iter(known))} does not tell how much memory it has; planned for {smallest.name}, the smallest:"
            " slurm.gpu_model names another"
        )
    return ""
