"""A spec -> a batch job: planned for a partition's GPUs, one run or a sweep, and sent once nobody else has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import IO

import yaml

from launch.claim import PRIVATE, take
from launch.cluster.commands import SlurmError
from launch.cluster.controller import Cluster
from launch.cluster.gpus import Offer, is_slice, offer
from launch.cluster.job import (
    batch_job,
    new_job,
    python_environment,
    record,
    recorded,
    refuse_second,
    submit,
    unrecorded,
)
from launch.cluster.queue import remembered, state_of
from launch.errors import DeviceError, HostError, UsageError
from launch.machine.discover import topology as this_machine
from launch.machine.hardware import Topology, gpu_topology, parse_gpus
from launch.plan import Plan
from launch.preflight import Result, document
from launch.preflight.result import Batch
from launch.render.sbatch import run_script, sweep_script
from launch.rundir import RunDir
from launch.rundir.journal import write_json, write_text
from launch.spec import ClusterSpec
from launch.spec.slurm import SlurmSpec
from launch.wording import plural

# The most elements of a sweep: more are hardly meant, and Slurm's own MaxArraySize is 1001.
MOST_ELEMENTS = 1000


def partition_devices(
    cluster: Cluster, slurm: SlurmSpec, gpus: str | None, warn: Callable[[str], None]
) -> Callable[[ClusterSpec], Topology]:
    """What a run gets in the spec's partition; `gpus` as the user named them with --gpus come first."""

    def devices(asked: ClusterSpec) -> Topology:
        if asked.device == "cpu":
            return _cpu_nodes(asked, cluster)
        if gpus is not None:
            return parse_gpus(gpus, asked.nodes)
        if cluster.silence is not None:
            told, path = cluster.silence.told, ("cluster", "device")
            raise DeviceError(
                path, f"{told}, so its GPUs are not known; {cluster.silence.fix}; or name them with --gpus"
            )
        if lacks := cluster.lacks(slurm.partition):
            raise DeviceError(("slurm", "partition"), f"slurm.partition: {lacks}")
        found = offer(cluster.nodes, slurm)
        if found is None and asked.device == "auto" and cluster.nodes:
            warn(f"partition {slurm.partition} offers no {slurm.gres}: planned for CPU processes")
            return _cpu_nodes(asked, cluster)
        return _gpu_nodes(asked, slurm, found, warn)

    return devices


def _gpu_nodes(asked: ClusterSpec, slurm: SlurmSpec, found: Offer | None, warn: Callable[[str], None]) -> Topology:
    count = asked.devices_per_node
    if slurm.gpu_model is not None:
        named = _model(slurm.gpu_model, asked.nodes)
        there = found.gpus if found is not None else 1
        return named.model_copy(update={"devices_per_node": there if count == "auto" else count})
    if found is None:
        kind = f"{slurm.gres}:{slurm.gpu_type}" if slurm.gpu_type else slurm.gres
        told = f"partition {slurm.partition} has no node with {kind}"
        raise DeviceError(("slurm", "partition"), f"{told}; choose another, or name its GPUs with --gpus 8xA100-80GB")
    if found.gpu is None:
        offered = f"{slurm.gres}:{found.type}:{found.gpus}" if found.type else f"{slurm.gres}:{found.gpus}"
        told = f"partition {slurm.partition} offers {offered}, which does not tell what GPU it is"
        hint = f"name it with slurm.gpu_model, or --gpus {found.gpus}xA100-80GB"
        raise DeviceError(("slurm", "partition"), f"{told}; {hint}")
    if found.note:
        warn(found.note)
    if is_slice(found.gpu):
        if count not in ("auto", 1):
            told = f"cluster.devices_per_node is {count}, but partition {slurm.partition} offers slices ({found.type})"
            why = "of which a process sees one, and which cannot train together"
            raise DeviceError(("cluster", "devices_per_node"), f"{told}, {why}; ask for 1, or another slurm.partition")
        return gpu_topology(found.gpu, asked.nodes, 1)
    return gpu_topology(found.gpu, asked.nodes, found.gpus if count == "auto" else count)


def _model(name: str, nodes: int) -> Topology:
    try:
        return parse_gpus(f"1x{name}", nodes)
    except UsageError as error:
        raise DeviceError(("slurm", "gpu_model"), f"slurm.gpu_model: {str(error).partition(': ')[2]}") from None


