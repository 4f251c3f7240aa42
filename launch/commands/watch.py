"""`muster watch`: a run on the screen, while it trains."""

import os
import sys
from typing import Annotated

import typer

from launch.commands.options import RunName
from launch.terminal import console


def watch(
    run: RunName,
    once: Annotated[bool, typer.Option("--once", help="Show where it is now, and end.")] = False,
) -> None:
    """Watch a run: progress, loss, throughput, GPUs, and what happens. Leaving it (q) does not touch the run."""
    from launch.status.following import one
    from launch.watching import lines, terminal
    from launch.watching.reading import Reader

    reader, screen = Reader(one(run)), console(stderr=False)
    try:
        if once:
            terminal.once(reader.look(), screen)
        elif sys.stdout.isatty() and not screen.is_dumb_terminal:
            last = terminal.watch(reader, screen)
            if last is not None:  # the alternate screen is gone, and with it what was on it
                terminal.once(last, screen)
        else:
            lines.tell(reader, lambda line: print(line, flush=True))
    except BrokenPipeError:  # whoever read this has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        pass
