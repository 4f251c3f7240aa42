"""`muster data`: rows checked, built from documents, and counted. Everything slow is imported inside a command."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from launch.commands.options import AsJson, Overrides
from launch.errors import DataError, ExitCode, UsageError
from launch.terminal import console, print_json, say, show
from launch.wording import printable

if TYPE_CHECKING:
    from launch.spec import DataSpec
    from training.data.checks.survey import Report
    from training.data.encoding.template import ChatFiles
    from training.data.rows.problems import Level, Problem

app = typer.Typer(no_args_is_help=True, help="Check, build and count the rows to train on.")

SPEC_ENDINGS = (".yaml", ".yml")
EVAL_SHARE = 0.1

Source = Annotated[
    str,
    typer.Argument(metavar="SPEC|PATH", help="A spec, or a data file, folder, glob or hub id.", show_default=False),
]
Eval = Annotated[
    str | None, typer.Option("--eval", metavar="PATH", help="Rows to evaluate on, beside PATH.", show_default=False)
]
Form = Annotated[str, typer.Option("--format", metavar="NAME", help="How the rows of PATH are to be read.")]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="VARIANT", help="Whose tokenizer measures the rows of PATH.", show_default=False),
]
MaxLength = Annotated[
    int | None,
    typer.Option("--max-length", min=2, help="Tokens of a sequence, with PATH.  [default: 4096]", show_default=False),
]


@app.command()
def validate(
    source: Source,
    overrides: Overrides = [],
    evaluation: Eval = None,
    form: Form = "auto",
    model: Model = None,
    max_length: MaxLength = None,
    accept: Annotated[
        list[str], typer.Option(metavar="KIND", help="An error to be only a warning.", show_default=False)
    ] = [],
    quarantine: Annotated[
        Path, typer.Option(metavar="FILE", help="Where rows with errors go, with their reasons.")
    ] = Path("quarantine.jsonl"),
    as_json: AsJson = False,
) -> None:
    """Check every row and tell every problem: where, which kind, what."""
    data, chat = _data(source, overrides, evaluation, form, model, max_length, accept)
    from training.data.checks.survey import Survey
    from training.data.rows.quarantine import Quarantine
    from training.data.rows.sources import files_of
    from training.data.sequences.tokens import settings, sources

    teller = _JsonTeller() if as_json else _Teller()
    try:
        read = {Path(file).resolve() for path in sources(data).values() for file in files_of(path)}
        if quarantine.resolve() in read:
            raise UsageError(f"{quarantine}: is what is read; choose another place for its bad rows with --quarantine")
        kept = Quarantine(quarantine)
        report = Survey(sources(data), settings(data, chat), told=teller.tell, quarantine=kept).run()
    except DataError as error:
        teller.broken(error)
        raise
    teller.finish(report, kept, lengths=chat is not None, accepted=frozenset(data.accept))
    if report.errors:
        raise typer.Exit(ExitCode.DATA)


@app.command()
def stats(
    source: Source,
    overrides: Overrides = [],
    evaluation: Eval = None,
    form: Form = "auto",
    model: Model = None,
    max_length: MaxLength = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the lengths into this .png, .svg or .pdf.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count tokens: lengths, what is trained on, how well rows pack, time and memory."""
    if model is None and Path(source).suffix not in SPEC_ENDINGS:
        raise UsageError("--model VARIANT is missing: tokens are counted with a model's tokenizer")
    if picture is not None and picture.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--picture {picture}: allowed endings: .png, .svg, .pdf")
    if picture is not None and not picture.parent.is_dir():
        raise UsageError(f"--picture {picture}: no such folder: {picture.parent}")
    data, chat = _data(source, overrides, evaluation, form, model, max_length, [], required=True)
    from launch.commands.data_screen import stats_view
    from training.data.sequences.stats import draw, measure

    assert chat is not None
    measured = measure(data, chat)
    if picture is not None:
        draw(measured, picture)
        say(f"drawn: {picture}")
    if as_json:
        print_json(measured)
    else:
        console(stderr=False).print(stats_view(measured))


