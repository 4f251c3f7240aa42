"""Reading and writing the files of a run directory so that a kill at any instant leaves them readable."""

import contextlib
import errno
import fcntl
import json
import math
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from launch.errors import HostError
from launch.redact import redact, secret_values

BEAT_BYTES = 256
# What readers count with, wherever a row has it.
_COUNTS = ("step", "steps", "to_step")
# JSON holds integers of any length. What is beyond this is no count and no time, and becomes no float.
MOST = 1 << 53
# Beyond it a number is a mistake, and no browser draws it.
LARGEST = 1e300


def append(path: Path, row: dict[str, Any]) -> None:
    """Adds one row to a .jsonl file with a single write, so that rows of several writers never mix.

    A last line that a kill tore apart is ended first: the new row must not be lost with it. Raises OSError on a full
    disk.
    """
    line = json.dumps(scrub(row), ensure_ascii=False) + "\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        torn = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
        content = ("\n" if torn else "").encode() + line.encode()
        if os.write(descriptor, content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def beat(path: Path, row: dict[str, Any]) -> None:
    """Writes a small row over the last one, by a single write of one length: a reader never finds half of it.

    Closed at once, for NFS to send it. A disk that takes nothing is the run's to report, not a beat's.
    """
    text = json.dumps(row).ljust(BEAT_BYTES - 1) + "\n"
    with contextlib.suppress(OSError):
        try:
            descriptor = os.open(path, os.O_WRONLY)
        except FileNotFoundError:  # the first one: the file has its name with the row in it
            first = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            try:
                first.write_text(text)
                first.replace(path)
            finally:
                first.unlink(missing_ok=True)
            return
        try:
            os.pwrite(descriptor, text.encode(), 0)
        finally:
            os.close(descriptor)


def event(path: Path, name: str, **data: Any) -> None:
    append(path, {"event": name, "time": round(time.time(), 3), **data})


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The complete rows of a .jsonl file; none where there is no file. See parse_rows for what they can be trusted in.

    Raises HostError where something else has the name: reading a pipe would wait for ever.
    """
    try:
        with open(path, encoding="utf-8", errors="replace", opener=opened) as file:
            text = file.read()
    except FileNotFoundError:
        return
    yield from parse_rows(text)


def opened(path: str, flags: int) -> int:
    """An opener for files that others may have damaged: without waiting, and for regular files alone."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise HostError(f"{path}: is no regular file; move it away: the run writes a new one")
    return descriptor


def document(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; empty where it cannot be read: not there, cut short, or of another kind."""
    try:
        with open(path, encoding="utf-8", opener=opened) as file:
            found = json.loads(file.read())
    except (OSError, ValueError, RecursionError, HostError):
        return {}
    return found if isinstance(found, dict) else {}


def parse_rows(text: str) -> Iterator[dict[str, Any]]:
    """The rows of JSON Lines. One that a kill cut off is left out, and one whose numbers are none.

    What every row has in common is thereby a number wherever it is there; an event always has its time.
    """
    for line in text.split("\n"):
        try:
            row = from_json(line, cache_strings="keys")  # half of json's time: a long run has a hundred thousand rows
        except (ValueError, TypeError):
            try:
                row = json.loads(line)  # which takes half of a surrogate pair, too
            except (ValueError, RecursionError):
                continue
        if isinstance(row, dict) and (sound := _sound(row)) is not None:
            yield sound


def _sound(row: dict[str, Any]) -> dict[str, Any] | None:
    """A row with numbers where readers count and compare; None where it has not. JSON may also hold NaN and true.

    An event without a count still happened, and is told without it.
    """
    at = row.get("time", None if "event" in row else 0.0)
    if type(at) not in (int, float) or not -MOST < at < MOST:  # type: ignore[operator]
        return None
    wrong = [key for key in _COUNTS if row.get(key) is not None and not _count(row[key])]
    if wrong and "event" not in row:
        return None
    return {key: value for key, value in row.items() if key not in wrong} if wrong else row


def _count(value: Any) -> bool:
    return type(value) is int and -MOST < value < MOST


def drawable(value: Any) -> bool:
    """Whether it is a number that can be drawn: JSON may hold NaN, Infinity and integers of any length."""
    return type(value) in (float, int) and -LARGEST < value < LARGEST


def keep_rows(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrites a .jsonl file with the rows that pass."""
    if path.exists():
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(path) if keep(row)))


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all: temporary name, sync, rename."""
    with _whole(path, text) as temporary:
        temporary.replace(path)


def write_first(path: Path, text: str) -> None:
    """The same, unless the file is there: on NFS, too, where a look may not show it yet, the first one stays."""
    with _whole(path, text) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        except OSError:  # a file system without links
            if not path.exists():
                temporary.replace(path)


@contextmanager
def _whole(path: Path, text: str) -> Iterator[Path]:
    """What is to become `path`, on disk under a temporary name; a name that is left is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # No process number: two nodes may have the same.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def write_output(path: Path, text: str) -> None:
    """Where somebody has said: a file whole or not at all; what is no file of its own, such as a pipe, /dev/stdout or a
    link, is written to, never replaced."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_text(text, encoding="utf-8")
    else:
        write_text(path, text)


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory to write into. It gets its name, on disk for good, when the block ends well; else it vanishes.

    What had the name before is there until then. Its files may be read by whom the umask lets. Raises BlockingIOError
    while another process writes what will have it.
    """
    temporary, old = (target.with_name(f".{target.name}.{what}") for what in ("partial", "replaced"))
    with held(temporary, target):
        try:
            for path in temporary.iterdir():  # what a kill left behind
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            yield temporary
            readable = temporary.stat().st_mode & 0o666
            for path in [*temporary.rglob("*"), temporary]:
                if path.is_file():  # safetensors makes its files for their owner alone
                    path.chmod(readable)
                _sync(path)
            shutil.rmtree(old, ignore_errors=True)
            if target.exists():  # a half-removed directory must not have the name of a complete one
                target.rename(old)
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync(target.parent)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def held(folder: Path, target: Path) -> Iterator[None]:
    """The folder, made if need be, for this process alone. Storage without locks lets everybody in.

    Raises BlockingIOError, which names the target, while another process has it.
    """
    taken = BlockingIOError(errno.EWOULDBLOCK, "another process is writing it", str(target))
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise taken from None
        except OSError:
            pass
        # Between our opening it and locking it, who had it may have given it its name, or removed it.
        if not folder.exists() or not os.path.samestat(os.fstat(descriptor), folder.stat()):
            raise taken
        yield
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(scrub(value), indent=2, ensure_ascii=False) + "\n")


def scrub(value: Any) -> Any:
    """A copy of nested dicts and lists as JSON can hold it, with the secrets taken out of every text.

    Done on the values: in their JSON a secret's quotes are escaped, and a secret of digits would break a number.
    """
    secrets = secret_values(os.environ)

    def clean(item: Any) -> Any:
        if isinstance(item, str):
            return redact(item, secrets)
        if isinstance(item, float) and not math.isfinite(item):
            return None  # JSON has no such number
        if isinstance(item, dict):
            return {clean(key): clean(inner) for key, inner in item.items()}
        return [clean(inner) for inner in item] if isinstance(item, list | tuple) else item

    return clean(value)
