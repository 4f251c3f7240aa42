"""A batch job before it waits: the login node knows what the controller will say hours later.

`muster submit` alone looks at these; elsewhere they are skipped.
"""

import os
from collections.abc import Callable
from pathlib import Path

from launch.cluster.answers import Node
from launch.cluster.commands import SlurmError, slurm
from launch.cluster.gpus import offer
from launch.cluster.job import python_environment
from launch.cluster.shares import MIB, mem_mib
from launch.cluster.storage import same_host, storage_of
from launch.machine.hardware import GIB
from launch.model.files import find
from launch.preflight.check import Check
from launch.preflight.result import Batch, Context, Finding, failed, passed, unknown, warned
from launch.spec.slurm import is_file
from launch.wording import amount, plural, span

MAN = "man sbatch"


def controller(context: Context) -> Finding:
    """Without an answer nothing else can be looked at."""
    cluster = _batch(context).cluster
    if cluster.silence is not None:
        return failed(cluster.silence.told, cluster.silence.fix, silence=cluster.silence.silence)
    version = cluster.config.get("SLURM_VERSION", "?")
    return passed(f"cluster {cluster.name} answers (Slurm {version})", cluster=cluster.name, version=version)


def partition(context: Context) -> Finding:
    cluster, name = _batch(context).cluster, context.plan.spec.slurm.partition
    found = cluster.partitions.get(name)
    if found is None:
        return failed(str(cluster.lacks(name)), "slurm.partition: one of these")
    if found.state != "UP":
        return failed(
            f"partition {name} is {found.state}", "choose another with slurm.partition, or ask its administrator"
        )
    down = [node for node in cluster.nodes if not node.usable]
    told = f"{name} is up, {plural(len(cluster.nodes), 'node')}"
    return passed(f"{told}, {len(down)} of them out of use" if down else told, nodes=len(cluster.nodes), down=len(down))


def account(context: Context) -> Finding:
    """What the partition and the accounting database let this user use."""
    cluster, asked = _batch(context).cluster, context.plan.spec.slurm
    for what, value in (("Accounts", asked.account), ("Qos", asked.qos)):
        allowed = cluster.partitions[asked.partition].allowed(what)
        if allowed is not None and value is not None and value not in allowed:
            fix = f"slurm.{'account' if what == 'Accounts' else 'qos'}: one of these, or another partition"
            return failed(f"partition {asked.partition} takes {', '.join(allowed)}, not {value}", fix)
    if asked.reservation is not None and cluster.reservation is None:
        return failed(f"there is no reservation {asked.reservation}", "scontrol show reservation names those there are")
    if cluster.associations is None:
        return _no_database(context)
    accounts = dict(cluster.associations)
    if asked.account is not None and asked.account not in accounts:
        told = f"this user may not use account {asked.account}; {_one_of(list(accounts))}"
        return failed(told, "slurm.account: one of these, or ask for it")
    usable = {qos for name, allowed in accounts.items() if asked.account in (None, name) for qos in allowed}
    if asked.qos is not None and asked.qos not in usable:
        return failed(f"this user may not use qos {asked.qos}; {_one_of(sorted(usable))}", "slurm.qos: one of these")
    return passed(f"account {asked.account or 'by default'}, qos {asked.qos or 'by default'}: the database knows both")


def _one_of(names: list[str]) -> str:
    return f"allowed: {', '.join(names)}" if names else "it may use none"


def _no_database(context: Context) -> Finding:
    cluster, asked = _batch(context).cluster, context.plan.spec.slurm
    if cluster.accounting_silence is not None:
        return unknown(cluster.accounting_silence.told, cluster.accounting_silence.fix)
    if asked.account is None and asked.qos is None:
        return passed("none is asked for, and this site keeps no accounts (no slurmdbd)")
    return unknown("this site has no slurmdbd that could say who may use what", "see whether the job waits for it")


