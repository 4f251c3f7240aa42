"""How an adapter begins, and the files that it becomes, on a small model of the real architecture."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from launch.errors import SpecError, UsageError, WorkerError
from launch.machine.discover import topology
from launch.plan import Plan
from launch.plan.from_spec import planned
from tests.conftest import Workspace
from training.checkpoint.checkpoints import write_directory
from training.model import initial
from training.model.adapter import adapter_files, read_adapter, saved_names, trainable_parameters
from training.model.loading import load, load_base
from training.model.soundness import evaluating

IDS = torch.arange(5, 45)[None]
NF4 = {"model": {"quantization": "nf4"}}


def plan_for(workspace: Workspace, **sections: dict[str, Any]) -> Plan:
    return planned(workspace.spec(cluster={"devices_per_node": 1, "device": "cpu"}, **sections), [], topology)


def base_of(plan: Plan) -> Any:
    return load_base(plan.spec.model, plan.precision, plan.attention, device_map={"": "cpu"})


def logits(model: Any) -> torch.Tensor:
    with evaluating(model):
        return model(IDS).logits  # type: ignore[no-any-return]


def disturb(model: Any, size: float = 0.02) -> None:
    """As if it had been trained."""
    torch.manual_seed(1)
    with torch.no_grad():
        for _, parameter in trainable_parameters(model):
            parameter.add_(torch.randn_like(parameter) * size)


def saved(model: PeftModel, directory: Path) -> Path:
    live = {name: parameter.detach().clone() for name, parameter in trainable_parameters(model)}
    write_directory(directory, *adapter_files(model, live, saved_names(model, list(live))))
    return directory


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "rslora": {"use_rslora": True, "rank": 4},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa with rslora": {"init_lora_weights": "pissa", "use_rslora": True},
    "modules to save": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "some layers": {"layers_to_transform": [1]},
    "a pattern": {"target_modules": r".*\.0\..*(q|up)_proj"},
    "biases": {"bias": "all"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_peft_makes_of_the_files_what_was_trained(workspace: Workspace, options: dict[str, Any]) -> None:
    """Loaded upon the base as it is on disk, whatever the initialisation did to it."""
    plan = plan_for(workspace, lora=options)
    model = load(plan).eval()
    untouched = logits(base_of(plan).eval())
    assert torch.allclose(logits(model), untouched, atol=1e-5)  # nothing is learnt yet
    disturb(model)
    expected = logits(model)
    assert not torch.allclose(expected, untouched, atol=1e-2)
    directory = saved(model, workspace.root / "adapter")
    base = AutoModelForCausalLM.from_pretrained(workspace.root / "base", dtype=torch.float32)
    reopened = PeftModel.from_pretrained(base, directory).eval()
    assert torch.allclose(logits(reopened), expected, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_files_are_read_back_into_a_resumed_model(workspace: Workspace, options: dict[str, Any]) -> None:
    plan = plan_for(workspace, lora=options)
    model = load(plan).eval()
    disturb(model)
    directory = saved(model, workspace.root / "adapter")
    resumed = load(plan, directory).eval()
    parameters = trainable_parameters(resumed)
    tensors = read_adapter(directory, resumed, parameters)
    assert all(torch.equal(tensors[name], parameter) for name, parameter in trainable_parameters(model))
    with torch.no_grad():
        for name, parameter in parameters:
            parameter.copy_(tensors[name])
    assert torch.equal(logits(resumed), logits(model))


def test_loftq_is_nearer_to_the_base_than_nf4_alone(workspace: Workspace) -> None:
    whole = logits(base_of(plan_for(workspace)).eval())
    plain, better = (
        load(plan_for(workspace, **NF4, lora={"init_lora_weights": start, "rank": 16}))
        for start in ("default", "loftq")
    )
    assert (logits(better) - whole).norm() < 0.8 * (logits(plain) - whole).norm()


def test_an_adapter_goes_on_where_another_ended(workspace: Workspace) -> None:
    first = load(plan_for(workspace, lora={"rank": 4})).eval()
    disturb(first)
    directory = saved(first, workspace.root / "adapter")
    second = load(plan_for(workspace, lora={"rank": 4, "adapter": str(directory)})).eval()
    assert torch.equal(logits(second), logits(first))


def test_an_adapter_of_another_kind_is_refused_with_both_values(workspace: Workspace) -> None:
    directory = saved(load(plan_for(workspace, lora={"rank": 4, "use_dora": True})), workspace.root / "adapter")
    assert refused(workspace, {"adapter": str(directory)}).splitlines() == [
        f"lora.adapter {directory}: is of another kind",
        "  lora.rank: the adapter has 4, the spec says 8",
        "  lora.use_dora: the adapter has True, the spec says False",
    ]
    same = {"rank": 4, "use_dora": True, "adapter": str(directory)}
    first = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
    assert refused(workspace, {**same, "target_modules": ["q_proj"]}) == (
        f"lora.adapter {directory}: 24 tensors of its pairs differ from the spec's, {first} first; use the"
        " target_modules and model that it was trained with"
    )
    weights = directory / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    size = len(whole)
    assert refused(workspace, same) == (
        f"lora.adapter: {weights} has {size - 1:,} bytes, its header says {size:,}; download it again"
    )
    run = directory.parent / "run"
    run.mkdir()
    (run / "plan.json").touch()
    assert refused(workspace, {**same, "adapter": str(run)}) == (
        f"lora.adapter: {run} is a run directory; its adapter is {run}/adapter"
    )
    weights.write_bytes(whole)
    (directory / "progress.json").write_text('{"step": 4, "base": "of another base"}')
    assert refused(workspace, same) == (
        f"lora.adapter: {workspace.root}/base: its weights are not those that {directory} was trained on; restore them,"
        " or train again"
    )
    (directory / "adapter_config.json").unlink()
    assert refused(workspace, same) == (
        f"lora.adapter: {directory}/adapter_config.json: no such file; expected a run directory, a checkpoint or an"
        " adapter"
    )


def refused(workspace: Workspace, lora: dict[str, Any]) -> str:
    """What the plan says of a lora section, without its place in the spec."""
    with pytest.raises(SpecError) as caught:
        plan_for(workspace, lora=lora)
    (mistake,) = caught.value.mistakes
    assert mistake.line > 0
    return mistake.message


def test_what_is_not_quantised_keeps_its_type_unless_asked(workspace: Workspace) -> None:
    """bf16 as on a GPU: quant_storage is the engine's type, and 152,064 embeddings are not doubled."""
    plan = plan_for(workspace, **NF4).model_copy(update={"precision": "bf16"})
    base = base_of(plan)
    layer = base.model.layers[0].self_attn.q_proj
    assert (layer.weight.dtype, layer.compute_dtype, layer.weight.quant_state.nested) == (
        torch.bfloat16, torch.bfloat16, True,
    )  # fmt: skip
    assert {base.model.embed_tokens.weight.dtype, base.lm_head.weight.dtype, base.model.norm.weight.dtype} == {
        torch.bfloat16
    }
    asked = plan_for(workspace, model={"quantization": "nf4", "upcast_unquantized": True})
    upcast = base_of(asked.model_copy(update={"precision": "bf16"}))
    assert {upcast.model.embed_tokens.weight.dtype, upcast.lm_head.weight.dtype} == {torch.float32}


def test_weights_that_are_in_no_file_are_not_made_up(workspace: Workspace) -> None:
    """As of a model that is fetched while it is loaded, which no check has seen before."""
    from safetensors.torch import load_file, save_file

    directory = workspace.root / "lacking"
    directory.mkdir()
    for path in (workspace.root / "base").iterdir():
        (directory / path.name).symlink_to(path)
    (directory / "model.safetensors").unlink()
    tensors = load_file(workspace.root / "base/model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"1 tensors are in none of its files, .*up_proj.weight first"):
        base_of(plan_for(workspace, model={"variant": str(directory)}))


def test_a_pair_that_a_weight_cannot_lose_is_told(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Base and adapter together have to stay what was loaded: a pair beyond all measure rounds it away."""
    low_rank = initial._low_rank
    monkeypatch.setattr(initial, "_low_rank", lambda *given: tuple(1e6 * half for half in low_rank(*given)))
    with pytest.raises(WorkerError, match=r"pissa: .*q_proj: base and adapter together are .* from the weight"):
        load(plan_for(workspace, lora={"init_lora_weights": "pissa"}))
