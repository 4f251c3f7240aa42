"""Whose run directory this is: a new run's, this run's own, or another's."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import yaml
from pydantic import ValidationError

from launch.errors import HostError, UsageError
from launch.plan import Plan
from launch.redact import secret_values
from launch.render import rendered
from launch.rundir import MANIFEST, RunDir
from launch.rundir.journal import write_text
from launch.secrets import SECRET
from launch.spec import training_identity
from launch.spec.contradictions import strings

# A second `muster run` that looks whether the lock is free holds it for an instant itself.
LOCK_SECONDS = 1.0
# On a busy machine the instant may be long; one that was stopped in it must not hold up a run for ever.
LOOKED_AT_SECONDS = 60.0
# A supervisor that was cut off gives up after 300 s and the time of one round of questions (supervise/job.py).
GIVE_UP_SECONDS = 600.0
# Of a new run directory: its owner writes, the group reads. One that is there keeps what it has.
PRIVATE = 0o750


def claim(run: RunDir, plan: Plan, resume: str) -> None:
    """Makes sure that this plan may use this directory; changes nothing in it.

    Raises UsageError when it holds something else, when somebody trains in it now, or for a `resume` that is no
    checkpoint.
    """
    if resume not in ("auto", "never") and not Path(resume, MANIFEST).is_file():
        raise UsageError(f"--resume {resume}: not a checkpoint directory; allowed: auto, never, or the path of one")
    if run.root.exists() and not run.root.is_dir():
        raise UsageError(f"{run.root}: is a file; choose another place with --run-dir")
    if not run.root.exists() or not any(run.root.iterdir()):
        return
    if not run.plan.exists():
        if _half_prepared(run):
            return
        raise UsageError(f"{run.root}: is not a run directory and not empty; choose another with --run-dir")
    holder = trained_by(run)
    if holder:
        raise _busy(run, holder)
    if resume == "never":
        return
    try:
        earlier = Plan.model_validate_json(run.plan.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise UsageError(
            f"{run.plan}: cannot be read ({type(error).__name__}); start afresh with --resume never, which moves this"
            " directory aside"
        ) from None
    differing = different(earlier, plan)
    if differing and has_trained(run):
        raise UsageError(
            f"{run.root}: holds a run of another spec; choose another name or --run-dir, or --resume never to move it"
            " aside\n" + "\n".join(f"  {line}" for line in differing)
        )


def _half_prepared(run: RunDir) -> bool:
    """Whether a full disk or a kill broke `prepare_run` off: then nothing else is there, and nothing was trained."""
    ours = {path.name for path in (run.spec, run.rendered, run.checkpoints, run.lock, run.claimed)}
    there = {path.name for path in run.root.iterdir() if not path.name.startswith(".")}
    begun = run.checkpoints.is_dir() and not any(
        run.checkpoints.iterdir()
    )  # what is made first, and filled by training
    return there <= ours and begun


def take(run: RunDir, plan: Plan, resume: str) -> IO[str]:
    """Claims the directory, prepares it, and returns the lock by which it is this process's until it ends.

    In one go: of two runs that start together, the second finds the first one's plan, not an empty place. Raises as
    `claim` and `prepare_run` do.
    """
    try:
        run.root.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(run, error) from None
    with _alone_in(run.root.parent):
        claim(run, plan, resume)
        prepare_run(run, plan, resume)
        return hold(run, run.claimed)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time; on storage without locks all at once, as if this were not here."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def has_trained(run: RunDir) -> bool:
    """Whether a step was made: an attempt that failed before has nothing that a corrected spec could spoil."""
    steps = run.samples.exists() and run.samples.stat().st_size > 0
    return steps or run.adapter.exists() or (run.checkpoints.is_dir() and any(run.checkpoints.iterdir()))


def trained_by(run: RunDir) -> str | None:
    """Who holds one of the run directory's locks, to prepare it or to train; None when nobody does."""
    for path in (run.claimed, run.lock):
        try:
            if not _free(path):
                return _holder(path)
        except OSError:  # no lock file yet, or storage without locks: `hold` will say
            pass
    return None


def until_free(run: RunDir, say: Callable[[str], None], seconds: float = GIVE_UP_SECONDS) -> None:
    """Waits for whoever trains here to end, so long: the earlier start of a job that Slurm has requeued may go on, on a
    node that was cut off. Who is there after that is told by `claim`."""
    deadline, told = time.monotonic() + seconds, False
    while (holder := trained_by(run)) and time.monotonic() < deadline:
        if not told:
            say(f"{run.root}: {holder} trains here still, from before the job was started again: waiting for its end")
            told = True
        time.sleep(LOCK_SECONDS)


