"""What a cluster's own file says about Slurm, so that a spec moves between clusters unchanged.

    slurm:
      partition: a100
      account: sec-lab
      modules: [cuda/12.4]
      environment: {NCCL_SOCKET_IFNAME: ib0}

In ~/.config/muster/site.yaml (XDG_CONFIG_HOME is honoured), or where MUSTER_SITE says; MUSTER_SITE= is none. What a
spec or -s says comes first, key by key.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.errors import Mistake, UsageError
from launch.spec.located import Located, locate
from launch.spec.runspec import KeyPath
from launch.spec.slurm import is_file

# Of a run alone: as a default it would be wrong for every run on one node.
NOT_A_SITE_S = ("spares",)
PATHS = ("venv", "output")


def site_file(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The site's file; None where there is none. Raises UsageError where MUSTER_SITE names one that is not there."""
    asked = environment.get("MUSTER_SITE")
    if asked is not None:
        if asked and not Path(asked).is_file():
            raise UsageError(f"MUSTER_SITE={asked}: no such file; unset it, or set it to nothing for no site file")
        return Path(asked) if asked else None
    config = environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    found = Path(config, "muster", "site.yaml")
    return found if found.is_file() else None


def read_site(file: Path) -> Located:
    """The file's values, with their places. Raises UsageError or SpecError for one that cannot be read."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read as UTF-8 text: {error}") from None
    site = locate(text if _says_something(text) else "{}", str(file), [])
    for key in [key for key in site.values if key != "slurm"]:
        site.mistakes.append(Mistake(*site.at((key,), key=True), f"{key}: unknown key of a site file. Allowed: slurm"))
        del site.values[key]
    section = site.values.get("slurm")
    for key in NOT_A_SITE_S:
        if isinstance(section, dict) and key in section:
            message = f"slurm.{key}: is a run's own and stands in its spec; remove it here"
            site.mistakes.append(Mistake(*site.at(("slurm", key), key=True), message))
            del section[key]
    for key in PATHS:
        if isinstance(section, dict) and isinstance(section.get(key), str):
            section[key] = absolute(section[key], file.resolve().parent)
    container = section.get("container") if isinstance(section, dict) else None
    image = container.get("image") if isinstance(container, dict) else None
    if isinstance(container, dict) and isinstance(image, str) and is_file(image):
        container["image"] = absolute(image, file.resolve().parent)
    return site


def _says_something(text: str) -> bool:
    """Not where all of it is comments, as in a file that is kept for another day."""
    return any(line.partition("#")[0].strip() for line in text.splitlines())


def absolute(value: str, folder: Path) -> str:
    """A path as it starts at a folder."""
    return os.path.normpath(os.path.join(folder, os.path.expanduser(value)))


def with_defaults(spec: Located, site: Located) -> None:
    """Puts the site's values under a spec's, so that a mistake in one is told at its place in the site's file."""
    _merge(spec, site, ())
    spec.mistakes += site.mistakes
    spec.unreadable += [path for path in site.unreadable if spec.at(path)[0] == site.origin]


def _merge(spec: Located, site: Located, path: KeyPath) -> None:
    theirs: Any = site.values
    ours: Any = spec.values
    for key in path:
        theirs, ours = theirs[key], ours[key]
    for key, value in theirs.items():
        inner = (*path, key)
        if key not in ours:
            ours[key] = value
            for places, source in ((spec.keys, site.keys), (spec.places, site.places)):
                places.update({found: place for found, place in source.items() if found[: len(inner)] == inner})
        elif isinstance(ours[key], dict) and isinstance(value, dict):
            _merge(spec, site, inner)
