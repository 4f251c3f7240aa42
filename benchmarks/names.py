"""Names that a command line chooses by, separated by commas."""

import argparse
from collections.abc import Iterable


def check_names(parser: argparse.ArgumentParser, option: str, given: str | None, known: Iterable[str]) -> None:
    """Ends the process (exit code 2) at a name that is not known: an hour's measurements would end there. None and an
    empty text name nothing."""
    allowed = list(known)
    for name in (given or "").split(","):
        if name and name not in allowed:
            parser.error(f"{option}: {name!r} is not known; known are {', '.join(allowed)}")
