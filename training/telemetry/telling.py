"""What a run says on the terminal of rank 0 when no `muster run` is there to follow it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from launch.logs.telling import Teller
from launch.rundir import RunDir

LOOK_SECONDS = 0.5


@contextmanager
def telling(run: RunDir, attempt: int, say: Callable[[str], None], verbose: bool) -> Iterator[None]:
    """Meanwhile `say` is given each line that `muster run` would show of this attempt."""
    teller, ended = Teller(run, attempt, verbose), threading.Event()

    def follow() -> None:
        while not ended.wait(LOOK_SECONDS):
            for line in teller.look():
                say(line)

    thread = threading.Thread(target=follow, name="telling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for line in teller.look(last=True):
            say(line)