def time_limit(context: Context) -> Finding:
    cluster, asked = _batch(context).cluster, context.plan.spec.slurm
    longest, wanted = cluster.partitions[asked.partition].max_time, asked.time_seconds
    values = {"asked": wanted, "allowed": longest}
    if longest is not None and (wanted == 0 or wanted > longest):
        told = f"{asked.time} is asked for, partition {asked.partition} allows {_clock(longest)}"
        fix = f'slurm.time: "{_clock(longest)}"; the run saves before the end and goes on in the next job'
        return failed(told, fix if asked.requeue else f'slurm.time: "{_clock(longest)}"', **values)
    if wanted and context.plan.duration_seconds and context.plan.duration_seconds > wanted and not asked.requeue:
        told = f"the plan expects {span(context.plan.duration_seconds)}, the job has {_clock(wanted)}"
        return warned(told, "raise slurm.time, or slurm.requeue: true to go on in the next job", **values)
    return passed(f"{asked.time} of {'no limit' if longest is None else _clock(longest)}", **values)


def _clock(seconds: int) -> str:
    """D-HH:MM:SS, the way Slurm writes it."""
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def nodes(context: Context) -> Finding:
    """The run's and the spares are there, and are as large as the job asks."""
    batch = _batch(context)
    job, slurm_spec = batch.job, context.plan.spec.slurm
    most = batch.cluster.partitions[slurm_spec.partition].max_nodes
    spares = f" ({slurm_spec.spares} of them spares)" if slurm_spec.spares else ""
    told = f"{plural(job.nodes, 'node')}{spares} asked for"
    if most is not None and job.nodes > most:
        return failed(f"{told}, partition {slurm_spec.partition} allows {most}", "lower cluster.nodes or slurm.spares")
    large = [node for node in batch.cluster.nodes if _large(node, batch)]
    size = plural(job.cpus_per_task, "CPU") + (f" and {job.mem} of memory" if job.mem else "")
    if len(large) < job.nodes:
        sizes = sorted({f"{node.cpus} CPUs, {node.mem_mib} MiB" for node in batch.cluster.nodes})
        fix = "lower cluster.nodes, slurm.spares, slurm.cpus_per_task or slurm.mem"
        told = f"{told} with {size} each, {len(large)} of {len(batch.cluster.nodes)} have that"
        return failed(f"{told} (nodes have {'; '.join(sizes)})", fix, nodes=len(large))
    up = [node for node in large if node.usable]
    if len(up) < job.nodes:
        reasons = "; ".join(f"{node.name} {node.state} ({node.reason})" for node in large if not node.usable)
        fix = "the job waits until they are back; lower cluster.nodes or slurm.spares to start sooner"
        return warned(f"{told}, {len(up)} in use now: {reasons}", fix, nodes=len(up))
    return passed(f"{told}, {len(up)} there", nodes=len(up))


def _large(node: Node, batch: Batch) -> bool:
    mem = mem_mib(batch.job.mem) if batch.job.mem else 0
    excluded = node.name in batch.job.slurm.exclude
    return not excluded and node.cpus >= batch.job.cpus_per_task and node.mem_mib >= mem


def memory(context: Context) -> Finding:
    """Slurm ends a job that takes more host memory than it asked for."""
    batch, needed = _batch(context), context.plan.memory.host_bytes
    asked = mem_mib(batch.job.mem) * MIB if batch.job.mem else None
    if asked == 0:  # all of a node
        asked = min((node.mem_mib * MIB for node in batch.cluster.nodes), default=None)
    if asked is None:
        told = f"the plan needs {amount(needed)}; what the site gives by default is not known"
        return unknown(told, "set slurm.mem")
    told = f"{amount(asked)} on each node, the plan needs {amount(needed)}"
    if asked < needed:
        return failed(
            told, f"slurm.mem: {-(-needed // GIB)}G, or fewer processes on a node", asked=asked, needed=needed
        )
    return passed(told, asked=asked, needed=needed)


