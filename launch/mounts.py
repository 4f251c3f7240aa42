"""File systems that do not answer: a dead NFS server, a stuck FUSE daemon. Whoever asks one waits for ever."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from launch.errors import PreflightError
from launch.processes import OverdueError, together, within

# A server that is alive answers within milliseconds, a busy one within a second or two.
ANSWER_SECONDS, AT_ONCE_SECONDS = 5.0, 1.0


def refuse_hung(places: Mapping[str, str | Path], seconds: float = ANSWER_SECONDS) -> None:
    """Looks at places before anybody opens them; the keys say what they are to the run. What is not there answers.

    Raises PreflightError that names those which do not answer in time.
    """
    paths = [_fixed(str(place)) for place in places.values()]
    with contextlib.suppress(OverdueError):
        within(AT_ONCE_SECONDS, partial(_look, paths))  # one process for all, as nearly always all answer
        return
    answers = together([(partial(_look, [path]), seconds) for path in paths])
    hung = [
        f"{what}: {place} has not answered within {seconds:g} s"
        for (what, place), (answer, _) in zip(places.items(), answers, strict=True)
        if isinstance(answer, OverdueError)
    ]
    if hung:
        raise PreflightError("\n".join([*hung, "the file system hangs (df, mount, dmesg): mend it, or use another"]))


def _look(paths: Sequence[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError, ValueError):  # ValueError: a name that no file can have
            path.stat()


def _fixed(pattern: str) -> Path:
    """The folder before the wildcards of a pattern; a path without any as it is."""
    match = re.search(r"[*?\[]", pattern)
    return Path(f"{pattern[: match.start()]}*").parent if match else Path(pattern)
