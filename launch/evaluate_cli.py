"""`muster evaluate`: what an adapter has learnt, beside its base."""

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from launch.terminal import print_json, say, show

if TYPE_CHECKING:
    from launch.architecture import Architecture
    from launch.evaluation import Job
    from launch.hardware import Topology
    from launch.rundir import Evaluation
    from launch.spec import DataSpec, ModelSpec, Quantization
    from launch.trained import Trained


def evaluate(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|ADAPTER", help="A run directory, one of its checkpoints, or an adapter.")
    ],
    data: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Held-out rows.  [default: the run's data.eval]", show_default=False),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=0, help="Answer only so many questions, spread evenly; 0 measures the loss alone."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens after which an answer is cut off.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered together on each device.")] = 16,
    devices: Annotated[
        int | None,
        typer.Option(min=1, help="Devices to use.  [default: all GPUs, or one CPU process]", show_default=False),
    ] = None,
    quantization: Annotated[
        Literal["none", "nf4", "int8"] | None,
        typer.Option(help="How the base is held.  [default: as it was trained]", show_default=False),
    ] = None,
    declines: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="What an answer's first sentence says when it declines.  [default: in several ways, see docs]",
            show_default=False,
        ),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Answers to show.")] = 3,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where report and answers go.  [default: RUN/evaluations/NNN, or evaluations/NAME/NNN]",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Measure held-out loss, answers, citations and declined questions of an adapter and of its base."""
    from launch.evaluation import DECLINES
    from launch.evaluation import declines as compiled
    from launch.evaluators import evaluate_job
    from launch.journal import rows
    from launch.screen import answers_view, console, evaluation_view
    from launch.trained import trained

    compiled(declines or DECLINES)
    found = trained(source)
    found.check_base()
    job = _job(found, data, quantization, devices, limit, max_new_tokens, batch_size, declines or DECLINES)
    place = _place(found, out)
    screen = console()
    say(f"{found.name} and its base {found.base_name} on {job.data.train}: results go to {place.root}")
    report = evaluate_job(job, place, screen)
    if as_json:
        print_json(report)
        return
    screen = console(stderr=False)
    screen.print(evaluation_view(report))
    if examples:
        screen.print(answers_view(list(rows(place.answers)), examples))
    show(str(place.root))


def _job(
    found: "Trained",
    data: str | None,
    quantization: "Quantization | None",
    devices: int | None,
    limit: int | None,
    max_new_tokens: int,
    batch_size: int,
    declines: str,
) -> "Job":
    """Raises UsageError, DataError, DeviceError or NoPlanError for what cannot be evaluated here."""
    from launch.evaluation import Job, precision_here, processes_for
    from training.data.sources import files_of

    model, architecture = _base(found, quantization)
    rows = _rows(found, data, architecture.max_positions)
    files_of(rows.train)
    plan, here = found.plan, _topology(found, devices)
    precision = precision_here(plan.precision if plan else None, here)
    processes = processes_for(architecture, model, precision, here, rows.max_length + max_new_tokens)
    return Job(
        name=found.name, adapter=str(found.adapter), step=found.step, model=model, data=rows,
        max_positions=architecture.max_positions, precision=precision, attention=plan.attention if plan else "sdpa",
        topology=here, processes=processes, loss_batch_size=plan.micro_batch_size if plan else 1,
        batch_size=batch_size, limit=limit, max_new_tokens=max_new_tokens, declines=declines,
    )  # fmt: skip


def _base(found: "Trained", quantization: "Quantization | None") -> "tuple[ModelSpec, Architecture]":
    """The base as it was trained, unless another way to hold it is asked for."""
    from launch.errors import UsageError
    from launch.model_files import problems, read_architecture
    from launch.rundir import ADAPTER_CONFIG
    from launch.spec import ModelSpec

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


def _rows(found: "Trained", data: str | None, max_positions: int) -> "DataSpec":
    """Held-out rows, in the place of rows to train on; read as those of the run were."""
    from launch.errors import UsageError
    from launch.spec import DataSpec

    held_out = found.plan.spec.data.eval if found.plan else None
    if data is not None:
        source = _source(data)
    elif held_out is not None:
        source = held_out
    else:
        whose = "the run has no data.eval" if found.plan else "an adapter by itself has no rows"
        raise UsageError(f"{found.adapter}: {whose}; name held-out ones with --data")
    if found.plan is None:
        return DataSpec(train=source, max_length=min(DataSpec.model_fields["max_length"].default, max_positions))
    return found.plan.spec.data.model_copy(update={"train": source, "eval": None})


def _source(data: str) -> str:
    from launch.errors import DataError, Mistake
    from launch.specfile import is_hub_data

    if Path(data).exists() or any(character in data for character in "*?["):
        return str(Path(data).absolute())
    if is_hub_data(data):
        return data
    raise DataError([Mistake(f"--data {data}", 0, 0, "no such file or folder")])


def _topology(found: "Trained", devices: int | None) -> "Topology":
    from launch.discover import topology
    from launch.errors import PreflightError
    from launch.spec import ClusterSpec

    on_cpu = found.plan is not None and found.plan.spec.cluster.device == "cpu"
    cluster = ClusterSpec(device="cpu" if on_cpu else "auto", devices_per_node=devices or "auto")
    try:
        return topology(cluster)
    except PreflightError as error:
        raise PreflightError(f"--devices {devices}: {error}" if devices else str(error)) from None


def _place(found: "Trained", out: Path | None) -> "Evaluation":
    """A new directory for the results."""
    from launch.errors import HostError, UsageError
    from launch.rundir import Evaluation

    root = found.run.evaluations if found.run else Path("evaluations", found.name)
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: exists already; choose another place")
    try:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            return Evaluation(out.resolve())
        for number in count(1):
            place = (root / f"{number:03d}").resolve()
            try:
                place.mkdir(parents=True)
                return Evaluation(place)
            except FileExistsError:
                continue
    except OSError as error:
        raise HostError(
            f"{out or root}: results cannot be written: {error.strerror}; choose a place with --out"
        ) from None
    raise AssertionError("count() does not end")
