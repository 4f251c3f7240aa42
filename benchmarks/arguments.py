"""What a command line may say, checked before anything is measured: an hour's measurements would end there."""

import argparse
import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def check_names(parser: argparse.ArgumentParser, option: str, given: str | None, known: Iterable[str]) -> None:
    """Ends the process (exit code 2) at a name that is not known, of names separated by commas. None and an empty text
    name nothing."""
    allowed = list(known)
    for name in given.split(",") if given else ():
        if name not in allowed:
            parser.error(f"{option}: {name!r} is not known; known are {', '.join(allowed)}")


def need_gpu(cpu: bool) -> None:
    """Ends the process where there is none and the command was not given --cpu."""
    import torch

    if not cpu and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here (nvidia-smi, CUDA_VISIBLE_DEVICES); --cpu measures a small model without one")


# Types of argparse


def count(text: str) -> int:
    """At least one."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1 is needed")
    return number


def json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is no JSON object, such as {{"training.loss": "chunked"}}')
    return found


def result_file(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent}: no such folder; make it first")
    return path


def interpreter(text: str) -> str:
    """A Python, whole: what is started with it starts elsewhere. Not resolved, for a link into an environment is it."""
    found = shutil.which(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text}: no such program; the Python of an environment, as env/bin/python")
    return str(Path.cwd() / found)
