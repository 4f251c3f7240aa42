"""slurm.conf and gres.conf of a cluster for tests: what takes minutes at a site takes seconds here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Each line that a site would not write has its reason.
CONF = """\
ClusterName=muster
SlurmctldHost=login({login})
# Jobs run as the user that submits them, and the tests are root.
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job starts again only after its old credential has expired: 120 s by default.
AuthInfo=socket={directory}/munge/socket,cred_expire=5
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool/%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmctldLogFile={directory}/log/slurmctld
SlurmdLogFile={directory}/log/%n
SlurmctldDebug=verbose
SlurmdDebug=verbose
# Processes of a job are found by their parents: the machine may have cgroups v1, v2 or none.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
MpiDefault=none
MailProg=/bin/true
# The nodes have as many CPUs as the test says, whatever the machine has.
SlurmdParameters=config_overrides
# A node that reports is used again, whyever it was down: no administrator is needed.
ReturnToService=2
# Slurm's defaults, written down because recovery depends on them.
JobRequeue=1
KillOnBadExit=0
OverTimeLimit=0
InactiveLimit=0
# A node is pinged every third of this, and is down after so many seconds of silence: 300 by default.
SlurmdTimeout=10
SlurmctldTimeout=10
# How long a call to a node that does not answer blocks: 10 s by default.
MessageTimeout=5
# From SIGTERM to SIGKILL at a time limit, a requeue or scancel: 30 s by default.
KillWait=5
# Until a node whose job cannot be killed is drained: 60 s by default.
UnkillableStepTimeout=15
# Without an accounting database a job is forgotten so many seconds after its end. Slurm's default.
MinJobAge=300
# Jobs start within a second or two, not at the next turn: every 60 s and, for backfill, every 30 s by default.
# Backfill comes after the main scheduler: what it starts is not saved, and forgotten when slurmctld crashes.
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=5,batch_sched_delay=0
# A job in urgent takes the nodes of jobs in main, which are queued again.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# A preempted job gets the signal that it asked for with --signal, beside SIGCONT and SIGTERM.
SlurmctldParameters=preempt_send_user_signal
"""

# GraceTime: seconds from a preempted job's signal to its SIGKILL. MaxTime and DefaultTime: minutes.
PARTITIONS: Mapping[str, str] = {
    "main": "Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=10",
    "short": "Nodes=ALL MaxTime=1 DefaultTime=1 PriorityTier=1 PreemptMode=OFF",
    "urgent": "Nodes=ALL MaxTime=INFINITE DefaultTime=60 PriorityTier=10 PreemptMode=OFF",
}


@dataclass(frozen=True)
class Settings:
    """What a test chooses. options replace or join CONF, partitions PARTITIONS; one that is None is left out."""

    cpus: int
    gpus_per_node: int
    options: Mapping[str, object]
    partitions: Mapping[str, str | None]


def slurm_conf(directory: Path, addresses: Mapping[str, str], settings: Settings) -> str:
    """The text of slurm.conf. addresses: of login, which runs slurmctld, and of each node."""
    lines = []
    chosen = {name.lower(): f"{name}={value}" for name, value in settings.options.items()}
    for line in CONF.format(directory=directory, login=addresses["login"]).splitlines():
        lines.append(chosen.pop(line.split("=")[0].lower(), line))
    lines += chosen.values()
    gres = f"Gres=gpu:{settings.gpus_per_node} " if settings.gpus_per_node else ""
    for name, address in addresses.items():
        if name != "login":
            # NodeAddr, so that a client on the host needs no /etc/hosts.
            lines.append(f"NodeName={name} NodeAddr={address} CPUs={settings.cpus} RealMemory=8000 {gres}State=UNKNOWN")
    for name, rest in {**PARTITIONS, **settings.partitions}.items():
        if rest is not None:
            lines.append(f"PartitionName={name} {rest} State=UP")
    return "\n".join(lines) + "\n"


# What a site with accounts has in slurm.conf beside CONF. Enforced: who has none gets no job.
ACCOUNTED = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={login}
# Not a password: where munged listens.
AccountingStoragePass={directory}/munge/socket
AccountingStorageEnforce=associations
JobAcctGatherType=jobacct_gather/none
"""
# The database listens on login alone; its root needs no password there.
SLURMDBD = """\
DbdHost=login
DbdAddr={login}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge/socket
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StorageUser=root
PidFile={directory}/slurmdbd.pid
LogFile={directory}/log/slurmdbd
"""


def gres_conf(directory: Path, settings: Settings) -> str:
    """gres.conf: character devices stand for GPUs, so that jobs get CUDA_VISIBLE_DEVICES."""
    if not settings.gpus_per_node:
        return ""
    return f"Name=gpu File={directory}/dev/gpu[0-{settings.gpus_per_node - 1}]\n"
