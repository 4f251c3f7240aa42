"""What Slurm prints, as it was printed, and what muster reads in it."""

import pytest

from launch.cluster.answers import Gres, Node, config, gres_of, nodes, pairs, partitions
from launch.cluster.gpus import gpu_of, offer
from launch.cluster.shares import cpus, mem, mem_mib
from launch.machine.hardware import CATALOGUE, GIB, parse_gpus
from launch.spec.slurm import SlurmSpec
from tests.launch.conftest import plan_of, spec_of

SINFO = """\
n0|idle|64|515000|gpu:a100:8(S:0-1)|ib,a100|none
n1|mix-|64|515000|gpu:a100:8(S:0-1)|ib|none
n2|drain*|128|1031000|gpu:h100:8|ib|Kill task failed
n2|drain*|128|1031000|gpu:h100:8|ib|Kill task failed
n3|down|64|515000|(null)|(null)|NVLink | broken
"""
PARTITION = (
    "PartitionName=main AllowGroups=ALL AllowAccounts=lab,phys AllowQos=ALL Default=YES MaxNodes=4 MaxTime=2-00:00:00"
    " Nodes=n[0-3] PreemptMode=REQUEUE State=UP TotalCPUs=6 TRES=cpu=6,mem=24000M,node=3\n"
    "PartitionName=short AllowAccounts=ALL AllowQos=ALL MaxNodes=UNLIMITED MaxTime=UNLIMITED Nodes=n0 State=DRAIN\n"
)


def node(gres: str, cpus: int = 64, mem_mib: int = 512000, state: str = "idle", name: str = "n0") -> Node:
    return Node(name, state, cpus, mem_mib, tuple(gres_of(gres)), (), "none")


def test_nodes() -> None:
    found = nodes(SINFO)
    assert [each.name for each in found] == ["n0", "n1", "n2", "n3"]
    assert found[0] == Node("n0", "idle", 64, 515000, (Gres("gpu", "a100", 8),), ("ib", "a100"), "none")
    assert [each.usable for each in found] == [True, True, False, False]
    assert found[3].reason == "NVLink | broken"
    assert (found[0].offered("gpu"), found[0].offered("gpu", "h100"), found[3].offered("gpu")) == (8, 0, 0)


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        ("gpu:2", [Gres("gpu", None, 2)]),
        ("(null)", []),
        ("gpu", [Gres("gpu", None, 1)]),
        ("gpu:4090:4", [Gres("gpu", "4090", 4)]),
        ("gpu:nvidia_h100_80gb_hbm3:8(S:0-3,5)", [Gres("gpu", "nvidia_h100_80gb_hbm3", 8)]),
        ("gpu:tesla:2(S:0),gpu:kepler:4", [Gres("gpu", "tesla", 2), Gres("gpu", "kepler", 4)]),
        ("shard:2K", [Gres("shard", None, 2048)]),
    ],
)  # fmt: skip
def test_gres(printed: str, found: list[Gres]) -> None:
    assert list(gres_of(printed)) == found


def test_partitions() -> None:
    main, short = partitions(PARTITION).values()
    assert (main.state, main.max_time, main.max_nodes) == ("UP", 172800, 4)
    assert (main.allowed("Accounts"), main.allowed("Qos")) == (["lab", "phys"], None)
    assert (short.state, short.max_time, short.max_nodes) == ("DRAIN", None, None)


def test_a_value_may_hold_spaces() -> None:
    assert pairs("JobId=7 JobName=a run Reason=None Command=/a b/c StdOut=/x=y/z") == {
        "JobId": "7", "JobName": "a run", "Reason": "None", "Command": "/a b/c", "StdOut": "/x=y/z",
    }  # fmt: skip


def test_the_controller_s_configuration() -> None:
    printed = "Configuration data as of 2026-11-27\nJobRequeue              = 1\nClusterName             = muster\n"
    assert config(printed) == {"JobRequeue": "1", "ClusterName": "muster"}


# Which GPU that is


@pytest.mark.parametrize(
    ("kind", "gpu", "certain"),
    [
        ("nvidia_a100-sxm4-80gb", "A100-80GB", True),
        ("a100", "A100-40GB", False),
        ("a100_80", "A100-80GB", True),
        ("h100", "H100-80GB", True),
        ("nvidia_h100_80gb_hbm3", "H100-80GB", True),
        ("rtx_4090", "RTX4090-24GB", True),
        ("4090", "RTX4090-24GB", True),
        ("nvidia_geforce_rtx_3090", "RTX3090-24GB", True),
        ("v100", "V100-16GB", False),
        ("mi300", None, False),
        ("nvidia_a100-sxm4-40gb_3g.20gb", "A100 MIG 3g.20gb", True),
        ("h100_1c.3g.40gb", "H100 MIG 1c.3g.40gb", True),
        ("1g.5gb", "A100 MIG 1g.5gb", True),  # the oldest kind that can be divided
    ],
)
def test_a_site_s_type_and_the_catalogue(kind: str, gpu: str | None, certain: bool) -> None:
    found, sure = gpu_of(kind)
    assert (found.name if found else None, sure) == (gpu, certain)


