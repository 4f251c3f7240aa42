"""Versions of packages: comparing them, which is pure, and muster's own."""

import importlib.metadata
from collections.abc import Mapping

# What decides which combinations work.
PACKAGES = ("torch", "transformers", "accelerate", "deepspeed", "peft", "bitsandbytes")

Versions = Mapping[str, str]
# Where no version is known, as on a machine that only plans.
NEWEST: Versions = {}


def release(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` to (2, 13, 0); what follows the numbers is left out."""
    numbers = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def older(versions: Versions, floors: Versions) -> list[str]:
    """`deepspeed 0.19.7 (needs 0.19.8)` for each installed package below its floor; one that is missing is none."""
    return [
        f"{name} {versions[name]} (needs {floor})"
        for name, floor in floors.items()
        if name in versions and release(versions[name]) < release(floor)
    ]


def own_version() -> str:
    """muster's."""
    try:
        return importlib.metadata.version("muster-lora")
    except importlib.metadata.PackageNotFoundError:
        return "from a clone"  # that was not installed
