"""A batch job -> the script that sbatch takes. The shipped ones in slurm/ are written by the same function.

The script decides nothing: it sets what the spec sets, finds its Python and becomes the supervisor.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from launch.spec.slurm import SlurmSpec
from launch.wording import printable

# Words that sbatch reads as they stand; all others are quoted.
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./\[\]()|&*!~^-]+")
# The job's own folder of a sweep, for element N of the job array.
ELEMENT = '"$sweep/$SLURM_ARRAY_TASK_ID.yaml" --run-dir "$sweep/$SLURM_ARRAY_TASK_ID"'


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """What one job asks for, resolved."""

    name: str
    nodes: int
    """The run's and the spares."""
    gpus_per_node: int
    """0 for CPU processes."""
    cpus_per_task: int
    mem: str | None
    """On each node; None leaves it to the site's own default."""
    output: str
    """In Slurm's pattern: `%` stands in it as `%%`."""
    slurm: SlurmSpec
    elements: int | None = None
    """How many runs a sweep has, each an element of a job array; None for one run."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """The text around a job's #SBATCH lines."""

    head: Sequence[str]
    """Comments, the first of them the command that uses the file."""
    venv: str
    """The Python environment, as the shell reads it."""
    arguments: str
    """What the supervisor is given, as the shell reads it."""
    before: Sequence[str] = field(default=())
    """Lines that `arguments` needs."""


def options(job: BatchJob) -> list[str]:
    """The #SBATCH options, each with a comment above it where one line matters more than it shows."""
    slurm = job.slurm
    lines = [f"--job-name={quoted(job.name)}", f"--partition={slurm.partition}"]
    for name in ("account", "qos", "reservation", "constraint"):
        if (value := getattr(slurm, name)) is not None:
            lines.append(f"--{name}={value}")
    lines.append(f"--nodes={job.nodes}")
    lines += ["# Crucial: one task per node. It starts one worker for each GPU itself.", "--ntasks-per-node=1"]
    lines += _gpus(job)
    lines.append(f"--cpus-per-task={job.cpus_per_task}")
    if job.mem is not None:
        lines.append(f"--mem={job.mem}")
    if slurm.exclude:
        lines.append(f"--exclude={','.join(slurm.exclude)}")
    if job.elements is not None:
        lines.append(f"--array=0-{job.elements - 1}")
    lines += [
        f"--time={slurm.time}",
        f"# {slurm.grace_seconds} s before the time limit the run saves and"
        f" {'goes back into the queue' if slurm.requeue else 'ends'}.",
        "# B: the batch shell alone is told, and that is the supervisor, which asks the ranks.",
        f"--signal=B:USR1@{slurm.grace_seconds}",
        f"--{'requeue' if slurm.requeue else 'no-requeue'}",
        "# A node that fails does not end the job: the run goes on from its checkpoint without it.",
        "--no-kill",
        "# Once more in the queue, a job would begin its log anew.",
        "--open-mode=append",
        f"--output={quoted(job.output)}",
        *slurm.extra,
    ]
    return [line if line.startswith("#") else f"#SBATCH {line}" for line in lines]


def _gpus(job: BatchJob) -> list[str]:
    if job.gpus_per_node == 0:
        return []
    count = f"{job.slurm.gpu_type}:{job.gpus_per_node}" if job.slurm.gpu_type else str(job.gpus_per_node)
    return [f"--gpus-per-node={count}" if job.slurm.gres == "gpu" else f"--gres={job.slurm.gres}:{count}"]


def quoted(value: str) -> str:
    """A value as sbatch reads it from an #SBATCH line: within double quotes, where a backslash escapes.

    (`_get_argument` in src/sbatch/opt.c.) Raises ValueError for a value that no line can hold.
    """
    if printable(value) != value:
        raise ValueError(f"{value!r} does not fit on a line")
    return value if _PLAIN.fullmatch(value) else '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def script(job: BatchJob, text: Script) -> str:
    """The whole file."""
    slurm = job.slurm
    head = [f"# {printable(line)}".rstrip() for line in text.head]
    modules = [f"module load {shlex.quote(name)} || exit 3" for name in slurm.modules]
    if modules:
        modules = [
            "# A batch shell is no login shell, which alone knows `module` at many sites.",
            "# shellcheck disable=SC1091 # it is the site's",
            "command -v module >/dev/null || . /etc/profile",
            *modules,
        ]
    variables = ['export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"']
    variables += [f"export {name}={shlex.quote(str(value))}" for name, value in slurm.environment.items()]
    literal = any("'" in line for line in (*variables, text.venv, text.arguments, *text.before))
    body = [
        *(["# shellcheck disable=SC2016 # what a spec says is meant as it stands: nothing in it expands"] * literal),
        *modules,
        "# Since Slurm 22.05 srun takes the number of CPUs from this variable alone.",
        *variables,
        "# A folder called launch/ where the job was submitted must not take the place of muster's own.",
        "export PYTHONSAFEPATH=1",
        f"venv={text.venv}",
        'if [ ! -x "$venv/bin/python" ]; then',
        '    echo "error: $(hostname): no $venv/bin/python: name a Python environment that all nodes see" >&2',
        "    exit 3",
        "fi",
        'export PATH="$venv/bin:$PATH"',
        *text.before,
        *_outside(slurm),
        "# exec: the signal at the time limit reaches the supervisor itself.",
        f'exec "$venv/bin/python" -m launch.supervisor {text.arguments}',
    ]
    return "\n".join(["#!/bin/bash", *head, *options(job), "", *body]) + "\n"