@app.command()
def build(
    documents: Annotated[
        Path, typer.Argument(metavar="DOCS", help="A folder of Markdown, text, HTML or JSON Lines.", show_default=False)
    ],
    questions: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Rows of {id, question, answer, oracle}.", show_default=False),
    ] = None,
    without_questions: Annotated[
        bool, typer.Option("--without-questions", help="Ask by headings and answer from the passages below them.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the rows go.  [default: stdout]", show_default=False)
    ] = None,
    eval_out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Hold out whole documents, and write their rows here.", show_default=False),
    ] = None,
    eval_share: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=0.9, help=f"Share of the documents held out.  [default: {EVAL_SHARE}]", show_default=False
        ),
    ] = None,
    distractors: Annotated[int, typer.Option(min=0, help="Passages in a row that do not answer it.")] = 4,
    oracle_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of rows that show their oracles; the others say that none does.")
    ] = 0.8,
    find_oracles: Annotated[
        bool, typer.Option("--find-oracles", help="Search for the oracle of questions that name none.")
    ] = False,
    passage_words: Annotated[int, typer.Option(min=40, help="Words of a passage at most.")] = 300,
    seed: Annotated[int, typer.Option(help="Draws distractors' places, rows without oracles, and the split.")] = 42,
) -> None:
    """Make rows from documents: each question among passages that answer it and passages that only look like it."""
    if (questions is None) == (not without_questions):
        raise UsageError("give either --questions FILE or --without-questions")
    if without_questions and find_oracles:
        raise UsageError("--find-oracles: is for --questions FILE; without questions each passage answers its own")
    if eval_share is not None and eval_out is None:
        raise UsageError("--eval-share: nothing is held out without --eval-out FILE; add that, or leave this away")
    from training.data.build.rows import Recipe
    from training.data.build.write import build_files

    recipe = Recipe(distractors, oracle_share, seed)
    share = EVAL_SHARE if eval_share is None else eval_share
    counts = build_files(documents, questions, recipe, out, eval_out, share, find_oracles, passage_words)
    for name, count in counts.items():
        say(f"{count:>8,}  {name}")
    for path in filter(None, (out, eval_out)):
        say(f"written: {path}")


def _data(
    source: str, overrides: list[str], evaluation: str | None, form: str, model: str | None, max_length: int | None,
    accept: list[str], required: bool = False,
) -> "tuple[DataSpec, ChatFiles | None]":  # fmt: skip
    """The data section to work by, and the tokenizer that measures the rows, where there is one."""
    from launch.spec import DataSpec
    from launch.spec.file import read_spec

    if not source.strip() or (evaluation is not None and not evaluation.strip()):
        raise UsageError("an empty path: it would be this folder and all below it; is a variable of the shell not set?")
    if Path(source).suffix in SPEC_ENDINGS:
        spec = read_spec(source, overrides)
        chosen = form if form != "auto" else None
        given = {"--eval": evaluation, "--model": model, "--format": chosen, "--max-length": max_length}
        unread = [name for name, value in given.items() if value]
        if unread:
            raise UsageError(f"{', '.join(unread)}: the spec says it; override it with -s")
        accepted = [*spec.data.accept, *_accepted(accept)]
        return spec.data.model_copy(update={"accept": accepted}), _chat(spec.model.variant, required)
    if overrides:
        raise UsageError(f"-s {overrides[0]}: overrides a spec, and {source} is none")
    allowed = DataSpec.model_json_schema()["properties"]["format"]["enum"]
    if form not in allowed:
        raise UsageError(f"--format {form}: allowed: {', '.join(allowed)}")
    data = DataSpec.model_construct(
        train=source, eval=evaluation, format=cast(Any, form), accept=_accepted(accept)
    )  # fmt: skip
    if max_length is not None:
        data = data.model_copy(update={"max_length": max_length})
    return data, _chat(model, required=True) if model else None


