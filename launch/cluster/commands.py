"""Slurm's own commands: started with a deadline, and their failures told apart."""

import os
import re
import signal
import subprocess
from collections.abc import Mapping
from functools import partial
from typing import Literal

from launch.errors import MusterError, UsageError
from launch.processes import die_with_parent

# A healthy controller answers within a second; slurmctld's own message time-out is 10 s, tried several times.
SECONDS = 30.0

Silence = Literal["absent", "munge", "accounting", "controller", "configuration", "overdue", "refused"]

# What is in a message, which silence that is, and what to do about it.
_KNOWN: tuple[tuple[str, Silence, str], ...] = (
    (
        r"munge|auth_g?_?(?:pack|create)|authentication|Invalid credential",
        "munge",
        "have an administrator start munge on this machine (systemctl status munge), and compare the clocks and keys",
    ),
    (
        r"Problem talking to the database|PersistInit|slurmdbd|slurm_persist_conn",
        "accounting",
        "slurmdbd is down or cannot be reached from here: ask an administrator",
    ),
    (
        r"Unable to contact slurm controller|connect failure|Connection refused|Socket timed out",
        "controller",
        "slurmctld is down or cannot be reached from here: scontrol ping; try again, or ask an administrator",
    ),
    (
        r"configuration source|fetch config|DNS SRV|slurm\.conf|No such file or directory",
        "configuration",
        "this machine has Slurm's commands but no cluster: copy slurm.conf here or set SLURM_CONF, or use a login node",
    ),
)  # fmt: skip
# Who says it: the command, or a function of libslurm.
_PREFIX = re.compile(r"^(?:sbatch|squeue|scontrol|sinfo|sacct|sacctmgr|scancel|srun|slurm_\w+(?: error)?): ")


class SlurmError(MusterError):
    """A command of Slurm that did not do what it was asked for; `silence` tells why."""

    exit_code = UsageError.exit_code

    def __init__(self, silence: Silence, told: str, fix: str):
        self.silence, self.told, self.fix = silence, told, fix
        super().__init__(f"{told}; {fix}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.silence, self.told, self.fix)


def slurm(*argv: str, text: str | None = None, seconds: float = SECONDS) -> str:
    """What a command of Slurm prints. `text` is its standard input. Raises SlurmError."""
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE if text is not None else subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, errors="replace", env=environment(os.environ), start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )  # fmt: skip
    except (FileNotFoundError, PermissionError):  # the latter also of a folder on PATH that this user must not search
        fix = "run muster on a login node of the cluster, or load its module"
        raise SlurmError("absent", f"{argv[0]} is not on this machine", fix) from None
    try:
        out, err = process.communicate(text, timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        fix = "the controller is overloaded or unreachable: scontrol ping"
        raise SlurmError("overdue", f"{argv[0]} has not answered within {seconds:g} s", fix) from None
    if process.returncode:
        raise failure(argv[0], err or out)
    return out


def failure(program: str, printed: str) -> SlurmError:
    """What a command that failed has printed, in one line, and what to do about it."""
    lines = [_PREFIX.sub("", line.strip()) for line in printed.splitlines()]
    words = list(dict.fromkeys(re.sub(r"^(?:error|fatal): ", "", line).rstrip(".") for line in lines if line))
    told = "; ".join(words) or "failed and said nothing"
    for pattern, silence, fix in _KNOWN:
        if re.search(pattern, told, re.IGNORECASE):
            return SlurmError(silence, f"{program}: {words[-1]}", fix)
    return SlurmError("refused", f"{program}: {told}", "change the slurm section of the spec, or what else it names")


def environment(outer: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without what would change a command unseen.

    SBATCH_* variables come before #SBATCH lines (man sbatch, INPUT ENVIRONMENT VARIABLES); SLURM_* variables are left
    by an enclosing job, which a new one is no part of. Which cluster is asked stays the caller's.
    """
    kept = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_CONF_SERVER"}
    ours = {
        name: value
        for name, value in outer.items()
        if name in kept or not name.startswith(("SBATCH_", "SLURM_", "SRUN_", "SQUEUE_", "SINFO_", "SACCT_", "PMI"))
    }
    return {**ours, "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C.UTF-8"}


def set_aside(outer: Mapping[str, str]) -> list[str]:
    """Variables that would have changed a job, and that it is submitted without."""
    return sorted(name for name in outer if name.startswith("SBATCH_"))
