"""Chunks examined one after the other: a few here, many in several processes."""

import pickle
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

from launch.processes import die_with_parent
from training.data.examine import Chunk, Examined, Examiner, Settings

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
            content = b""
            try:
                examiner = Examiner(settings)
                # Here, so that what the first rows teach about the template is known in every process.
                yield examiner.chunk(next(every))
                content = pickle.dumps(examiner)
            finally:
                partial = file.with_suffix(".partial")
                partial.write_bytes(content)
                partial.rename(file)
            pending: deque[Future[Examined]] = deque()
            for chunk in every:
                pending.append(pool.submit(_examined, chunk))
                if len(pending) > 2 * processes:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()


_examiner: Examiner | None = None


def _start(file: Path) -> None:
    """Waits for the examiner. An empty file says that there will be none, and nothing to do."""
    global _examiner
    die_with_parent()
    while not file.exists():
        time.sleep(0.01)
    content = file.read_bytes()
    _examiner = pickle.loads(content) if content else None  # noqa: S301 - our parent's own, of a moment ago


def _ready() -> None:
    pass


def _examined(chunk: Chunk) -> Examined:
    assert _examiner is not None
    return _examiner.chunk(chunk)
