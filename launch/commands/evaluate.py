"""`muster evaluate`: what an adapter has learnt, beside its base."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from launch.commands.options import AsJson, Source
from launch.commands.resolving import place_of
from launch.terminal import console, print_json, say, show


def evaluate(
    source: Source,
    data: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Held-out rows.  [default: the run's data.eval]", show_default=False),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of a row with its answer.  [default: as in training]", show_default=False),
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
    as_json: AsJson = False,
) -> None:
    """Measure held-out loss, answers, citations and declined questions of an adapter and of its base."""
    from launch.evaluation import DECLINES
    from launch.evaluation.processes import evaluate_job
    from launch.evaluation.request import Options, job_of, place_for
    from launch.evaluation.screen import answers_view, evaluation_view
    from launch.plan.trained import trained
    from launch.rundir.journal import rows

    found = trained(place_of(source))
    asked = Options(
        data,
        max_length,
        limit,
        max_new_tokens,
        batch_size,
        devices,
        quantization,
        DECLINES if declines is None else declines,
    )
    with place_for(found, out) as place:
        job, notes = job_of(found, asked, place)
        say(
            f"{found.name} and its base {found.base_name} on {job.source}: results go to {place.root}",
            *(f"warning: {note}" for note in notes),
        )
        report = evaluate_job(job, place, console())
    if as_json:
        print_json(report)
        return
    screen = console(stderr=False)
    screen.print(evaluation_view(report))
    if examples:
        screen.print(answers_view(list(rows(place.answers)), examples))
    show(str(place.root))
