"""A checkpoint directory: written under a temporary name, synced, renamed; read only after its manifest agrees.

    adapter_config.json adapter_model.safetensors    the adapter in PEFT's own format, fp32
    optimizer.safetensors                            both Adam moments of each adapter parameter
    generators.safetensors                           each rank's random generators
    trainer_state.json                               transformers' TrainerState
    progress.json                                    updates, learning-rate position, loss scale
    manifest.json                                    SHA-256 and size of each of the above

Nothing in it is a pickle, so loading runs no code.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from launch.errors import DamagedCheckpoint, HostError, UsageError
from launch.rundir import MANIFEST, PROGRESS, RunDir
from launch.rundir.journal import keep_rows, new_directory
from training.checkpoint.manifest import described, sha256


def write_directory(
    target: Path,
    tensors: Mapping[str, dict[str, torch.Tensor]],
    texts: Mapping[str, str],
    complete: Callable[[Path], None] | None = None,
) -> int:
    """Writes files and their manifest so that `target` exists complete or not at all. Returns the bytes written.

    `complete` may add files to the temporary directory, or refuse it by raising, before it gets its name.

    Raises HostError when the disk is full or refuses.
    """
    try:
        with new_directory(target) as folder:
            for name, content in tensors.items():
                save_file(content, folder / name)
            for name, text in texts.items():
                (folder / name).write_text(text, encoding="utf-8")
            if complete:
                complete(folder)
            files = described(folder.iterdir())
            (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=2), encoding="utf-8")
    except OSError as error:
        raise HostError(
            f"{target} could not be written: {error.strerror or error}; earlier checkpoints are untouched. Free"
            " space, then --resume auto"
        ) from error
    return sum(int(str(file["bytes"])) for file in files.values())


def check_directory(directory: Path) -> None:
    """Raises DamagedCheckpoint naming the first file that is missing, cut short or changed."""
    try:
        files = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DamagedCheckpoint(f"{directory.name}: {MANIFEST} is missing or unreadable") from None
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            raise DamagedCheckpoint(f"{directory.name}: {name} is missing")
        if path.stat().st_size != expected["bytes"]:
            raise DamagedCheckpoint(
                f"{directory.name}: {name} has {path.stat().st_size} bytes, its manifest says {expected['bytes']}"
            )
        if sha256(path) != expected["sha256"]:
            raise DamagedCheckpoint(f"{directory.name}: {name} was changed after it was written (SHA-256 differs)")


def choose(run: RunDir, resume: str) -> tuple[Path | None, list[str]]:
    """The checkpoint to continue from, and why newer ones were refused.

    `auto` takes the newest good one, `never` none, a path that one or nothing. Raises UsageError for a path
    that is no good checkpoint.
    """
    if resume == "never":
        return None, []
    if resume != "auto":
        try:
            check_directory(Path(resume))
        except DamagedCheckpoint as damage:
            raise UsageError(f"--resume {resume}: {damage}") from None
        return Path(resume), []
    refused = []
    for directory in run.complete_checkpoints():
        try:
            check_directory(directory)
        except DamagedCheckpoint as damage:
            refused.append(str(damage))
        else:
            return directory, refused
    return None, refused


def check_identity(directory: Path, identity: dict[str, Any]) -> None:
    """Raises UsageError when the rows, the base or the spec are not those that the checkpoint was trained on."""
    before = read_progress(directory)
    theirs = before.get("spec", {})
    differing = [
        f"  {key}: there {theirs[key]!r}, here {value!r}"
        for key, value in identity["spec"].items()
        if key in theirs and theirs[key] != value  # one that an older muster did not know had its default
    ]
    if differing:
        raise UsageError("\n".join([f"{directory}: is a checkpoint of another spec", *differing]))
    names = {
        "data": "the rows of data.train, their tokens or their order",
        "base": "the base model's files",
        "adapter": "the adapter that lora.adapter names",
    }
    changed = [what for key, what in names.items() if before.get(key) != identity.get(key)]
    if changed:
        raise UsageError(
            f"{directory}: {' and '.join(changed)} changed since this checkpoint was written, so going on would"
            " be another"
            " run; put them back, or start anew with --resume never"
        )


def set_aside_newer(run: RunDir, chosen: Path | None) -> None:
    """Checkpoints beyond the one that is continued from lose their names, not their content.

    They are damaged, or of steps that will be trained again; counted among the newest they would push out good ones.
    """
    reached = 0 if chosen is None else read_progress(chosen)["step"]  # whatever its directory is called
    for path in run.complete_checkpoints():
        if chosen is not None and int(path.name.split("-")[1]) <= reached:
            break
        target = path.with_name(f"{path.name}.set-aside")
        shutil.rmtree(target, ignore_errors=True)
        path.rename(target)


def bring_ledger(run: RunDir, chosen: Path | None) -> None:
    """The rows of metrics and samples up to a checkpoint that comes from another run directory.

    Without them the ledger would not show what its steps were trained on.
    """
    if chosen is None or chosen.resolve().parent == run.checkpoints.resolve():
        return
    step, other = read_progress(chosen)["step"], RunDir(chosen.parent.parent)
    for theirs, ours in ((other.samples, run.samples), (other.metrics, run.metrics)):
        if not theirs.is_file():
            raise UsageError(
                f"--resume {chosen}: there is no {theirs.name} beside its checkpoints, so what it was trained on cannot"
                " be shown; give a checkpoint inside its run directory"
            )
        shutil.copyfile(theirs, ours)  # also over rows of steps that are not those of this checkpoint
        keep_rows(ours, lambda row: row["step"] <= step)


def keep_newest(run: RunDir, limit: int, best: Path | None) -> list[Path]:
    """Removes all but the `limit` newest checkpoints; the best one is kept beyond that. Returns what went."""
    gone = [path for path in run.complete_checkpoints()[limit:] if path != best]
    for path in gone:
        # Renamed first: a half-removed directory must not have the name of a complete one.
        path.rename(path.with_name(f".{path.name}.removed"))
    for leftover in run.checkpoints.glob(".*"):  # these, and what a kill left half-written or half-removed
        shutil.rmtree(leftover, ignore_errors=True)
    return gone


def read_progress(directory: Path) -> dict[str, Any]:
    progress = json.loads((directory / PROGRESS).read_text(encoding="utf-8"))
    assert isinstance(progress, dict)
    return progress