def _outside(slurm: SlurmSpec) -> list[str]:
    container = slurm.container
    if container.image is None:
        return []
    what = f"{printable(container.image)} ({container.runtime})"
    return [f"# The supervisor runs out here, where srun is; what it starts on the nodes runs in {what}."]


def pattern(path: str) -> str:
    """A path as Slurm reads file names, where `%` begins a pattern."""
    return path.replace("%", "%%")


def run_script(job: BatchJob, file: str, venv: str, spec: str, run_dir: str, words: Sequence[str] = ()) -> str:
    """The script of one run. `words` are more arguments of the supervisor."""
    arguments = shlex.join([spec, "--run-dir", run_dir, *words])
    return script(job, Script(head=[shlex.join(["sbatch", file])], venv=shlex.quote(venv), arguments=arguments))


def sweep_script(job: BatchJob, file: str, venv: str, folder: str, words: Sequence[str] = ()) -> str:
    """The script of a sweep: element N of the job array runs folder/N.yaml in folder/N."""
    arguments = " ".join([ELEMENT, *map(shlex.quote, words)])
    head, before = [shlex.join(["sbatch", file])], [f"sweep={shlex.quote(folder)}"]
    return script(job, Script(head=head, venv=shlex.quote(venv), arguments=arguments, before=before))


# The shipped scripts

_OPTIONS = "[-s KEY=VALUE]... [--run-dir DIR] [--resume auto|never|PATH] [--accept CHECK]..."
_KNOBS = (
    "Its #SBATCH lines are the knobs: change them to your site, and to the spec's cluster section. `muster submit",
    "SPEC` writes them from the spec and checks them first. Environment:",
    "  MUSTER_VENV  Python environment with muster, which all nodes see  (default: .venv where sbatch is called)",
)
# Absolute, as nobody knows where a later process stands.
_VENV = '$(realpath -ms -- "${MUSTER_VENV:-.venv}")'


def shipped() -> dict[str, str]:
    """The files of slurm/, by relative path."""
    files = {}
    sizes = {"single_gpu": (1, 1, "on one GPU"), "single_node": (1, 8, "on the GPUs of one node")}
    sizes["multi_node"] = (3, 8, "on two nodes; the third is a spare, which takes the place of one that fails")
    for name, (nodes, gpus, where) in sizes.items():
        file = f"slurm/{name}.sbatch"
        head = [f"sbatch {file} SPEC {_OPTIONS}", "", f"Trains SPEC {where}.", *_KNOBS]
        text = Script(head=head, venv=_VENV, arguments='"$@"')
        files[file] = script(_by_hand(nodes, gpus), text)
    file = "slurm/sweep.sbatch"
    head = [
        f"sbatch --array=0-3 {file} FOLDER [--accept CHECK]...", "",
        "Trains FOLDER/0.yaml to FOLDER/3.yaml, one run an element of the job array, in FOLDER/0 to FOLDER/3, each on",
        "the GPUs of one node.", *_KNOBS,
    ]  # fmt: skip
    before = ["sweep=${1:?name the folder that holds 0.yaml, 1.yaml and so on}", "shift"]
    text = Script(head=head, venv=_VENV, arguments=f'{ELEMENT} "$@"', before=before)
    files[file] = script(_by_hand(1, 8, "muster-%A_%a.log", 4), text)
    return files


def _by_hand(nodes: int, gpus: int, output: str = "muster-%j.log", elements: int | None = None) -> BatchJob:
    return BatchJob(
        name="muster", nodes=nodes, gpus_per_node=gpus, cpus_per_task=8 * gpus, mem=None, output=output,
        slurm=SlurmSpec(), elements=elements,
    )  # fmt: skip
