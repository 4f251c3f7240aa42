"""Imports of large libraries: those that are used, without looking for garbage among what they make."""

import gc
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast


@contextmanager
def importing(unused: Iterable[str] = ()) -> Iterator[None]:
    """Around imports: what is alive after them is never looked at again.

    To this process `unused` packages are not there, from here on to its end: PEFT imports bitsandbytes when it is
    imported itself, and accelerate DeepSpeed when it first unwraps a model, wherever they are installed. Together they
    are a thousand modules and a sixth of a worker's start, and a broken one would end a run that has no use for it.
    None in sys.modules is Python's own way to say that there is no such module (its reference, "The module cache");
    find_spec, by which libraries look, obeys.

    torch, transformers and PEFT make half a million objects that all stay. Collections while they do so take a sixth of
    a worker's start; later each full one takes a quarter of a second, on every rank at another step.
    """
    for name in unused:
        cast("dict[str, Any]", sys.modules).setdefault(name, None)
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
