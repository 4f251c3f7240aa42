"""Checkpoints that are made while the training goes on: what the training waits for is a copy, before its next update.

Between two updates nothing changes what a checkpoint holds, so a thread copies it while the next gradients are
computed, and then writes its files. A save begins only when the one before it has its name on disk, so that one at most
is ever under way, and one that failed ends the run at the next micro-batch: no more than a step is trained that no
checkpoint will hold. A stop, the last step and whatever else ends a run wait for the files.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

State = TypeVar("State")


class Saver:
    """Runs one save at a time, on rank 0.

    As a context it waits at its end for what is under way, and raises what went wrong there unless an error is on its
    way already.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._copied = threading.Event()
        self.waited = 0.0
        """Seconds that the training has waited for the copy of this save, or of the last one."""

    def begin(self, copy: Callable[[], State], write: Callable[[State], None]) -> None:
        """Starts both, one after the other, once the save before has ended. Raises what that one raised.

        Whoever changes what `copy` reads calls `settle` before.
        """
        self.finish()
        self._copied.clear()
        self.waited = 0.0
        # Not a daemon: an interpreter that ends waits for it.
        self._thread = threading.Thread(target=self._run, args=(copy, write), name="saving")
        self._thread.start()

    def _run(self, copy: Callable[[], State], write: Callable[[State], None]) -> None:
        try:
            state = copy()
            self._copied.set()
            write(state)
        except BaseException as error:  # noqa: BLE001 - raised again where the training can be ended
            self._error = error
        finally:
            self._copied.set()

    def settle(self) -> float:
        """Waits until the copy is made. Returns the seconds that it took. An error stays for `check`."""
        if self._thread is None or self._copied.is_set():
            return 0.0
        began = time.monotonic()
        self._copied.wait()
        self.waited = time.monotonic() - began
        return self.waited

    def check(self) -> None:
        """Raises what the save that is under way, or the last one, has raised."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def finish(self) -> None:
        """Waits for the save that is under way. Raises what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self.finish()
            return
        with contextlib.suppress(BaseException):
            self.finish()