def _cpu_nodes(asked: ClusterSpec, cluster: Cluster) -> Topology:
    """CPU processes share the memory of the partition's smallest node."""
    found = this_machine(asked.model_copy(update={"device": "cpu"}))
    sizes = [node.mem_mib for node in cluster.nodes if node.usable and node.mem_mib > 1]
    if not sizes:
        return found
    return found.model_copy(update={"memory_bytes": min(sizes) * 1024**2 // found.devices_per_node})


@dataclass(frozen=True)
class Request:
    """All that is sent to Slurm: what --dry-run prints, and what is checked."""

    runs: list[tuple[Plan, RunDir]]
    """One, or an element each of a sweep."""
    batch: Batch
    file: Path
    """Where the script is written."""
    folder: Path
    """The run directory, or the folder of a sweep."""
    changes: list[list[str]] | None
    """Of each element, what differs; None without a sweep."""

    @property
    def plan(self) -> Plan:
        return self.runs[0][0]

    @property
    def argv(self) -> list[str]:
        return ["sbatch", "--parsable", *self.batch.options, str(self.file)]


def elements(array: Sequence[str]) -> list[list[str]]:
    """`["a.b=1,2", "c.d=x,y"]` to the overrides of each combination, the last key changing fastest.

    A value in brackets or quotes may hold commas: the values are a YAML list. Raises UsageError.
    """
    axes: dict[str, list[str]] = {}
    for axis in array:
        key, equals, text = axis.partition("=")
        try:
            values = yaml.load(f"[{text}]", Loader=yaml.BaseLoader)  # noqa: S506 - strings, lists and mappings alone
        except yaml.YAMLError:
            values = None
        if not equals or not key.strip() or not isinstance(values, list) or not values:
            raise UsageError(f"--array {axis}: is KEY=VALUE,VALUE,... such as training.learning_rate=1e-4,2e-4")
        texts = [
            value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).strip()
            for value in values
        ]
        if len(set(texts)) < len(texts):
            raise UsageError(f"--array {axis}: a value is given twice; each is a run of its own")
        if key.strip().partition(".")[0] == "slurm":
            raise UsageError(f"--array {axis}: all runs of a sweep are one job, which asks Slurm once; use -s instead")
        axes[key.strip()] = [f"{key.strip()}={value}" for value in texts]
    if len(axes) < len(array):
        raise UsageError("--array: a key is given twice; give all its values in one list")
    found = [list(each) for each in product(*axes.values())]
    if len(found) > MOST_ELEMENTS:
        raise UsageError(f"--array: {plural(len(found), 'run')}, the most are {MOST_ELEMENTS}")
    return found


def request(
    plans: Sequence[Plan], folder: Path, changes: list[list[str]] | None, cluster: Cluster, accepted: Sequence[str],
    options: Sequence[str], resume: str = "auto",
) -> Request:  # fmt: skip
    """The job of one plan, or of a sweep's plans. `resume` may name a checkpoint; `never` is done before the job."""
    words = [word for name in accepted for word in ("--accept", name)]
    words += [] if resume in ("auto", "never") else ["--resume", resume]
    place, first = RunDir(folder), plans[0]
    venv, file = python_environment(first), place.job_script
    if changes is None:
        job, runs = batch_job(first, place, cluster.nodes), [(first, place)]
        text = run_script(job, str(file), venv, str(place.spec), str(folder), words)
    else:
        # Every element asks for the same; the plan that needs most of a node decides.
        largest = max(plans, key=lambda plan: (plan.topology.nodes, plan.topology.devices_per_node))
        job = batch_job(largest, place, cluster.nodes, len(plans))
        runs = [(plan, RunDir(folder / str(index))) for index, plan in enumerate(plans)]
        text = sweep_script(job, str(file), venv, str(folder), words)
    return Request(runs, Batch(cluster, job, text, tuple(options)), file, folder, changes)


def refuse_queued(found: Request) -> None:
    """Raises UsageError for a run whose job waits or runs already; a controller that does not answer is told of
    elsewhere. A job that was sent and not recorded, for muster was killed, is recorded now."""
    if found.batch.cluster.silence is not None:
        return
    if lost := unrecorded(found.runs[0][1], found.file):
        _record(found, lost)
    jobs = {run: job for _, run in found.runs if (job := recorded(run)) is not None}
    asked = {job.id if found.changes is None else job.array: run for run, job in jobs.items()}
    for job_id, run in asked.items():
        refuse_second(run, job_id, remembered(job_id))


def send(found: Request, results: Sequence[Result], place: str, resume: str) -> str:
    """Prepares the run directories, submits, records. Returns the job's id.

    Of two that send the same run at once, one waits and then finds the other's job. Raises SlurmError with sbatch's
    words, UsageError for a run that is somebody else's.
    """
    held: list[IO[str]] = []
    try:
        if found.changes is not None:
            found.folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE)
        for plan, run in found.runs:
            held.append(take(run, plan, resume))
        refuse_queued(found)
        for _, run in found.runs:
            run.stop.unlink(missing_ok=True)
            write_json(run.preflight, document(results, place))
        if found.changes is not None:
            _write_sweep(found)
        write_text(found.file, found.batch.script)
        job_id = submit(found.file, found.batch.options)
        _record(found, job_id)
        return job_id
    except OSError as error:
        raise HostError(f"{found.folder}: cannot be written: {error.strerror or error}") from None
    finally:
        for lock in held:
            lock.close()


def _record(found: Request, job_id: str) -> None:
    for index, (plan, run) in enumerate(found.runs):
        whole = job_id if found.changes is None else f"{job_id}_{index}"
        record(run, new_job(whole, plan, found.file, found.batch.cluster.name))


def _write_sweep(found: Request) -> None:
    """folder/N.yaml is what element N trains, and sweep.json what makes it differ."""
    assert found.changes is not None
    for index, (_, run) in enumerate(found.runs):
        write_text(found.folder / f"{index}.yaml", run.spec.read_text(encoding="utf-8"))
    rows = [{"element": index, "run": str(run.root), "changes": changes}
            for index, ((_, run), changes) in enumerate(zip(found.runs, found.changes, strict=True))]  # fmt: skip
    write_json(RunDir(found.folder).sweep, rows)


def taken_back(job_id: str) -> bool:
    """Whether the site has taken away the right to be requeued that the script asks for."""
    try:
        state = state_of(job_id)
    except SlurmError:
        return False
    return state is not None and state.requeue is False
