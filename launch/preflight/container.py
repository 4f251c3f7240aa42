"""A job's container before the job waits; `muster submit` alone looks."""

import os
import re
import shutil

from launch.cluster.commands import SlurmError, slurm
from launch.cluster.container import inside, unmountable
from launch.preflight.check import Check
from launch.preflight.result import Context, Finding, failed, passed, unknown, warned
from launch.spec.slurm import is_file


def container(context: Context) -> Finding:
    """The image and what starts it are there, and every folder can be mounted. The job's nodes answer from inside it
    before it trains: what is wrong with the image itself is told then."""
    asked = context.plan.spec.slurm.container
    image = str(asked.image)
    if is_file(image) and not os.path.exists(image):
        return failed(f"{image}: no such image", "slurm.container.image: a file or folder that all nodes see")
    wrong = unmountable(found := inside(context.plan, context.run).mounts)
    if wrong:
        return failed(
            f"a container cannot mount {', '.join(wrong)}", "rename the folder: no comma and no colon in its path"
        )
    if missing := _lacking_pyxis() if asked.runtime == "pyxis" else _lacking_apptainer(context):
        return missing
    told = f"{asked.runtime} starts {image}, which sees {', '.join(each.partition(':')[0] for each in found)}"
    if not is_file(image):
        fix = "write it to a file once (apptainer pull, enroot import) and name that"
        return warned(f"{told}; each node fetches it for every step", fix, mounts=list(found))
    return passed(told, mounts=list(found))


def _lacking_pyxis() -> Finding | None:
    try:
        options = slurm("srun", "--help", seconds=5)
    except SlurmError as error:
        return unknown(error.told, "srun --help lists --container-image where Slurm has pyxis")
    if re.search(r"--container-image\b", options):
        return None
    fix = "slurm.container.runtime: apptainer, or ask an administrator for the plugin pyxis"
    return failed("srun here has no --container-image: Slurm has no pyxis", fix)


def _lacking_apptainer(context: Context) -> Finding | None:
    if shutil.which("apptainer"):
        return None
    if modules := context.plan.spec.slurm.modules:
        told = f"apptainer is not on PATH here; whether {', '.join(modules)} bring it is seen on the nodes"
        return unknown(told, "load the same modules here and submit again")
    fix = "slurm.modules: [apptainer] where a module brings it; --accept slurm-container where the nodes alone have it"
    return failed("apptainer is not on PATH here", fix)


def _none(context: Context) -> str | None:
    if context.batch is None:
        return "not a batch job: muster submit looks"
    return None if context.plan.spec.slurm.container.image else "no slurm.container.image"


CHECKS = (
    Check("slurm-container", "slurm", "no such image, or nothing that starts it", "the file, apptainer, srun --help",
          container, _none, 10.0),
)  # fmt: skip
