"""The model card: what an adapter was trained on, how, and what came out."""

from pathlib import Path
from typing import Any

from launch.evaluation import MEASURES, MODELS
from launch.machine.discover import installed
from launch.model.files import hub_name
from launch.model.variants import APACHE, VARIANTS, by_hub
from launch.plan import Plan
from launch.plan.trained import Trained
from launch.rundir import RunDir
from launch.rundir.journal import document, rows

# What --max-lora-rank may be (vllm.config.LoRAConfig).
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def model_card(trained: Trained, merged: bool) -> str:
    """README.md as the hub reads it: YAML with the base and the license, then text for people."""
    variant = VARIANTS.get(by_hub(trained.base) or trained.base)
    title = f"# {trained.name}{'' if merged else ' (LoRA adapter)'}"
    head = ["---", f"base_model: {trained.base_name}", "library_name: " + ("transformers" if merged else "peft")]
    head += ["license: apache-2.0"] if variant and variant.license == APACHE else ["license: other"]
    head += ["pipeline_tag: text-generation", "tags: [lora, security, rag]", "---", "", title, ""]
    license_name = variant.license if variant else "see the base model"
    what = "The base model with the adapter merged into its weights." if merged else "An adapter for the base model."
    parts = [what, "", f"- Base: {trained.base_name}", f"- License of the base: {license_name}"]
    if trained.plan:
        parts += _recipe(trained.plan)
    else:
        parts.append(f"- Adapter: rank {trained.config['r']}, alpha {trained.config['lora_alpha']:g}")
    if trained.run:
        parts += [*_results(trained.run, trained.step), *_evaluation(trained.run, trained.adapter)]
    parts += [
        f"- Exported with: {_versions()}",
        "",
        "## Use",
        "",
        *(f"    {_without_folders(line, trained)}" for line in serving(trained, merged, "DIR")),
        "",
    ]
    return "\n".join([*head, *parts])


def serving(trained: Trained, merged: bool, directory: str) -> list[str]:
    """The commands that serve it."""
    if merged:
        return [f"vllm serve {directory}", f"transformers chat {directory}"]
    config = trained.config
    load = f"python -c \"from peft import AutoPeftModelForCausalLM as M; M.from_pretrained('{directory}')\""
    if config.get("use_dora") or config.get("modules_to_save") or config.get("bias", "none") != "none":
        return [load, "# vLLM serves neither DoRA nor what was trained whole as an adapter: muster export --merged"]
    rank = next((size for size in VLLM_RANKS if size >= config["r"]), config["r"])
    variant = VARIANTS.get(by_hub(trained.base) or trained.base)
    # The hub's own directory of an original checkpoint has other modules; what it was imported into has these.
    base = str(config["base_model_name_or_path"]) if variant and variant.original else hub_name(trained.base)
    name = f"{trained.name}={directory}"
    return [f"vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules {name}", load]


def _recipe(plan: Plan) -> list[str]:
    lora, training, data = plan.spec.lora, plan.spec.training, plan.spec.data
    packed = ", packed" if data.packing else ""
    length = f"{training.max_steps} steps" if training.max_steps else f"{training.epochs:g} epochs"
    return [
        f"- Adapter: rank {lora.rank}, alpha {lora.alpha}, dropout {lora.dropout:g},"
        f" {plan.adapter_parameters:,} parameters; base held as {plan.spec.model.quantization}, {plan.precision}",
        f"- Recipe: {length} of {plan.global_batch_size} sequences, learning rate {training.learning_rate:g}"
        f" {plan.lr_scheduler}, {plan.optimizer}, seed {training.seed}",
        f"- Rows: {Path(data.train).name}, sequences of at most {data.max_length:,} tokens{packed}",
        f"- Trained with: {plan.strategy} on {plan.world_size} x {plan.topology.device_name}",
    ]


def _results(run: RunDir, step: int | None) -> list[str]:
    attempts: list[dict[str, Any]] = [row for row in rows(run.events) if row["event"] == "started"]
    started = attempts[-1] if attempts else {}  # an earlier one may have failed on other rows
    # After early stopping the last row is the best adapter's, which is the final one and no checkpoint's.
    reached = [row for row in rows(run.metrics) if step is None or ("best_step" not in row and row["step"] <= step)]
    seen = [row["eval_loss"] for row in reached if row.get("eval_loss") is not None]
    found = []
    if "data" in started:
        found.append(
            f"- Data: {started['data']['rows']:,} rows, {started['data']['trainable_tokens']:,} tokens trained on"
        )
    if len(seen) > 1:
        found.append(f"- Evaluation loss: {seen[0]:.4f} before, {seen[-1]:.4f} after")
    return found


def _evaluation(run: RunDir, adapter: Path) -> list[str]:
    """The numbers of the newest `muster evaluate` of this adapter."""
    found = []
    for path in sorted(run.evaluations.glob("*/report.json")):
        report = document(path)
        if report and Path(report["adapter_path"]) == adapter:
            found = _numbers(report)
    return found


def _numbers(report: dict[str, Any]) -> list[str]:
    lines = [
        f"- Evaluated on {Path(report['data']).name}: {report['samples']:,} rows, {report['questions']:,} questions"
    ]
    for key, name, form in MEASURES:
        base, adapter = (report[model][key] for model in MODELS)
        if adapter is not None:
            before = "" if base is None else f", base {form.format(base)}"
            lines.append(f"  - {name}: {form.format(adapter)}{before}")
    return lines


def _without_folders(line: str, trained: Trained) -> str:
    """A local base by its name alone: a card is for others."""
    return line.replace(hub_name(trained.base), trained.base_name)


def _versions() -> str:
    return ", ".join(f"{name} {version}" for name, version in installed().items())
