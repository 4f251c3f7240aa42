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
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from launch.errors import DamagedCheckpoint, HostError, NumericalError, UsageError
from launch.journal import keep_rows, new_directory
from launch.rundir import MANIFEST, RunDir
from training.manifest import described, sha256


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
        f"  {key}: there {theirs.get(key)!r}, here {value!r}"
        for key, value in identity["spec"].items()
        if theirs.get(key) != value
    ]
    if differing:
        raise UsageError("\n".join([f"{directory}: is a checkpoint of another spec", *differing]))
    names = {"data": "the rows of data.train, their tokens or their order", "base": "the base model's files"}
    changed = [names[key] for key in names if before.get(key) != identity[key]]
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


def adapter_files(
    model: PeftModel, tensors: dict[str, torch.Tensor]
) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, str]]:
    """PEFT's two files, from whole tensors by parameter name.

    Raises NumericalError rather than save what is not finite.
    """
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise NumericalError(
            f"{len(broken)} adapter tensors are not finite, {broken[0]} first; not saved. Lower"
            " training.learning_rate or look at the rows of the last step in samples.jsonl"
        )
    state = get_peft_model_state_dict(model, state_dict=dict(tensors))
    config = model.peft_config["default"].to_dict()
    config["inference_mode"] = True
    text = json.dumps(
        config, indent=2, sort_keys=True, default=lambda value: sorted(value) if isinstance(value, set) else str(value)
    )
    return {"adapter_model.safetensors": state}, {"adapter_config.json": text}


def read_adapter(directory: Path, parameters: list[tuple[str, torch.nn.Parameter]]) -> dict[str, torch.Tensor]:
    """The adapter's tensors by the model's parameter names. Raises UsageError when names or shapes are others."""
    saved = load_file(directory / "adapter_model.safetensors")
    # A ZeRO-3 parameter is empty between its uses; ds_shape is its own.
    shapes = {name: tuple(getattr(parameter, "ds_shape", parameter.shape)) for name, parameter in parameters}
    stripped = {name.replace(".default.", "."): name for name in shapes}
    odd = sorted(set(saved) ^ set(stripped))
    odd += [
        name for name, tensor in saved.items() if name in stripped and tuple(tensor.shape) != shapes[stripped[name]]
    ]
    if odd:
        raise UsageError(f"{directory}: its adapter is not this run's: {len(odd)} tensors differ, {odd[0]} first")
    return {stripped[name]: tensor for name, tensor in saved.items()}


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
    progress = json.loads((directory / "progress.json").read_text(encoding="utf-8"))
    assert isinstance(progress, dict)
    return progress
