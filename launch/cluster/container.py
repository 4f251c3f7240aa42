"""Where the steps of a job run: on its nodes as they are, or in a container (slurm.container).

The supervisor needs srun and scontrol and stays on the nodes. What it starts there, the questions to each node, the
exchanges among them and the workers, runs in the image, which sees the run's own folders at their own paths.
"""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from launch.model.files import caches, find
from launch.plan import Plan
from launch.rundir import RunDir
from launch.spec.slurm import ContainerSpec

# Of the Python outside: in the image they would name packages that are built for another system.
OF_THE_HOST = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
# pyxis lets the image's own value of a variable win, unless it is told its name (--container-env).
OUR_VARIABLES = ("NCCL_", "GLOO_", "HF_", "TRANSFORMERS_", "PYTHONSAFEPATH", "PYTHONNOUSERSITE")
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, kw_only=True)
class Inside:
    """How a step's command line and environment are changed. As it stands: not at all."""

    options: tuple[str, ...] = ()
    """Of srun."""
    command: tuple[str, ...] = ()
    """What stands before the Python."""
    python: str = sys.executable
    mounts: tuple[str, ...] = ()
    """SOURCE:INSIDE of each, as they stand in `options` or `command`."""
    variables: Mapping[str, str] | None = None
    """What the container adds to the environment; None without one."""

    def environment(self, outer: Mapping[str, str]) -> dict[str, str]:
        """A step's environment from the supervisor's."""
        if self.variables is None:
            return dict(outer)
        kept = {name: value for name, value in outer.items() if name not in OF_THE_HOST}
        return {**self.variables, **kept, "PYTHONNOUSERSITE": "1"}


NODE = Inside()


def inside(plan: Plan, run: RunDir, resume: str = "auto", outer: Mapping[str, str] = os.environ) -> Inside:
    """Of the plan's slurm.container. `resume` may name a checkpoint that lies elsewhere, `outer` is the environment of
    the steps. Looks at the disk to see what is there to mount."""
    asked, gpu = plan.spec.slurm.container, plan.topology.device == "gpu"
    if asked.image is None:
        return NODE
    folder = _existing(run.root)
    found = mounts(asked, folder, _needed(plan, resume))
    if asked.runtime == "apptainer":
        return _apptainer(asked, folder, found, gpu)
    names = [*plan.spec.slurm.environment, *(name for name in outer if name.startswith(OUR_VARIABLES))]
    return _pyxis(asked, folder, found, gpu, [*names, "PYTHONNOUSERSITE", "PYTHONSAFEPATH"])


def _apptainer(asked: ContainerSpec, folder: Path, found: list[str], gpu: bool) -> Inside:
    """apptainer exec hands the environment on, all but PATH and LD_LIBRARY_PATH, which are the image's."""
    command = ["apptainer", "exec", *(["--nv"] if gpu else []), *(f"--bind={each}" for each in found)]
    return Inside(command=(*command, f"--pwd={folder}", str(asked.image)), python=asked.python, mounts=tuple(found),
                  variables={})  # fmt: skip


def _pyxis(asked: ContainerSpec, folder: Path, found: list[str], gpu: bool, names: Iterable[str]) -> Inside:
    options = (
        f"--container-image={asked.image}", f"--container-mounts={','.join(found)}", f"--container-workdir={folder}",
        "--container-mount-home", f"--container-env={','.join(sorted(set(names)))}",
    )  # fmt: skip
    # enroot's hook for the driver looks for it; what Slurm gave this job stays all that CUDA sees.
    shown = {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"} if gpu else {}
    return Inside(options=options, python=asked.python, mounts=tuple(found), variables=shown)


def mounts(asked: ContainerSpec, folder: Path, needed: Iterable[Path]) -> list[str]:
    """SOURCE:INSIDE of each: the run directory, what the run needs, then what the spec asks for. One that lies in
    another comes with it."""
    places: list[Path] = []
    for place in sorted({folder, *needed}):
        if not any(place.is_relative_to(other) for other in places) and place != Path("/"):
            places.append(place)
    own = [each if ":" in each else f"{each}:{each}" for each in asked.mounts]
    return list(dict.fromkeys([*(f"{place}:{place}" for place in places), *own]))


def unmountable(found: Iterable[str]) -> list[str]:
    """Mounts whose path holds a character that both runtimes part mounts with."""
    return [each for each in found if each.count(":") > 2 or "," in each]


def _needed(plan: Plan, resume: str) -> list[Path]:
    """Folders that the workers open, as the spec names them and as they are behind symbolic links."""
    spec = plan.spec
    model = find(spec.model.variant)
    named = [spec.data.train, spec.data.eval, spec.lora.adapter, str(model) if model else None, resume]
    places = [folder for name in named if name and Path(name).is_absolute() for folder in _folders(name)]
    return [*places, *(cache for cache in caches() if cache.is_dir())]


def _folders(name: str) -> list[Path]:
    """The folder that holds a file, a folder itself, or that in which a pattern begins."""
    parts = Path(name).parts
    wild = next((index for index, part in enumerate(parts) if _GLOB.search(part) and not os.path.exists(name)), None)
    place = Path(*parts[:wild])
    found = [place, place.resolve()]
    return [each if each.is_dir() else each.parent for each in found if each.exists()]


def _existing(place: Path) -> Path:
    return next(path for path in (place, *place.parents) if path.is_dir())
