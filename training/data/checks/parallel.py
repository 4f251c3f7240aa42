"""Chunks examined one after the other: a few here, many in several processes."""

import os
import pickle
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from multiprocessing import get_context, parent_process
from pathlib import Path

from launch.errors import HostError
from launch.processes import die_with_parent
from training.data.checks.examine import Chunk, Examined, Examiner, Settings

CHUNK = 1000
# Starting a process takes as long as some thousand rows.
WORTH_PROCESSES = 8 * CHUNK


def examine(chunks: Iterable[Chunk], settings: Settings, processes: int) -> Iterator[Examined]:
    """Every chunk examined, in order."""
    waiting, first = iter(chunks), deque[Chunk]()
    while sum(len(chunk.rows) for chunk in first) < WORTH_PROCESSES and (chunk := next(waiting, None)):
        first.append(chunk)
    every = chain(first, waiting)
    if processes < 2 or sum(len(chunk.rows) for chunk in first) < WORTH_PROCESSES:
        yield from map(Examiner(settings).chunk, every)
        return
    with tempfile.TemporaryDirectory() as folder:
        # Through a file: a pipe to a new process would hold us up until that process reads. spawn: a forked copy of
        # threads that hold locks can hang.
        file = Path(folder, "examiner")
        with ProcessPoolExecutor(processes, get_context("spawn"), _start, (file,)) as pool:
            for _ in range(processes):
                pool.submit(_ready)  # they start while the vocabulary is loaded here
            try:
                examiner = Examiner(settings)
                # Here, so that what the first rows teach about the template is known in every process.
                yield examiner.chunk(next(every))
                partial = file.with_suffix(".partial")
                partial.write_bytes(pickle.dumps(examiner))
                partial.rename(file)
            except BaseException:
                shutil.rmtree(folder)  # says that there is nothing to wait for
                raise
            try:
                yield from _shared(pool, every, 2 * processes)
            except BrokenProcessPool:
                raise HostError(
                    "a process that reads rows was killed, perhaps for want of memory (see dmesg); nothing was changed"
                ) from None


def _shared(pool: ProcessPoolExecutor, chunks: Iterable[Chunk], ahead: int) -> Iterator[Examined]:
    pending: deque[Future[Examined]] = deque()
    for chunk in chunks:
        pending.append(pool.submit(_examined, chunk))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


_examiner: Examiner | None = None


def _start(file: Path) -> None:
    """Waits for the examiner. Without its folder there will be none, and nothing to do."""
    global _examiner
    die_with_parent()
    parent = parent_process()
    if parent is not None and os.getppid() != parent.pid:  # it ended before that was said
        os._exit(1)
    while not file.exists():
        if not file.parent.exists():
            return
        time.sleep(0.01)
    _examiner = pickle.loads(file.read_bytes())  # noqa: S301 - our parent's own, of a moment ago


def _ready() -> None:
    pass


def _examined(chunk: Chunk) -> Examined:
    assert _examiner is not None
    return _examiner.chunk(chunk)
