"""Processes beside our own: ones that must not outlive us, one that must, and ones that may hang."""

import contextlib
import ctypes
import os
import pickle
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with_parent(parent: int | None = None) -> None:
    """This process is killed when the one that started it ends, however that happens. Linux alone has this.

    With the number of its `parent` also where that has ended before it could be asked for.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


@contextlib.contextmanager
def tidy_end() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP end this process as Ctrl-C does, through every `finally`."""

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def signal_name(number: int) -> str:
    """SIGKILL of 9; those for real time have no names of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def log_writer(
    log: Path, environment: Mapping[str, str] | None = None, kept: Sequence[int] = ()
) -> "subprocess.Popen[bytes]":
    """A process that appends its standard input to a log, without secrets.

    It outlives whoever writes to it, so that the last lines of a killed worker still arrive. `kept`: descriptors that
    it holds open meanwhile.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "launch.redact", str(log)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        pass_fds=kept,
        start_new_session=True,
    )


class OverdueError(Exception):
    """A function that had not answered by its deadline."""


def together(calls: Sequence[tuple[Callable[[], T], float]]) -> list[tuple[T | BaseException, float]]:
    """Each function's answer, or what it raised, and the seconds it took; OverdueError after its own deadline.

    Each runs in a fork of this process, all at once, and is killed with all that it started when it is overdue. One
    that cannot be killed, in a system call that never returns, is left behind: nobody waits for it. Answers are
    pickled.
    """
    began, started = time.monotonic(), list[int]()
    answers: list[tuple[T | BaseException, float] | None] = [None] * len(calls)
    with selectors.DefaultSelector() as selector:
        try:
            for number, (function, _) in enumerate(calls):
                reader, pid = _fork(function)
                started.append(pid)
                selector.register(reader, selectors.EVENT_READ, (number, pid, bytearray()))
            while selector.get_map():
                first = min(calls[key.data[0]][1] for key in selector.get_map().values())
                ready = selector.select(max(0.0, began + first - time.monotonic()))
                for key, _ in ready:
                    number, _, held = key.data
                    block = os.read(key.fd, 1 << 16)
                    held += block
                    if not block:
                        answers[number] = (_answer(bytes(held)), time.monotonic() - began)
                        _end(selector, key)
                if ready:  # whoever has answered is not late because this process has slept
                    continue
                for key in list(selector.get_map().values()):
                    if time.monotonic() - began >= calls[key.data[0]][1]:
                        answers[key.data[0]] = (OverdueError(), time.monotonic() - began)
                        _end(selector, key)
        finally:  # Ctrl-C reaches this process alone
            for key in list(selector.get_map().values()):
                _end(selector, key)
            _reap(started)
    return [answer for answer in answers if answer is not None]


def within(seconds: float, function: Callable[[], T]) -> T:
    """The function's answer. Raises what it raises, and OverdueError after so many seconds."""
    ((answer, _),) = together([(function, seconds)])
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _fork(function: Callable[[], Any]) -> tuple[int, int]:
    """(the end of a pipe that its pickled answer comes out of, its process)."""
    reader, writer = os.pipe()
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(writer)
        return reader, pid
    try:
        os.setsid()  # so that it is killed with what it has started
        die_with_parent(parent)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        try:
            answer = pickle.dumps(function())
        except BaseException as error:  # noqa: BLE001 - told to whoever waits for the answer
            answer = _pickled_error(error)
        with open(writer, "wb") as pipe:
            pipe.write(answer)
    finally:
        os._exit(0)


def _pickled_error(error: BaseException) -> bytes:
    try:
        return pickle.dumps(pickle.loads(pickle.dumps(error)))  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - an error that cannot travel
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))


def _answer(held: bytes) -> Any:
    try:
        return pickle.loads(held)  # noqa: S301 - written by our own fork
    except EOFError:
        return RuntimeError("its process ended without an answer")
    except Exception as error:  # noqa: BLE001 - whatever an answer that was cut short makes of pickle
        return RuntimeError(f"its answer cannot be read: {type(error).__name__}: {error}")


def _end(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    _, pid, _ = key.data
    selector.unregister(key.fileobj)
    os.close(key.fd)
    for kill in (os.killpg, os.kill):  # the first finds nobody while it has no session of its own yet
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _reap(started: Sequence[int], seconds: float = 2.0) -> None:
    """Takes leave of the processes that have ended; one that cannot be killed stays a child of ours."""
    waiting, until = set(started), time.monotonic() + seconds
    while waiting and time.monotonic() < until:
        for pid in list(waiting):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            waiting.discard(pid)
        if waiting:
            time.sleep(0.005)
