"""The commands. They alone print and exit; everything slow is imported inside a command."""

import sys
from typing import Annotated

import typer

from launch.commands.data import app as data_app
from launch.commands.diagnose import diagnose
from launch.commands.evaluate import evaluate
from launch.commands.export import export
from launch.commands.model import app as model_app
from launch.commands.plan import plan
from launch.commands.preflight import preflight
from launch.commands.report import report
from launch.commands.run import run
from launch.commands.status import logs, status, stop
from launch.commands.submit import submit
from launch.commands.watch import watch
from launch.errors import MusterError
from launch.terminal import as_error, flush, print_json, say, settle_streams, show

app = typer.Typer(
    name="muster",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Plan, check, launch and recover LoRA fine-tuning of Qwen models.",
)

app.add_typer(data_app, name="data")
app.add_typer(model_app, name="model")


def _show_version(asked: bool) -> None:
    if asked:
        from launch.versions import own_version

        show(f"muster {own_version()}")
        raise typer.Exit


def schema() -> None:
    """Print the JSON Schema of the spec, for editors."""
    from launch.spec import RunSpec

    print_json(RunSpec.model_json_schema())


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Show muster's version and end.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """What stands before a command."""


for command in (plan, preflight, run, schema, submit, status, watch, logs, stop, diagnose, report, evaluate, export):
    app.command()(command)


def main() -> None:
    """The `muster` command. A user's mistake is one message and an exit code, never a traceback."""
    settle_streams()
    try:
        app()
    except MusterError as error:
        say(as_error(str(error)))
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder that vanished: the machine's, not ours
        from launch.diagnosis.exceptions import classify

        code, text = classify(error)
        say(as_error(text))
        sys.exit(code)
    finally:
        flush()


if __name__ == "__main__":
    main()
