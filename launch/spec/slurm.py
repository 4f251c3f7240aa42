"""SlurmSpec: what a batch job asks of Slurm. A site's file may give defaults for it (site.py)."""

import re
import shlex
from typing import Annotated, Any, Literal

from pydantic import Field

from launch.spec.section import Count, PositiveInt, Section, Text

# What ends a line, for sbatch, for YAML or on a screen.
_CONTROL = r"\x00-\x1f\x7f\u0085\u2028\u2029"


def _text(pattern: str, takes: str) -> Any:
    """A field of such text; `takes` is the pattern in words."""
    return Field(pattern=pattern, json_schema_extra={"takes": takes})


# A value of an #SBATCH line, in which sbatch reads neither a quote, an escape nor a comment.
Word = Annotated[str, _text(rf"^[^\s#'\"\\{_CONTROL}]+$", "one word without spaces, quotes, # or \\")]
Line = Annotated[str, _text(rf"^[^{_CONTROL}]+$", "text on one line")]
Option = Annotated[str, _text(rf"^--?[A-Za-z][^{_CONTROL}]*$", "an option of sbatch such as --mail-type=END")]
# `:` parts a mount, `,` several of them, for both runtimes.
_FOLDER = rf"/[^:,{_CONTROL}]*"
Mount = Annotated[str, _text(rf"^{_FOLDER}(:{_FOLDER}(:(ro|rw))?)?$", "/PATH, /PATH:/INSIDE or /PATH:/INSIDE:ro")]
_TIME = r"^(\d+|\d+:\d+|\d+:\d+:\d+|\d+-\d+|\d+-\d+:\d+|\d+-\d+:\d+:\d+)$"
TimeLimit = Annotated[str, _text(_TIME, 'text such as "90", "12:00:00", "1-12"')]
Memory = Annotated[str, _text(r"^\d+[KMGT]?$", 'text such as "400G" or "0"')]
VariableName = Annotated[str, _text(r"^[A-Za-z_][A-Za-z0-9_]*$", "a variable's name")]
# No program can be given a variable with a byte 0 in it.
VariableValue = Annotated[str, _text(r"^[^\x00]*$", "text")] | int


class ContainerSpec(Section):
    """What the job's nodes train in. The supervisor stays outside, where srun and scontrol are (docs/slurm.md)."""

    image: Line | None = None
    """Image that the nodes train in: a file such as `muster.sif` or `muster.sqsh` on storage that all nodes see, or
    another name that the runtime takes; by default the nodes' own system."""
    runtime: Literal["apptainer", "pyxis"] = "apptainer"
    """What starts it: `apptainer exec` in each step, or Slurm with its plugin pyxis (`srun --container-image`)."""
    mounts: list[Mount] = Field(default_factory=list)
    """Folders of the nodes that it sees beside those of the run, the model, the data and the Hugging Face cache:
    `/PATH`, `/PATH:/INSIDE` or `/PATH:/INSIDE:ro`."""
    python: Line = "python3"
    """Python of the image; muster and what it trains with are installed there."""


class SlurmSpec(Section):
    """What a batch job asks of Slurm. Of it, a run that is started by hand reads `container` alone. A file of the site
    may give defaults for all of it but `spares` (docs/slurm.md)."""

    partition: Word = "gpu"
    """Slurm partition."""
    account: Word | None = None
    """Slurm account."""
    time: TimeLimit = "12:00:00"
    """Time limit of the job: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS."""
    spares: Count = 0
    """Nodes asked for beyond cluster.nodes, so that a bad one can be left out."""
    grace_seconds: Annotated[int, Field(gt=0, le=65535)] = 180
    """Seconds before the time limit at which the run saves and stops."""
    qos: Word | None = None
    """Slurm quality of service; by default the account's."""
    reservation: Word | None = None
    """Slurm reservation to run in."""
    constraint: Word | None = None
    """Features that every node must have, such as `a100&ib`."""
    exclude: list[Word] = Field(default_factory=list)
    """Nodes that are not used, such as `node[07-09]`."""
    gres: Word = "gpu"
    """What the site calls its GPUs in GRES."""
    gpu_type: Word | None = None
    """Type of GPU to ask for, as the site's GRES name it: `a100` for `gpu:a100:8`. By default any."""
    gpu_model: Text | None = None
    """What that GPU is, by the name that `muster plan --gpus` takes, such as `A100-80GB`; needed where the site's types
    do not tell."""
    cpus_per_task: PositiveInt | Literal["auto"] = "auto"
    """CPUs on each node; `auto` is the share of a node that goes with the GPUs that are asked for."""
    mem: Literal["auto"] | Memory = "auto"
    """Host memory on each node, such as `400G`, all of it with `0`; `auto` is the share that goes with the GPUs."""
    requeue: bool = True
    """Whether Slurm may put the job back into its queue after preemption or a node's failure, and muster itself at the
    time limit."""
    output: Line | None = None
    """File of what the batch script prints, with Slurm's patterns such as %j; by default job-%j.log in the run
    directory."""
    modules: list[Word] = Field(default_factory=list)
    """Environment modules that the job loads first, such as `cuda/12.4`."""
    venv: Line | None = None
    """Python environment of the job, a folder with bin/python on storage that all nodes see; by default the one that
    muster was started from."""
    environment: dict[VariableName, VariableValue] = Field(default_factory=dict)
    """Variables of the job, such as `NCCL_SOCKET_IFNAME: ib0`."""
    container: ContainerSpec = ContainerSpec()
    """What the nodes train in, key by key."""
    extra: list[Option] = Field(default_factory=list)
    """More options of sbatch, such as `--mail-type=END`, an #SBATCH line each."""

    @property
    def time_seconds(self) -> int:
        """The time limit in seconds."""
        return seconds_of(self.time)


