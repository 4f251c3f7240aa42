"""What is planned for a partition, and which runs a sweep has."""

import pytest

from launch.cluster.answers import Gres, Node, Partition
from launch.cluster.commands import SlurmError
from launch.cluster.controller import Cluster
from launch.errors import DeviceError, UsageError
from launch.machine.hardware import Topology
from launch.spec import ClusterSpec
from launch.spec.slurm import SlurmSpec
from launch.submit.job import elements, partition_devices


def cluster(kind: str | None = "a100", number: int = 8) -> Cluster:
    node = Node("n0", "idle", 64, 512000, (Gres("gpu", kind, number),) if number else (), (), "none")
    return Cluster(partitions={"gpu": Partition("gpu", {})}, nodes=[node])


def planned(
    there: Cluster, asked: ClusterSpec | None = None, gpus: str | None = None, **slurm: str
) -> tuple[Topology, list[str]]:
    told: list[str] = []
    spec = SlurmSpec.model_validate(slurm)
    return partition_devices(there, spec, gpus, told.append)(asked or ClusterSpec(nodes=2)), told


def refused(there: Cluster, asked: ClusterSpec | None = None, **slurm: str) -> str:
    with pytest.raises(DeviceError) as error:
        planned(there, asked, **slurm)
    return str(error.value)


def test_the_partition_s_own_gpus() -> None:
    found, told = planned(cluster("h100", 4))
    assert (found.nodes, found.devices_per_node, found.device_name, told) == (2, 4, "H100-80GB", [])


def test_of_slices_a_process_sees_one() -> None:
    """Seven slices of a node are not seven GPUs to train on together."""
    found, told = planned(cluster("a100_1g.5gb", 7))
    assert (found.devices_per_node, found.device_name, told) == (1, "A100 MIG 1g.5gb", [])
    assert refused(cluster("a100_1g.5gb", 7), ClusterSpec(devices_per_node=2)) == (
        "cluster.devices_per_node is 2, but partition gpu offers slices (a100_1g.5gb), of which a process sees one, and"
        " which cannot train together; ask for 1, or another slurm.partition"
    )


def test_what_the_user_names_comes_first() -> None:
    found, _ = planned(cluster("h100", 4), gpus="8xA100-80GB")
    assert (found.devices_per_node, found.device_name) == (8, "A100-80GB")


def test_the_spec_s_number_of_devices_is_kept() -> None:
    found, _ = planned(cluster("h100", 8), ClusterSpec(devices_per_node=2))
    assert found.devices_per_node == 2


def test_a_type_that_comes_with_several_memories_is_planned_as_the_smallest_and_told() -> None:
    found, told = planned(cluster("a100"))
    assert found.device_name == "A100-40GB"
    assert told == [
        "a100 does not tell how much memory it has; planned for A100-40GB, the smallest: slurm.gpu_model names another"
    ]


def test_the_spec_may_say_what_the_site_s_types_do_not() -> None:
    found, told = planned(cluster(None), gpu_model="A100-80GB")
    assert (found.device_name, found.devices_per_node, told) == ("A100-80GB", 8, [])
    told = refused(cluster(None), gpu_model="A100")
    assert told.startswith("slurm.gpu_model: not COUNTxTYPE with a known type. Did")


def test_gpus_that_nothing_tells_of() -> None:
    assert refused(cluster(None, 2)) == (
        "partition gpu offers gpu:2, which does not tell what GPU it is; name it with slurm.gpu_model, or --gpus"
        " 2xA100-80GB"
    )
    assert refused(cluster("mi300", 2)).startswith("partition gpu offers gpu:mi300:2, which does not tell")


def test_a_partition_without_gpus() -> None:
    assert refused(cluster(number=0), ClusterSpec(device="gpu")) == (
        "partition gpu has no node with gpu; choose another, or name its GPUs with --gpus 8xA100-80GB"
    )
    found, told = planned(cluster(number=0), ClusterSpec(devices_per_node=4))
    assert (found.device, found.memory_bytes) == ("cpu", 512000 * 1024**2 // 4)
    assert told == ["partition gpu offers no gpu: planned for CPU processes"]


def test_a_partition_that_is_not_there() -> None:
    assert refused(cluster(), partition="gpux") == (
        "slurm.partition: there is no partition gpux (did you mean gpu?); there are: gpu"
    )


def test_a_cluster_that_does_not_answer() -> None:
    silent = Cluster(silence=SlurmError("absent", "sbatch is not on this machine", "use a login node"))
    assert refused(silent) == (
        "sbatch is not on this machine, so its GPUs are not known; use a login node; or name them with --gpus"
    )
    assert planned(silent, gpus="8xA100-80GB")[0].device_name == "A100-80GB"


# Sweeps


def test_a_sweep_has_a_run_for_each_combination() -> None:
    assert elements(["training.learning_rate=1e-4,2e-4", "lora.rank=8,16"]) == [
        ["training.learning_rate=1e-4", "lora.rank=8"],
        ["training.learning_rate=1e-4", "lora.rank=16"],
        ["training.learning_rate=2e-4", "lora.rank=8"],
        ["training.learning_rate=2e-4", "lora.rank=16"],
    ]


def test_a_value_may_be_a_list() -> None:
    assert elements(["lora.target_modules=[q_proj, v_proj],all-linear"]) == [
        ["lora.target_modules=[q_proj, v_proj]"],
        ["lora.target_modules=all-linear"],
    ]


@pytest.mark.parametrize("axis", ["training.seed", "=1,2", "training.seed=", "training.seed=[1"])
def test_what_is_no_sweep(axis: str) -> None:
    with pytest.raises(UsageError, match="is KEY=VALUE,VALUE"):
        elements([axis])


@pytest.mark.parametrize("key", ["slurm.time", "slurm.environment.NCCL_DEBUG", "slurm"])
def test_a_sweep_is_one_job_which_asks_slurm_once(key: str) -> None:
    with pytest.raises(UsageError, match="one job, which asks Slurm once; use -s instead"):
        elements([f"{key}=1,2"])


def test_a_key_of_two_lists() -> None:
    """The second would come after the first in each run, and two runs be the same."""
    with pytest.raises(UsageError, match="a key is given twice; give all its values in one list"):
        elements(["lora.rank=8,16", "lora.rank=4,2"])


def test_a_sweep_that_says_a_value_twice_or_is_too_large() -> None:
    with pytest.raises(UsageError, match="a value is given twice"):
        elements(["training.seed=1,1"])
    with pytest.raises(UsageError, match="1,024 runs, the most are 1000"):
        elements(["training.seed=" + ",".join(map(str, range(32))), "lora.rank=" + ",".join(map(str, range(1, 33)))])
