"""Checkpoints that are written while the training goes on: what the training waits for is the copy to host memory.

A save has two halves. The copy is every rank's, and made at once; the files are rank 0's, and written by one thread. A
save begins only when the one before it has its name on disk, so that one at most is ever under way, and one that failed
ends the run at the next micro-batch: no more than a step is trained that no checkpoint will hold. A stop, the last step
and whatever else ends a run wait for the files.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Any


class Saver:
    """Runs the writing half of one save at a time.

    As a context it waits at its end for what is under way, and raises what went wrong there unless an error is on its
    way already.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def begin(self, write: Callable[[], None]) -> None:
        """Starts `write`, once the one before it has ended. Raises what that one raised."""
        self.finish()
        # Not a daemon: an interpreter that ends waits for it.
        self._thread = threading.Thread(target=self._run, args=(write,), name="saving")
        self._thread.start()

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:  # noqa: BLE001 - raised again where the training can be ended
            self._error = error

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
