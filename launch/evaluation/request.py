"""What somebody asks `muster evaluate` for -> a Job, and the place of its results."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Literal, NamedTuple

from launch.errors import DataError, HostError, Mistake, PreflightError, UsageError
from launch.evaluation.asked import Job, decline_pattern, precision_here, processes_for, unused_packages
from launch.evaluation.directory import Evaluation
from launch.machine.discover import cpu_count, topology
from launch.machine.hardware import Topology
from launch.model.architecture import Architecture
from launch.model.files import problems, read_architecture
from launch.plan.kernels import answering_attention
from launch.plan.trained import Trained
from launch.rundir import ADAPTER_CONFIG
from launch.rundir.journal import held
from launch.spec import ClusterSpec, DataSpec, ModelSpec, Quantization
from launch.spec.file import is_hub_data
from training.data.rows.sources import files_of

MAX_LENGTH = 4096  # tokens of a sequence, where no run says


class Options(NamedTuple):
    """Those of the command line."""

    data: str | None
    max_length: int | None
    limit: int | None
    max_new_tokens: int
    batch_size: int
    devices: int | None
    quantization: Quantization | None
    declines: str


def job_of(found: Trained, asked: Options, place: Evaluation) -> tuple[Job, list[str]]:
    """The job, and what the user should know of it.

    Raises UsageError, DataError, PreflightError or NoPlanError for what cannot be evaluated here.
    """
    decline_pattern(asked.declines)
    found.check_base()
    model, architecture = _base(found, asked.quantization)
    data, split, notes = _held_out(found, asked.data, architecture.max_positions)
    if asked.max_length is not None:
        if asked.max_length > architecture.max_positions:
            limit = f"the model's {architecture.max_positions} positions"
            raise UsageError(f"--max-length {asked.max_length} is beyond {limit}; lower it")
        data = data.model_copy(update={"max_length": asked.max_length})
    plan, here = found.plan, _topology(found, asked.devices)
    precision = precision_here(plan.precision if plan else None, here)
    length = data.max_length + asked.max_new_tokens
    # A run's own rows were tokenised when it began.
    own = found.run is not None and plan is not None and data == plan.spec.data
    job = Job(
        name=found.name, adapter=str(found.adapter), step=found.step, model=model, data=data, split=split,
        tokens=str(found.run.tokens if own and found.run else place.tokens), own_tokens=own,
        max_positions=architecture.max_positions,
        precision=precision, attention=answering_attention(model), topology=here,
        processes=processes_for(architecture, model, precision, here, length),
        loss_batch_size=plan.micro_batch_size if plan else 1, answer_batch_size=asked.batch_size, limit=asked.limit,
        max_new_tokens=asked.max_new_tokens, declines=asked.declines, unused=unused_packages(model, found.config),
    )  # fmt: skip
    return job, notes


@contextmanager
def place_for(found: Trained, out: Path | None) -> Iterator[Evaluation]:
    """A directory for the results, this process's alone meanwhile; it goes again where nothing was put into it.

    Raises UsageError for a place that is taken, HostError for one that cannot be written.
    """
    root = found.run.evaluations if found.run else Path("evaluations", found.name)
    free = (root / f"{number:03d}" for number in count(1))
    path = out or next(folder for folder in free if not folder.exists())
    if out is not None and out.exists() and not (out.is_dir() and Evaluation(out).unfinished()):
        raise UsageError(f"--out {out}: exists already; choose another place")
    place = Evaluation(path.resolve())
    try:
        with held(place.root, place.root):
            place.clear()
            try:
                yield place
            finally:
                if not any(place.root.iterdir()):
                    place.root.rmdir()
    except OSError as error:
        reason = f"results cannot be written: {error.strerror}; choose a place with --out"
        raise HostError(f"{place.root}: {reason}") from None


def _base(found: Trained, quantization: Quantization | None) -> tuple[ModelSpec, Architecture]:
    """The base as it was trained, unless another way to hold it is asked for."""
    model = found.plan.spec.model if found.plan else ModelSpec(variant=found.base)
    try:
        architecture = read_architecture(model.variant)
    except UsageError as error:
        where = "model.variant" if found.plan else f"{found.adapter / ADAPTER_CONFIG}: base_model_name_or_path"
        raise UsageError(str(error).replace("model.variant", where, 1)) from None
    lacking = problems(model.variant)
    if lacking:
        raise UsageError("\n".join(lacking))
    if quantization is not None and quantization != model.quantization:
        model = ModelSpec(variant=model.variant, quantization=quantization)
    return model, architecture


class _HeldOut(NamedTuple):
    data: DataSpec
    split: Literal["train", "eval"]
    """Which of its sources is judged."""
    notes: list[str]


def _held_out(found: Trained, asked: str | None, max_positions: int) -> _HeldOut:
    """The rows to judge, beside those that were trained on: one that is among them is no held-out row."""
    spec = found.plan.spec.data if found.plan else None
    source = _source(asked) if asked is not None else spec.eval if spec else None
    if source is None:
        whose = "the run has no data.eval" if spec else "an adapter by itself has no rows"
        raise UsageError(f"{found.adapter}: {whose}; name held-out ones with --data")
    files_of(source)  # raises DataError for what is not there
    if spec is None:
        alone = DataSpec(train=source, max_length=min(MAX_LENGTH, max_positions))
        why = "what it was trained on is not known"
    else:
        try:
            files_of(spec.train)
            return _HeldOut(spec.model_copy(update={"eval": source}), "eval", [])
        except DataError:
            alone = spec.model_copy(update={"train": source, "eval": None})
            why = f"{spec.train}, which it was trained on, is not here"
    return _HeldOut(alone, "train", [f"{why}: whether these rows are among it was not looked at"])


def _source(asked: str) -> str:
    if Path(asked).exists() or any(character in asked for character in "*?["):
        return str(Path(asked).absolute())
    if is_hub_data(asked):
        return asked
    raise DataError([Mistake(f"--data {asked}", 0, 0, "no such file or folder")])


def _topology(found: Trained, devices: int | None) -> Topology:
    on_cpu = found.plan is not None and found.plan.spec.cluster.device == "cpu"
    cluster = ClusterSpec(device="cpu" if on_cpu else "auto", devices_per_node=devices or "auto")
    try:
        here = topology(cluster)
        if here.device == "cpu" and here.devices_per_node > cpu_count():
            raise PreflightError(
                f"{here.devices_per_node} CPU processes on {cpu_count()} cores; ask for as many or fewer"
            )
        return here
    except PreflightError as error:
        raise PreflightError(f"--devices {devices}: {error}" if devices else str(error)) from None
