"""The torch that is installed: by its files, which may be all that is left of it, and by its own answers."""

import importlib.util
import json
import re
import subprocess
import sys
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any, NamedTuple

IMPORT = "see python -c 'import torch'"
# torch's own answers take an import of some seconds, in a process that may hang or crash. All that a node says has to
# be there within preflight.answer_seconds, after up to 15 s for the shared directory.
ASK_SECONDS = 30.0
ASKED = """
import json, torch
maps = {line.split()[-1] for line in open("/proc/self/maps") if "/" in line}
found = {"cuda": torch.version.cuda, "architectures": torch.cuda.get_arch_list() if torch.version.cuda else []}
if torch.version.cuda:
    found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    found["libraries"] = sorted(path for path in maps if "nccl" in path or "libcuda" in path)
print(json.dumps(found))
"""


def torch_build() -> tuple[str | None, str | None]:
    """(torch's version, the CUDA it was built for), from its files: it is not imported, and may not be importable."""
    try:
        found = version("torch")
    except PackageNotFoundError:
        return None, None
    path = Path(str(distribution("torch").locate_file("torch/version.py")))
    try:
        match = re.search(r"^cuda[^=]*= *'([\d.]+)'", path.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return found, None
    return found, match[1] if match else None


def there(module: str) -> bool:
    """Whether a module of any depth is installed, by its files. Nothing is imported, no package around it either."""
    first, *rest = module.split(".")
    found = importlib.util.find_spec(first)
    for name in rest:
        places = found.submodule_search_locations if found else None
        found = PathFinder.find_spec(name, list(places)) if places else None
    return found is not None


def nccl_wheel() -> str | None:
    """The version of the wheel that torch's own CUDA asks for; one for another CUDA may have been left behind."""
    major = (torch_build()[1] or "").partition(".")[0]
    names = ("nvidia-nccl-cu13", "nvidia-nccl-cu12")
    for name in sorted(names, key=lambda name: not name.endswith(f"cu{major}")):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


class NoTorch(NamedTuple):
    """Why torch does not tell."""

    why: str
    broken: bool = False
    """Its import fails, as it will in every worker."""


def ask_torch() -> dict[str, Any] | NoTorch:
    """What only torch itself can tell, from a process of its own; why not where it cannot."""
    if importlib.util.find_spec("torch") is None:
        return NoTorch("it is not installed")
    try:
        done = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, timeout=ASK_SECONDS)
    except subprocess.TimeoutExpired:
        return NoTorch(f"its import took longer than {ASK_SECONDS:g} s")
    if done.returncode:
        return NoTorch((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1], broken=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))