def test_a_slice_has_its_own_memory_and_its_share_of_the_rates() -> None:
    """Never more than the driver shows of it: 4864 MiB of 1g.5gb, 20096 MiB of 3g.20gb."""
    small, large = gpu_of("a100_1g.5gb")[0], gpu_of("a100_3g.20gb")[0]
    assert small is not None
    assert large is not None
    assert (small.memory_bytes, large.memory_bytes) == (4864 << 20, 19 * GIB)
    assert large.rates.flops == pytest.approx(3 / 7 * CATALOGUE["A100-40GB"].rates.flops)
    assert large.rates.link == large.rates.host  # slices reach each other through the host's memory


def test_a_partition_of_one_kind() -> None:
    found = offer([node("gpu:h100:8"), node("gpu:h100:4"), node("(null)")], SlurmSpec())
    assert found is not None
    assert (found.gpus, found.type, found.gpu.name if found.gpu else None, found.note) == (4, "h100", "H100-80GB", "")


def test_nodes_out_of_use_are_not_counted_on() -> None:
    found = offer([node("gpu:h100:8"), node("gpu:h100:4", state="down*")], SlurmSpec())
    assert found is not None
    assert found.gpus == 8


def test_of_several_kinds_the_smallest_is_planned_for_and_the_choice_told() -> None:
    mixed = [node("gpu:h100:8"), node("gpu:v100:8")]
    found = offer(mixed, SlurmSpec())
    assert found is not None
    assert (found.type, found.gpu.name if found.gpu else None) == ("v100", "V100-16GB")
    assert found.note == (
        "the nodes have h100, v100; planned for V100-16GB, the smallest: slurm.gpu_type asks for one of them"
    )
    asked = offer(mixed, SlurmSpec(gpu_type="h100"))
    assert asked is not None
    assert (asked.gpu.name if asked.gpu else None, asked.note) == ("H100-80GB", "")


def test_gres_without_a_type_do_not_tell_what_they_are() -> None:
    found = offer([node("gpu:2")], SlurmSpec())
    assert found is not None
    assert (found.gpus, found.gpu) == (2, None)
    assert offer([node("(null)")], SlurmSpec()) is None
    named = offer([node("gpu:2")], SlurmSpec(gpu_model="A100-80GB"))
    assert named is not None
    assert named.gpu is not None
    assert named.gpu.name == "A100-80GB"


# Shares of a node


def test_cpus_and_memory_go_with_the_gpus() -> None:
    plan = plan_of("2xA100-80GB")
    there = [node("gpu:8", cpus=128, mem_mib=1024000), node("gpu:8", cpus=96, mem_mib=512000)]
    assert (cpus(plan, there), mem(plan, there)) == (24, "128000M")


def test_without_a_partition_s_sizes_the_least_that_processes_need() -> None:
    plan = plan_of("8xA100-80GB")
    assert (cpus(plan, []), mem(plan, [])) == (16, None)


def test_what_the_spec_says_is_taken() -> None:
    plan = plan_of("8xA100-80GB", 1, spec_of(slurm={"cpus_per_task": 7, "mem": "90G"}))
    assert (cpus(plan, [node("gpu:8")]), mem(plan, [node("gpu:8")])) == (7, "90G")
    assert [mem_mib(text) for text in ("0", "512", "1024K", "400G", "1T")] == [0, 512, 1, 409600, 1048576]


def test_cpu_processes_share_by_cpus_and_get_what_the_plan_needs() -> None:
    topology = parse_gpus("2xA100-80GB").model_copy(update={"device": "cpu"})
    plan = plan_of("8xA100-80GB").model_copy(update={"topology": topology})
    assert (cpus(plan, [node("(null)")]), mem(plan, [node("(null)", cpus=8, mem_mib=400000)])) == (2, "100000M")
    needed = plan.memory.host_bytes
    assert mem(plan, [node("(null)", cpus=8, mem_mib=8000)]) == f"{int(1.1 * needed) // 1024**2}M"
