"""A run for whoever is no terminal, a pipe or a file: a line for each thing that happens, until the run is over."""

import time
from collections.abc import Callable

from launch.logs.happened import number
from launch.watching.reading import Reader
from launch.watching.view import View
from launch.wording import printable, span

LOOK_SECONDS = 1.0


def tell(reader: Reader, write: Callable[[str], None]) -> View:
    """Until nothing of the run waits or runs. Returns its last view."""
    before: View | None = None
    while True:
        view = reader.look()
        for line in changes(before, view):
            write(line)
        if view.over:
            return view
        before = view
        time.sleep(LOOK_SECONDS)


def changes(before: View | None, view: View) -> list[str]:
    """What is new: where the run is, at first and whenever that changes, and what was written meanwhile. Pure."""
    lines = list(view.fresh)
    known = before.troubles if before is not None else ()
    lines += [f"! {trouble}" for trouble in view.troubles if _kind(trouble) not in map(_kind, known)]
    if before is None or _state(before) != _state(view):
        lines.append(standing(view))
    return [printable(line) for line in lines]


def standing(view: View) -> str:
    """Where the run is, in a line."""
    found = view.status
    state = f"{found.state}: {found.why}" if found.why else found.state
    words = [f"attempt {found.attempt}"] if found.attempt else []
    if found.step is not None:
        words.append(f"step {found.step}/{found.steps if found.steps is not None else '?'}")
    words += [f"loss {number(found.loss, '.3f')}"] if found.loss is not None else []
    words += [f"{span(found.eta_seconds)} left"] if found.eta_seconds is not None else []
    return f"{found.name}: {', '.join([state, *words])}"


def _state(view: View) -> tuple[str, int]:
    return view.status.state, view.status.attempt


def _kind(trouble: str) -> str:
    """Without its seconds, which grow."""
    return "".join(character for character in trouble if not character.isdigit())
