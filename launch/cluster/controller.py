"""Asks the controller once for all that a job's checks need."""

import difflib
import getpass
from dataclasses import dataclass, field

from launch.cluster.answers import NODE_FORMAT, Node, Partition, config, nodes, pairs, partitions
from launch.cluster.commands import SlurmError, slurm
from launch.spec.slurm import SlurmSpec

SLURMDBD = "accounting_storage/slurmdbd"


@dataclass(frozen=True)
class Cluster:
    """What the controller says. Where `silence` is not None it has not answered, and all else is empty."""

    silence: SlurmError | None = None
    config: dict[str, str] = field(default_factory=dict)
    partitions: dict[str, Partition] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    """Of the partition that was asked for."""
    associations: list[tuple[str, tuple[str, ...]]] | None = None
    """The user's accounts, each with the QOS that it may use; None without an accounting database."""
    accounting_silence: SlurmError | None = None
    """Why there is none, although the site has one."""
    reservation: dict[str, str] | None = None
    """The one that was asked for; None where there is none of that name."""

    def lacks(self, partition: str) -> str | None:
        """That there is no such partition, with the nearest of those there are; None where there is."""
        if partition in self.partitions:
            return None
        near = difflib.get_close_matches(partition, self.partitions, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"there is no partition {partition}{hint}; there are: {', '.join(self.partitions)}"

    @property
    def name(self) -> str:
        return self.config.get("ClusterName", "")

    @property
    def accounting(self) -> bool:
        """Whether jobs outlive the controller's memory, in slurmdbd."""
        return self.config.get("AccountingStorageType") == SLURMDBD


def ask(slurm_spec: SlurmSpec) -> Cluster:
    """The cluster as the spec's partition shows it."""
    try:
        # Of all commands the one that fails without a job being made, where sbatch is missing but the others are not.
        slurm("sbatch", "--version")
        found = config(slurm("scontrol", "show", "config"))
        parts = partitions(slurm("scontrol", "--oneliner", "--all", "show", "partition"))
        there: list[Node] = []
        if slurm_spec.partition in parts:
            asked = f"--partition={slurm_spec.partition}"
            there = nodes(slurm("sinfo", "--noheader", "--Node", asked, f"--format={NODE_FORMAT}"))
    except SlurmError as error:
        return Cluster(silence=error)
    associations, silence = None, None
    if found.get("AccountingStorageType") == SLURMDBD:
        try:
            associations = _associations()
        except SlurmError as error:
            silence = error
    return Cluster(None, found, parts, there, associations, silence, _reservation(slurm_spec.reservation))


def _associations() -> list[tuple[str, tuple[str, ...]]]:
    user = f"user={getpass.getuser()}"
    printed = slurm(
        "sacctmgr", "--noheader", "--parsable2", "show", "associations", "where", user, "format=Account,QOS"
    )
    rows = [line.split("|") for line in printed.splitlines() if "|" in line]
    return [(account, tuple(qos for qos in allowed.split(",") if qos)) for account, allowed in rows]


def _reservation(name: str | None) -> dict[str, str] | None:
    if name is None:
        return None
    try:
        return pairs(slurm("scontrol", "--oneliner", "show", "reservation", name)) or None
    except SlurmError:
        return None
