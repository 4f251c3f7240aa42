"""Imports of large libraries, without looking for garbage among what they make."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Around imports: what is alive after them is never looked at again.

    torch, transformers and PEFT make half a million objects that all stay. Collections while they do so take a sixth of
    a worker's start; later each full one takes a quarter of a second, on every rank at another step.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
