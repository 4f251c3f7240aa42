"""`muster export`: what was trained, for others to use."""

import logging
import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer

from launch.commands.options import Source
from launch.commands.resolving import place_of
from launch.terminal import say, show


def export(
    source: Source,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where it goes; must not exist yet.")],
    merged: Annotated[bool, typer.Option("--merged", help="A whole model: the base with the adapter in it.")] = False,
    dtype: Annotated[
        Literal["bf16", "fp16", "fp32"] | None,
        typer.Option(help="Type of the merged weights.  [default: the base's]", show_default=False),
    ] = None,
) -> None:
    """Write an adapter or a merged model with its tokenizer, a model card and the commands that serve it."""
    from launch.errors import UsageError
    from launch.plan.trained import trained

    found = trained(place_of(source))
    if dtype and not merged:
        raise UsageError("--dtype: nothing reads this without --merged: an adapter keeps its type")
    # Says at import, on every run, that a kernel for inference is not installed.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)  # what libraries have to tell one another
    from training.export.card import serving
    from training.export.exporting import export_adapter, export_merged

    if merged:
        export_merged(found, out, dtype, say)
    else:
        export_adapter(found, out, say)
    say("done; to serve it:", *(f"  {line}" for line in serving(found, merged, str(out))))
    show(str(out))