def hold(run: RunDir, path: Path) -> IO[str]:
    """Takes a lock of the run directory, which this process then holds until it ends, however it ends.

    Raises UsageError when somebody else has it.
    """
    lock = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - stays open on purpose
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            waited = time.monotonic() - began
            if waited > (LOOKED_AT_SECONDS if _free(path) else LOCK_SECONDS):
                raise _busy(run, _holder(path)) from None
            time.sleep(0.05)
        except OSError as error:
            raise HostError(f"{path}: cannot be locked: {error.strerror}; use another --run-dir") from None
    lock.truncate(0)
    lock.write(held_by(str(os.getpid()), os.uname().nodename))
    lock.flush()
    return lock


def _free(path: Path) -> bool:
    """Whether nobody holds the lock; whoever else looks shares it."""
    with open(path, encoding="utf-8") as lock, suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    return False


def held_by(pid: str, node: str) -> str:
    """What a lock file says."""
    return f"process {pid} on {node}"


def _holder(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() or "another process"


def _busy(run: RunDir, holder: str) -> UsageError:
    return UsageError(
        f"{run.root}: {holder} is training in this run directory; wait for it, stop it, or use another --run-dir"
    )


def different(earlier: Plan, plan: Plan) -> list[str]:
    """Where two plans are not the same training, key by key."""
    before = {**training_identity(earlier.spec), "global batch size": earlier.global_batch_size}
    now = {**training_identity(plan.spec), "global batch size": plan.global_batch_size}
    return [f"{key}: there {before.get(key)!r}, here {now[key]!r}" for key in now if before.get(key) != now[key]]


def finished(run: RunDir) -> bool:
    """Whether the run's adapter is there; it gets its name when it is complete.

    Raises HostError for one that was changed since: a file is missing, or has another size than its manifest says.
    """
    if not run.adapter.is_dir():
        return False
    try:
        files = json.loads((run.adapter / MANIFEST).read_text(encoding="utf-8"))["files"]
        damaged = [name for name, known in files.items() if (run.adapter / name).stat().st_size != known["bytes"]]
    except (OSError, ValueError, KeyError, TypeError):
        damaged = [MANIFEST]
    if damaged:
        raise HostError(
            f"{run.adapter}: {damaged[0]} is not as it was written; restore it, or train again with --resume never"
        )
    return True


def prepare_run(run: RunDir, plan: Plan, resume: str = "auto") -> None:
    """Writes spec.yaml, plan.json and rendered/. With resume `never` an earlier run is moved aside first, not removed.

    spec.yaml holds what the spec gave and no defaults, so that it can be run again. Raises HostError when the directory
    cannot be written.
    """
    refuse_secrets(run, plan)
    try:
        if resume == "never" and run.plan.exists():
            _set_aside(run)
        run.root.mkdir(parents=True, exist_ok=True, mode=PRIVATE)  # the mode is the last folder's alone
        run.checkpoints.mkdir(exist_ok=True)
        given = plan.spec.model_dump(mode="json", exclude_unset=True)
        write_text(run.spec, yaml.safe_dump(given, sort_keys=False))
        replan(run, plan)
    except OSError as error:
        raise _unwritable(run, error) from None


def replan(run: RunDir, plan: Plan) -> None:
    """Writes plan.json and rendered/ anew: another division of the work, of the same training."""
    for name, text in rendered(plan, run.deepspeed).items():
        write_text(run.rendered / name, text)
    write_text(run.plan, plan.model_dump_json(indent=2) + "\n")


def _unwritable(run: RunDir, error: OSError) -> HostError:
    reason = f"{run.root}: the run directory cannot be written: {error.strerror or error}"
    return HostError(f"{reason}; free space or choose another with --run-dir")


def refuse_secrets(run: RunDir, plan: Plan) -> None:
    """Raises UsageError for a spec or a directory whose own text would take a secret into every file."""
    secrets = secret_values(os.environ)
    if SECRET.search(str(run.root)) or any(secret in str(run.root) for secret in secrets):
        raise UsageError(
            "--run-dir: holds what looks like a secret; it would be copied into the rendered files: choose another"
        )
    for path, text in strings(plan.spec.model_dump()):
        if SECRET.search(text) or any(secret in text for secret in secrets):
            raise UsageError(
                f"{'.'.join(path)}: holds what looks like a secret, or a secret environment variable's value; it would"
                " be copied into the run directory: use another path, or pass it through the environment"
            )


def _set_aside(run: RunDir) -> None:
    number = 1
    while (target := Path(f"{run.root}.old-{number}")).exists():
        number += 1
    run.root.rename(target)
