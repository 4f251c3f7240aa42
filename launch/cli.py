"""The commands. They alone print and exit; everything slow is imported inside a command."""

import sys

import typer

from launch.data_cli import app as data_app
from launch.diagnose_cli import diagnose
from launch.errors import MusterError
from launch.evaluate_cli import evaluate
from launch.export_cli import export
from launch.model_cli import app as model_app
from launch.plan_cli import plan
from launch.preflight_cli import preflight
from launch.report_cli import report
from launch.run_cli import run
from launch.status_cli import logs, status, stop
from launch.submit_cli import submit
from launch.terminal import as_error, flush, print_json, say
from launch.watch_cli import watch

app = typer.Typer(
    name="muster",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Plan, check, launch and recover LoRA fine-tuning of Qwen models.",
)

app.add_typer(data_app, name="data")
app.add_typer(model_app, name="model")


def schema() -> None:
    """Print the JSON Schema of the spec, for editors."""
    from launch.spec import RunSpec

    print_json(RunSpec.model_json_schema())


for command in (plan, preflight, run, schema, submit, status, watch, logs, stop, diagnose, report, evaluate, export):
    app.command()(command)


def main() -> None:
    """The `muster` command. A user's mistake is one message and an exit code, never a traceback."""
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
