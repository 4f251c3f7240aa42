"""slurm.conf and gres.conf of a cluster for tests: everything that takes a minute on a real one takes seconds here."""

from collections.abc import Mapping
from pathlib import Path

# Each line that is not what a site would write has its reason.
CONF = """\
ClusterName=muster
SlurmctldHost=login({network}.1)
# Jobs run as the user that submits them; the tests are root.
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job may start again only after its old credential has expired: 120 s by default.
AuthInfo=socket={directory}/munge/socket,cred_expire=5
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool/%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmctldLogFile={directory}/log/slurmctld
SlurmdLogFile={directory}/log/%n
SlurmctldDebug=verbose
SlurmdDebug=verbose
# No cgroups: the tests' machine may have v1, v2 or none. Processes of a job are found by their parents.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
MpiDefault=none
MailProg=/bin/true
# The nodes have as many CPUs as the test says, whatever the machine has.
SlurmdParameters=config_overrides
# A node that comes back is used again, whyever it was down: a test needs no administrator.
ReturnToService=2
JobRequeue=1
KillOnBadExit=0
OverTimeLimit=0
# A node is pinged every third of this, and down after this many seconds of silence (300 by default).
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=5
TCPTimeout=2
BatchStartTimeout=10
# From SIGTERM to SIGKILL at a time limit or an scancel: 30 s by default.
KillWait=5
UnkillableStepTimeout=15
CompleteWait=0
InactiveLimit=0
# Without an accounting database a job is forgotten this many seconds after its end.
MinJobAge=300
SchedulerType=sched/backfill
# The main scheduler may run at once after each change, and the other looks every second instead of every 30.
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,bf_interval=1,sched_interval=2
# A job in urgent takes the nodes of jobs in main, which are queued again.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# At preemption the job gets the signal that it asked for with --signal, beside SIGCONT and SIGTERM.
SlurmctldParameters=preempt_send_user_signal
"""

# GraceTime: seconds from the signal of preemption to SIGKILL.
PARTITIONS = {
    "main": "Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=10",
    "short": "Nodes=ALL MaxTime=1 DefaultTime=1 PriorityTier=1 PreemptMode=OFF",
    "urgent": "Nodes=ALL MaxTime=INFINITE DefaultTime=60 PriorityTier=10 PreemptMode=OFF",
}


def slurm_conf(
    directory: Path,
    network: str,
    nodes: Mapping[str, str],
    *,
    cpus: int,
    gpus_per_node: int,
    options: Mapping[str, object],
    partitions: Mapping[str, str],
) -> str:
    """The text of slurm.conf. `nodes` maps names to addresses, `options` replaces or adds whole settings, `partitions` as well
    (None takes one away)."""
    lines = []
    left = {name.lower(): (name, value) for name, value in options.items()}
    for line in CONF.format(directory=directory, network=network).splitlines():
        key = line.split("=")[0]
        if key.lower() in left:
            key, value = left.pop(key.lower())
            line = f"{key}={value}"
        lines.append(line)
    lines += [f"{name}={value}" for name, value in left.values()]
    gres = f"Gres=gpu:{gpus_per_node} " if gpus_per_node else ""
    lines += [
        # Addresses, so that a client on the host needs no /etc/hosts.
        f"NodeName={name} NodeAddr={address} CPUs={cpus} RealMemory=8000 {gres}State=UNKNOWN"
        for name, address in nodes.items()
    ]
    chosen = {**PARTITIONS, **partitions}
    lines += [f"PartitionName={name} {text} State=UP" for name, text in chosen.items() if text is not None]
    return "\n".join(lines) + "\n"


def gres_conf(directory: Path, gpus_per_node: int) -> str:
    """gres.conf: character devices stand for GPUs, so jobs get CUDA_VISIBLE_DEVICES."""
    if not gpus_per_node:
        return ""
    return f"Name=gpu File={directory}/dev/gpu[0-{gpus_per_node - 1}]\n"