def _accepted(kinds: list[str]) -> list[Any]:
    from training.data.rows.problems import ACCEPTABLE

    for kind in kinds:
        if kind not in ACCEPTABLE:
            raise UsageError(f"--accept {kind}: allowed: {', '.join(ACCEPTABLE)}")
    return kinds


def _chat(variant: str, required: bool) -> "ChatFiles | None":
    from training.data.encoding.tokenizer import load_chat_files

    try:
        return load_chat_files(variant)
    except UsageError as error:
        if required:
            raise
        say(f"warning: {error}; so lengths are not checked")
        return None


class _Teller:
    """Problems as lines, as they are found; at the end how many of each kind."""

    def tell(self, problem: "Problem", level: "Level") -> None:
        place = f"{problem.file}:{problem.line}:{problem.column}"
        excerpt = f"  | {problem.excerpt}" if problem.excerpt else ""
        show(printable(f"{place}: {level} {problem.kind}: {problem.message}{excerpt}"))

    def broken(self, error: DataError) -> None:
        """The error itself is told on stderr."""

    def finish(self, report: "Report", kept: Any, lengths: bool, accepted: frozenset[str]) -> None:
        for row in _kinds(report, accepted):
            show(f"{row['count']:>8,}  {row['level']:<7}  {row['kind']}: {row['meaning']}")
        rows = ", ".join(
            f"{count:,} to {'train' if split == 'train' else 'evaluate'} on" for split, count in report.rows.items()
        )
        show(f"{rows}: {report.errors:,} errors, {report.warnings:,} warnings")
        for split, counts in report.counts.items():
            for name, count in counts.items():
                if count:
                    show(f"{split}: {count:,} {name}")
            for file in report.not_read.get(split, []):
                show(printable(f"not read: {file}"))
        if kept.rows:
            show(f"{kept.rows:,} rows with errors, and why: {kept.path}")
        if not lengths:
            show("not checked: lengths, and control tokens in texts; they need a tokenizer (--model VARIANT)")


class _JsonTeller(_Teller):
    """The same as one JSON document, written as it goes: the problems of a bad file need not fit into memory."""

    def __init__(self) -> None:
        self.before = '{"problems": ['

    def tell(self, problem: "Problem", level: "Level") -> None:
        entry = {
            "file": problem.file, "line": problem.line, "column": problem.column, "kind": problem.kind,
            "level": level, "message": problem.message, "excerpt": problem.excerpt,
        }  # fmt: skip
        show(f"{self.before}\n {json.dumps(entry)}", end="")
        self.before = ","

    def finish(self, report: "Report", kept: Any, lengths: bool, accepted: frozenset[str]) -> None:
        ending = {
            "status": "fail" if report.errors else "pass", "rows": dict(report.rows), "errors": report.errors,
            "warnings": report.warnings, "kinds": _kinds(report, accepted),
            "changes": {split: dict(+counts) for split, counts in report.counts.items()},
            "not_read": report.not_read,
            "quarantine": str(kept.path) if kept.rows else None, "quarantined_rows": kept.rows,
            "lengths_checked": lengths,
        }  # fmt: skip
        self._close(ending)

    def broken(self, error: DataError) -> None:
        """What was begun is ended: a source that cannot be read may come after one that can."""
        self._close({"status": "fail", "unreadable": str(error)})

    def _close(self, ending: dict[str, Any]) -> None:
        start = self.before if self.before != "," else ""
        show(start + "\n], " + json.dumps(ending)[1:])


def _kinds(report: "Report", accepted: frozenset[str]) -> list[dict[str, Any]]:
    from training.data.rows.problems import KINDS

    return [
        {
            "kind": kind,
            "level": "warning" if kind in accepted else level,
            "count": report.kinds[kind],
            "meaning": meaning,
        }
        for kind, (level, meaning) in KINDS.items()
        if report.kinds[kind]
    ]