def gres(context: Context) -> Finding:
    """Enough nodes offer the GPUs that the job asks for."""
    batch = _batch(context)
    job, asked = batch.job, context.plan.spec.slurm
    having = [node for node in batch.cluster.nodes if node.offered(asked.gres, asked.gpu_type) >= job.gpus_per_node]
    wanted = ":".join(filter(None, (asked.gres, asked.gpu_type, str(job.gpus_per_node))))
    there = sorted({_gres(node) for node in batch.cluster.nodes})
    if len(having) < job.nodes:
        told = f"{wanted} on {plural(job.nodes, 'node')}, {len(having)} of {len(batch.cluster.nodes)} offer it"
        fix = "lower cluster.devices_per_node or cluster.nodes, or change slurm.gpu_type, slurm.gres or slurm.partition"
        return failed(f"{told} (partition {asked.partition} has {'; '.join(there)})", fix, there=there)
    return passed(f"{wanted} on {plural(job.nodes, 'node')}, {len(having)} offer it", there=there)


def _gres(node: Node) -> str:
    return ",".join(f"{g.name}:{g.type}:{g.number}" if g.type else f"{g.name}:{g.number}" for g in node.gres) or "none"


def gpus(context: Context) -> Finding:
    """The plan is for what the partition has."""
    batch, topology = _batch(context), context.plan.topology
    found = offer(batch.cluster.nodes, context.plan.spec.slurm)
    planned = f"planned for {topology.device_name}"
    if found is None or found.gpu is None:
        kind = f" {found.type}" if found and found.type else ""
        return unknown(f"{planned}; what GPU{kind} the nodes have, their GRES do not tell", "name it: slurm.gpu_model")
    if found.gpu.name != topology.device_name:
        return warned(f"{planned}, the partition has {found.gpu.name}", "plan for that, or ask for it: slurm.gpu_type")
    return warned(f"{planned}: {found.note}", "name it: slurm.gpu_model") if found.note else passed(planned)


def requeue(context: Context) -> Finding:
    cluster, asked = _batch(context).cluster, context.plan.spec.slurm
    if not asked.requeue:
        return warned("slurm.requeue is false: at the time limit, or preempted, the run ends with exit code 75",
                      "submit it again to go on: muster submit")  # fmt: skip
    plugins = cluster.config.get("JobSubmitPlugins", "(null)")
    if cluster.config.get("JobRequeue") == "0":
        rules = "" if plugins in ("(null)", "") else f"; its own rules ({plugins}) may still refuse it"
        told = f"jobs of this site are not requeued unless they ask (JobRequeue=0), and this one asks{rules}"
        return warned(told, "where requeued jobs are not allowed: slurm.requeue: false, and submit again by hand")
    mode = cluster.partitions[asked.partition].values.get("PreemptMode", "OFF")
    if mode.upper().startswith("CANCEL"):
        told = f"partition {asked.partition} cancels what it preempts (PreemptMode={mode})"
        return warned(told, "the run saves if it is given the time; submit it again to go on")
    return passed(f"a job may be requeued (JobRequeue={cluster.config.get('JobRequeue', '?')})")


def shared(context: Context) -> Finding:
    """What the job's nodes open is on storage that they see."""
    plan, names = context.plan, [node.name for node in _batch(context).cluster.nodes]
    model = find(plan.spec.model.variant)
    places = {"the run directory": context.run.root, "the Python environment": Path(python_environment(plan))}
    places |= {"the model": model} if model is not None else {}
    places |= {f"data.{key}": Path(source) for key in ("train", "eval")
               if (source := getattr(plan.spec.data, key)) and Path(source).is_absolute()}  # fmt: skip
    image = plan.spec.slurm.container.image
    places |= {"the image": Path(image)} if image is not None and is_file(image) else {}
    found = {what: (place, storage_of(place)) for what, place in places.items()}
    if same_host(names):
        return passed("the only node is this machine")
    local = {what: item for what, item in found.items() if item[1].shared is False}
    if local:
        told = "; ".join(f"{what} {place} is on {s.kind} ({s.mount})" for what, (place, s) in local.items())
        fix = "move it to storage that all nodes mount (df -T), or --accept slurm-shared where they see this one"
        return failed(f"of this machine alone, as far as it can tell: {told}", fix)
    odd = {what: s.kind for what, (_, s) in found.items() if s.shared is None}
    if odd:
        told = ", ".join(f"{what} is on {kind}" for what, kind in odd.items())
        return unknown(f"{told}, which does not tell whether others see it", "see df -T on a node of the partition")
    kinds = sorted({f"{s.kind} {s.mount}" for _, s in found.values()})
    return passed(f"on {', '.join(kinds)}", kinds=kinds)


