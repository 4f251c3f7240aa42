"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

# With parsers of their own: click looks at every Path, and one on a file system that hangs would never be parsed.
SpecFile = Annotated[
    Path, typer.Argument(metavar="SPEC", parser=Path, help="The run's spec, a YAML file.", show_default=False)
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "-s",
        "--set",
        metavar="KEY=VALUE",
        help="Override one value of the spec, such as -s training.epochs=1.",
        show_default=False,
    ),
]
RunDirectory = Annotated[
    Path | None,
    typer.Option(
        "--run-dir", metavar="DIR", parser=Path, help="Place of the run directory.  [default: runs/NAME]",
        show_default=False,
    ),
]  # fmt: skip
Accept = Annotated[
    list[str],
    typer.Option(
        "--accept", metavar="CHECK", help="Go on although this check fails; may be given again.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        envvar="MUSTER_VERBOSE",
        show_envvar=False,
        help="Show every line that ranks and launchers print, too.",
    ),
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run directory, or a run's name in runs/.", show_default=False)
]
Source = Annotated[
    str,
    typer.Argument(
        metavar="RUN|ADAPTER",
        help="A run directory or a run's name in runs/, one of its checkpoints, or an adapter.",
        show_default=False,
    ),
]
