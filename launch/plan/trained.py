"""What a path to something trained names: a run, one of its checkpoints, or an adapter by itself."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.errors import UsageError
from launch.model.files import hub_name, weights_identity
from launch.model.weights import header
from launch.plan.plan import Plan
from launch.rundir import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MANIFEST, PROGRESS, RunDir


@dataclass(frozen=True)
class Trained:
    """An adapter on disk, in PEFT's format, and what is known of it."""

    adapter: Path
    config: dict[str, Any]
    """Its adapter_config.json."""
    run: RunDir | None
    plan: Plan | None

    @property
    def base(self) -> str:
        """The model that it was trained on: a variant, a directory or a hub id."""
        return self.plan.spec.model.variant if self.plan else str(self.config["base_model_name_or_path"])

    @property
    def base_name(self) -> str:
        """The base as others know it: its hub id, or a directory's name without the way to it."""
        hub = hub_name(self.base)
        return Path(hub).name if Path(hub).is_dir() else hub

    @property
    def step(self) -> int | None:
        """The optimizer step of a checkpoint; None of what is no checkpoint."""
        progress = self.adapter / PROGRESS
        return int(json.loads(progress.read_text(encoding="utf-8"))["step"]) if progress.is_file() else None

    def check_base(self, base: str | None = None) -> None:
        """Raises UsageError when a base, its own unless another is given, is not what it was trained on.

        Only a run knows what that was.
        """
        base = base or self.base
        known = [self.adapter, *(self.run.complete_checkpoints() if self.run else [])]
        progress = next((path / PROGRESS for path in known if (path / PROGRESS).is_file()), None)
        if progress is None:
            return
        identity = json.loads(progress.read_text(encoding="utf-8")).get("base")
        if identity is not None and identity != weights_identity(base):
            what = f"its weights are not those that {self.adapter} was trained on"
            raise UsageError(f"{base}: {what}; restore them, or train again")

    @property
    def name(self) -> str:
        return self.plan.name if self.plan else self.adapter.resolve().name


def trained(path: Path) -> Trained:
    """Raises UsageError for a path that holds nothing trained, or nothing that is finished."""
    path = path.resolve()
    around = (path, path.parent, path.parent.parent)  # itself, RUN/adapter, RUN/checkpoints/step-000025
    run = next((RunDir(folder) for folder in around if RunDir(folder).plan.exists()), None)
    adapter = path / "adapter" if run and run.root == path else path
    if run and run.root == path and not adapter.is_dir():
        newest = next(iter(run.complete_checkpoints()), None)
        instead = f"give one of its checkpoints, such as {newest}, or " if newest else ""
        raise UsageError(f"{path}: this run has no final adapter yet; {instead}go on with muster run")
    config = adapter_config(adapter)
    if not config.get("base_model_name_or_path"):
        raise UsageError(f"{adapter / ADAPTER_CONFIG}: does not name its base; set base_model_name_or_path in it")
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        raise UsageError(f"{adapter / ADAPTER_WEIGHTS}: no such file; an adapter is that file and {ADAPTER_CONFIG}")
    damage = [] if (adapter / MANIFEST).is_file() else header(adapter / ADAPTER_WEIGHTS)[1]  # else its hashes tell
    if damage:
        raise UsageError(damage[0])
    return Trained(adapter, config, run, _plan(run))


def adapter_config(adapter: Path) -> dict[str, Any]:
    """A LoRA adapter's adapter_config.json. Raises UsageError."""
    path = adapter / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; expected a run directory, a checkpoint or an adapter") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise UsageError(f"{path}: is no LoRA adapter's config; its peft_type has to be LORA")
    return config


def _plan(run: RunDir | None) -> Plan | None:
    if run is None:
        return None
    try:
        return Plan.model_validate_json(run.plan.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{run.plan}: cannot be read ({type(error).__name__}); restore it, or copy the adapter out of the run"
        ) from None
