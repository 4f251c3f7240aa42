"""Imports of large libraries: those that are used, without looking for garbage among what they make."""

import gc
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast


@contextmanager
def importing(unused: Iterable[str] = ()) -> Iterator[None]:
    """Around imports: what is alive after them is never looked at again, and `unused` packages are not there.

    PEFT imports bitsandbytes, and accelerate DeepSpeed, wherever they are installed: a thousand modules and a sixth of
    a worker's start, and one that is broken would end a run that has no use for it. None in sys.modules is Python's own
    way to say that there is no such module (its reference, "The module cache"); find_spec, by which they look, obeys.

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