def is_file(image: str) -> bool:
    """Whether an image is a file or folder, and no name in a registry."""
    return image.startswith(("/", "./", "../", "~")) or image.endswith((".sif", ".sqsh", ".squashfs", ".img"))


def seconds_of(time: str) -> int:
    """Slurm's ways to write a time, in seconds (man sbatch, --time)."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:  # D-HH, D-HH:MM, D-HH:MM:SS
        hours, minutes, seconds = [*parts, 0, 0][:3]
        return ((int(days) * 24 + hours) * 60 + minutes) * 60 + seconds
    if len(parts) == 1:
        return 60 * parts[0]
    hours, minutes, seconds = [0, *parts][-3:]
    return (hours * 60 + minutes) * 60 + seconds


# Options of sbatch that have another place, or that the job would not work without; each with that place.
TAKEN = {
    "job-name": "name", "nodes": "cluster.nodes and slurm.spares", "ntasks": "", "ntasks-per-node": "", "array": "",
    "partition": "slurm.partition", "account": "slurm.account", "qos": "slurm.qos", "time": "slurm.time",
    "reservation": "slurm.reservation", "constraint": "slurm.constraint", "exclude": "slurm.exclude",
    "gpus": "cluster.devices_per_node", "gpus-per-node": "cluster.devices_per_node", "gres": "slurm.gres",
    "cpus-per-task": "slurm.cpus_per_task", "mem": "slurm.mem", "requeue": "slurm.requeue",
    "no-requeue": "slurm.requeue", "output": "slurm.output", "error": "slurm.output", "open-mode": "",
    "signal": "slurm.grace_seconds", "no-kill": "", "wrap": "", "dependency": "muster submit --after", "chdir": "",
    "parsable": "", "wait": "", "test-only": "", "hold": "", "export": "slurm.environment",
}  # fmt: skip
_SHORT = {
    "J": "job-name", "N": "nodes", "n": "ntasks", "a": "array", "p": "partition", "A": "account", "q": "qos",
    "t": "time", "C": "constraint", "x": "exclude", "G": "gpus", "c": "cpus-per-task", "o": "output", "e": "error",
    "k": "no-kill", "d": "dependency", "D": "chdir", "W": "wait", "H": "hold",
}  # fmt: skip


def conflicts(slurm: SlurmSpec) -> list[tuple[tuple[str, ...], str]]:
    """Values of this section that cannot both hold."""
    found: list[tuple[tuple[str, ...], str]] = []
    if 0 < slurm.time_seconds <= slurm.grace_seconds:
        message = (
            f"{slurm.grace_seconds} s before the end of a job of {slurm.time_seconds} s is before it began; lower it"
        )
        found.append((("slurm", "grace_seconds"), message))
    container = slurm.container
    if container.runtime == "pyxis" and (container.image or "").endswith(".sif"):
        message = (
            f"{container.image} is an image of apptainer: runtime: apptainer, or an image that pyxis takes (.sqsh)"
        )
        found.append((("slurm", "container", "image"), message))
    for index, option in enumerate(slurm.extra):
        for name in _taken(option):
            place = TAKEN[name]
            told = f"say it with {place}" if place else "muster says it"
            found.append((("slurm", "extra", str(index)), f"--{name} is not for extra: {told}; remove it"))
    return found


def _taken(line: str) -> list[str]:
    """Names in TAKEN of the options on an #SBATCH line, which may hold several, each cut short as getopt_long lets one
    (`_get_argument` in src/sbatch/opt.c)."""
    try:
        words = shlex.split(line)
    except ValueError:  # a quote that nothing closes: sbatch says so (slurm-accepts)
        words = line.split()
    names = [_option(word) for word in words if re.match("--?[A-Za-z]", word)]
    return [name if name in TAKEN else short[0] for name in names if (short := _whole(name))]


def _whole(name: str) -> list[str]:
    return [taken for taken in TAKEN if taken.startswith(name)]


def _option(option: str) -> str:
    """Its long name: `-c4` and `--cpus-per-task=4` are the same."""
    if option.startswith("--"):
        return re.split(r"[=\s]", option[2:])[0]
    return _SHORT.get(option[1], option[1])