def environment(context: Context) -> Finding:
    python = Path(python_environment(context.plan), "bin", "python")
    if not os.access(python, os.X_OK):
        return failed(f"{python} is not there or cannot be run", "slurm.venv: the folder of a Python environment")
    return passed(str(python))


def accepts(context: Context) -> Finding:
    """The controller judges the script itself: limits, rules of the site, what no other check knows."""
    batch = _batch(context)
    try:
        slurm("sbatch", "--test-only", *batch.options, text=batch.script, seconds=DEADLINE - 5)
    except SlurmError as error:
        down = any(not node.usable for node in batch.cluster.nodes)
        return (warned if down and "not available" in error.told else failed)(error.told, error.fix)
    return passed("the controller would take this job")


DEADLINE = 35.0


def _batch(context: Context) -> Batch:
    assert context.batch is not None, "skipped by _no_job"
    return context.batch


def _no_job(context: Context) -> str | None:
    return None if context.batch is not None else "not a batch job: muster submit looks"


def _no_answer(context: Context) -> str | None:
    if context.batch is not None and context.batch.cluster.silence is not None:
        return "the controller does not answer"
    return _no_job(context)


def _no_partition(context: Context) -> str | None:
    if reason := _no_answer(context):
        return reason
    name = context.plan.spec.slurm.partition
    return None if name in _batch(context).cluster.partitions else f"there is no partition {name}"


def _no_gpus(context: Context) -> str | None:
    return _no_partition(context) or (None if context.gpus else "the plan trains on the CPU")


def _check(
    name: str, finds: str, threshold: str, run: Callable[[Context], Finding],
    concerns: Callable[[Context], str | None] = _no_partition, deadline: float = 5.0,
) -> Check:  # fmt: skip
    return Check(f"slurm-{name}", "slurm", finds, threshold, run, concerns, deadline)


CHECKS = (
    _check("controller", "no sbatch here, no munge, no slurmctld", "each answers", controller, _no_job),
    _check("partition", "a partition that is not there or not up", "scontrol show partition", partition, _no_answer),
    _check(
        "account", "an account, QOS or reservation that this user may not use", "sacctmgr, AllowAccounts, AllowQos",
        account,
    ),
    _check("time", "a time limit beyond the partition's", "MaxTime", time_limit),
    _check("nodes", "fewer nodes of that size than asked for", "MaxNodes, sinfo", nodes),
    _check("memory", "less host memory than the plan needs", "the plan's host_bytes", memory),
    _check("gres", "GPUs that the partition does not offer", "GRES of its nodes (sinfo)", gres, _no_gpus),
    _check("gpus", "a plan for other GPUs than the partition has", "the type of its GRES", gpus, _no_gpus),
    _check("requeue", "a site that does not requeue jobs by itself", "JobRequeue, PreemptMode (slurm.conf)", requeue),
    _check("shared", "files that the nodes will not see", "a file system of the network, or exported here", shared),
    _check("environment", "no Python where the job looks for it", "bin/python can be run", environment, _no_job),
    _check("accepts", "a job that the controller refuses", "sbatch --test-only", accepts, deadline=DEADLINE),
)  # fmt: skip
