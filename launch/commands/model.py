"""`muster model`: the models that can be trained, and the import of original checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

from launch.commands.options import AsJson
from launch.terminal import console, print_json, say, show

app = typer.Typer(no_args_is_help=True, help="List, describe and import the models that can be trained.")


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """Every model that has a name: parameters, context, chat or base, license, and whether it is on this machine."""
    from launch.commands.model_screen import models_view
    from launch.plan.models import listed

    if as_json:
        print_json(listed())
    else:
        console(stderr=False, rows=True).print(models_view(listed()))


@app.command("show")
def show_model(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A known name, a directory, or a cached hub id.")],
    as_json: AsJson = False,
) -> None:
    """One model: shapes, LoRA targets, license, what its files lack, and which GPUs it fits with which strategy."""
    from launch.commands.model_screen import model_view
    from launch.model.files import problems
    from launch.plan.models import described

    model = described(name)
    lacking = problems(name)
    if as_json:
        print_json({**model, "problems": lacking})
    else:
        console(stderr=False).print(model_view(model, lacking))


@app.command("import")
def import_checkpoint(
    source: Annotated[
        Path, typer.Argument(metavar="PATH", help="The files of an original Qwen checkpoint (model_type qwen).")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the Qwen2 directory goes; must not exist yet.")],
) -> None:
    """Make a Qwen2 directory of an original Qwen checkpoint, without running the code that came with it."""
    from training.original.importing import import_model

    import_model(source, out, say)
    say(f"done: use it as model.variant: {out.resolve()}")
    show(str(out))
