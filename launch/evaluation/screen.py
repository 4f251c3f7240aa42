"""Evaluations for people, as rich tables."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from launch.evaluation.asked import MEASURES, MODELS, chosen
from launch.wording import plural, printable

ANSWER_SHOWN = 400  # characters of an answer on the screen; answers.jsonl has it whole


def evaluation_view(report: dict[str, Any]) -> RenderableType:
    """Base and adapter side by side. A number that nothing was found for is a dash."""
    table = Table(box=None, pad_edge=False)
    table.add_column(style="bold")
    for model in MODELS:
        table.add_column(model, justify="right")
    for key, name, form in MEASURES:
        values = [report[model][key] for model in MODELS]
        table.add_row(name, *("-" if value is None else form.format(value) for value in values))
    asked = f"{plural(report['questions'], 'question')} answered, {report['unanswerable']} of them unanswerable"
    head = (
        f"{report['name']}: {plural(report['samples'], 'row')}, {report['trainable_tokens']:,} tokens judged; {asked}"
    )
    return Group(Text(head, style="bold"), table)


def answers_view(answers: list[dict[str, Any]], count: int) -> RenderableType:
    """Some of the answers, spread evenly over them."""
    parts: list[RenderableType] = []
    for row in (answers[place] for place in chosen(len(answers), count)):
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        texts = {"question": row["question"], "reference": row["reference"]}
        texts |= {str(model): row[model]["answer"] for model in MODELS}
        for name, text in texts.items():
            short = text if len(text) <= ANSWER_SHOWN else f"{text[:ANSWER_SHOWN]} ..."
            table.add_row(name, Text("\n".join(printable(line) for line in short.splitlines())))
        parts += [Text(), table]
    return Group(*parts)
