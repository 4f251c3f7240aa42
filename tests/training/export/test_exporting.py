"""An adapter, or base and adapter in one, as others load it: the same logits, or nothing at all."""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from launch.claim import prepare_run
from launch.errors import DamagedCheckpoint, NumericalError, UsageError, WorkerError
from launch.evaluation import MEASURES
from launch.plan.trained import trained
from launch.rundir import RunDir
from tests.conftest import Workspace, make_base
from tests.training.model.test_initial import NF4, OPTIONS, base_of, disturb, logits, plan_for, saved
from training.export import exporting
from training.export.exporting import export_adapter, export_merged
from training.model.loading import load

HEARD: list[str] = []


def adapter_in(workspace: Workspace, name: str = "adapter", **sections: dict[str, Any]) -> Path:
    """An adapter that has learnt something, with its base's name."""
    model = load(plan_for(workspace, **sections))
    disturb(model)
    return saved(model, workspace.root / name)


def peft_logits(workspace: Workspace, adapter: Path) -> torch.Tensor:
    base = AutoModelForCausalLM.from_pretrained(workspace.root / "base", dtype=torch.float32)
    return logits(PeftModel.from_pretrained(base, adapter))


def merged_logits(directory: Path, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)).float()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_merged_model_gives_the_adapter_s_logits(workspace: Workspace, options: dict[str, Any]) -> None:
    adapter = adapter_in(workspace, lora=options)
    export_merged(trained(adapter), workspace.root / "merged", None, HEARD.append)
    expected = peft_logits(workspace, adapter)
    assert torch.allclose(merged_logits(workspace.root / "merged"), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3"])
def test_every_architecture_is_merged(workspace: Workspace, kind: str) -> None:
    make_base(workspace.root / kind, kind)
    adapter = adapter_in(workspace, model={"variant": str(workspace.root / kind)})
    base = AutoModelForCausalLM.from_pretrained(workspace.root / kind, dtype=torch.float32)
    expected = logits(PeftModel.from_pretrained(base, adapter))
    export_merged(trained(adapter), workspace.root / "merged", None, HEARD.append)
    assert torch.allclose(merged_logits(workspace.root / "merged"), expected, atol=1e-4)


def by_peft(workspace: Workspace, **options: Any) -> Path:
    """An adapter that muster did not make."""
    base = AutoModelForCausalLM.from_pretrained(workspace.root / "base", dtype=torch.float32)
    torch.manual_seed(1)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    model.save_pretrained(workspace.root / "theirs")
    return workspace.root / "theirs"


def test_an_adapter_of_the_output_head(workspace: Workspace) -> None:
    """PEFT saves the head's own weight with it."""
    adapter = by_peft(workspace, target_modules=["q_proj", "lm_head"])
    assert any("lm_head.base_layer" in name for name in load_file(adapter / "adapter_model.safetensors"))
    export_merged(trained(adapter), workspace.root / "merged", None, HEARD.append)
    assert torch.allclose(merged_logits(workspace.root / "merged"), peft_logits(workspace, adapter), atol=1e-4)


def test_adapters_for_another_base_are_refused_by_what_made_them(workspace: Workspace) -> None:
    adapter = by_peft(workspace, target_modules=["q_proj"], init_lora_weights="olora")
    assert refused(adapter, workspace.root / "merged") == (
        "theirs/adapter_config.json: it is for a base that its init_lora_weights 'olora' has changed: save it for the"
        " unchanged one, with PEFT's path_initial_model_for_weight_conversion"
    )
    embedding = by_peft(workspace, target_modules=["embed_tokens"])
    assert refused(embedding, workspace.root / "merged") == (
        "theirs: base_model.model.model.embed_tokens.lora_embedding_A: adapters of embeddings are not merged"
    )


def test_a_card_has_the_newest_evaluation_of_its_adapter(workspace: Workspace) -> None:
    run = RunDir(workspace.root / "run")
    prepare_run(run, plan_for(workspace))
    adapter_in(workspace, "run/adapter")
    numbers = {key: 0.5 for key, _, _ in MEASURES}
    report = {"data": "/private/eval.jsonl", "samples": 9, "questions": 3, "adapter_path": str(run.adapter)}
    for number, loss in (("001", 3.0), ("002", 2.0)):
        path = run.evaluations / number / "report.json"
        path.parent.mkdir(parents=True)
        base = {**numbers, "citation_precision": None}
        path.write_text(json.dumps({**report, "base": base, "adapter": {**numbers, "loss": loss}}))
    (run.evaluations / "003").mkdir()
    (run.evaluations / "003/report.json").write_text("{")  # cut short
    export_adapter(trained(run.root), workspace.root / "out", HEARD.append)
    card = (workspace.root / "out/README.md").read_text()
    assert "- Evaluated on eval.jsonl: 9 rows, 3 questions\n  - held-out loss: 2.0000, base 0.5000\n" in card
    assert "  - citation precision: 50.0%\n" in card
    assert "/private" not in card


def test_an_adapter_of_a_packed_base_is_merged_into_what_was_packed(workspace: Workspace) -> None:
    adapter = adapter_in(workspace, **NF4)
    export_merged(trained(adapter), workspace.root / "merged", None, HEARD.append)
    assert torch.allclose(merged_logits(workspace.root / "merged"), peft_logits(workspace, adapter), atol=1e-4)
    assert "quantization_config" not in json.loads((workspace.root / "merged/config.json").read_text())
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (workspace.root / "merged").iterdir()}
    assert len(modes) == 1, "its weights may be read by whom its config may be"


def test_another_type_is_written_and_named(workspace: Workspace) -> None:
    adapter = adapter_in(workspace)
    export_merged(trained(adapter), workspace.root / "merged", "bf16", HEARD.append)
    assert {tensor.dtype for tensor in load_file(workspace.root / "merged/model.safetensors").values()} == {
        torch.bfloat16
    }
    assert json.loads((workspace.root / "merged/config.json").read_text())["dtype"] == "bfloat16"
    far = merged_logits(workspace.root / "merged", torch.bfloat16) - peft_logits(workspace, adapter)
    assert far.pow(2).mean().sqrt() < 0.05 * peft_logits(workspace, adapter).std()


def test_shards_stay_shards_with_their_index(workspace: Workspace) -> None:
    AutoModelForCausalLM.from_pretrained(workspace.root / "base").save_pretrained(
        workspace.root / "sharded", max_shard_size="100KB"
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (workspace.root / "sharded" / name).write_bytes((workspace.root / "base" / name).read_bytes())
    adapter = adapter_in(workspace, model={"variant": str(workspace.root / "sharded")})
    export_merged(trained(adapter), workspace.root / "merged", None, HEARD.append)
    shards = sorted(path.name for path in (workspace.root / "merged").glob("*.safetensors"))
    assert shards == sorted(path.name for path in (workspace.root / "sharded").glob("*.safetensors"))
    assert len(shards) > 2
    index = json.loads((workspace.root / "merged/model.safetensors.index.json").read_text())
    tensors = [tensor for name in shards for tensor in load_file(workspace.root / "merged" / name).values()]
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors)
    export_merged(trained(adapter), workspace.root / "half", "bf16", HEARD.append)
    index = json.loads((workspace.root / "half/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors) / 2
    assert torch.allclose(merged_logits(workspace.root / "merged"), peft_logits(workspace, adapter), atol=1e-4)


def test_the_files_of_an_exported_model(workspace: Workspace) -> None:
    adapter = adapter_in(workspace)
    export_merged(trained(adapter), workspace.root / "merged", None, HEARD.append)
    assert sorted(path.name for path in (workspace.root / "merged").iterdir()) == [
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "manifest.json",
        "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    card = (workspace.root / "merged/README.md").read_text()
    assert "base_model: base\nlibrary_name: transformers" in card
    assert "- Exported with: torch " in card
    assert "    vllm serve DIR\n" in card


def test_an_adapter_by_itself(workspace: Workspace) -> None:
    adapter = adapter_in(workspace, lora={"rank": 4})
    export_adapter(trained(adapter), workspace.root / "out", HEARD.append)
    assert torch.equal(peft_logits(workspace, workspace.root / "out"), peft_logits(workspace, adapter))
    card = (workspace.root / "out/README.md").read_text()
    assert "vllm serve base --enable-lora --max-lora-rank 8 --lora-modules adapter=DIR" in card
    assert str(workspace.root) not in card
    assert "- Adapter: rank 4, alpha 32" in card


# What must not happen


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_a_merge_that_forgets_the_adapter_is_not_kept(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, precision: str | None
) -> None:
    """Also in bf16, and for an adapter that moves the logits by less than bf16's rounding is allowed to."""
    model = load(plan_for(workspace))
    disturb(model, 0.0007)
    adapter = saved(model, workspace.root / "adapter")
    change = peft_logits(workspace, adapter) - logits(base_of(plan_for(workspace)))
    assert 0.02 < change.pow(2).mean().sqrt() / peft_logits(workspace, adapter).std() < 0.05

    def forget(trained_: Any, base: Path, out: Path, dtype: Any, tell: Any) -> None:
        save_file(load_file(base / "model.safetensors"), out / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(exporting, "merge", forget)
    with pytest.raises(WorkerError) as told:
        export_merged(trained(adapter), workspace.root / "merged", precision, HEARD.append)
    number = r"(\d\.\d\de[+-]\d\d)"
    found = re.fullmatch(
        rf"the merged model's logits are {number} from those of base and adapter, whose standard deviation is {number}"
        rf" \(allowed {number}\); it was not kept",
        str(told.value),
    )
    assert found
    assert float(found[1]) > float(found[3])
    assert not (workspace.root / "merged").exists()
    assert list(workspace.root.glob(".*.partial")) == []


def test_a_broken_adapter_of_others_is_not_passed_on(workspace: Workspace) -> None:
    adapter = by_peft(workspace, target_modules=["q_proj"])
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"][0, 0] = torch.nan
    save_file(tensors, file)
    with pytest.raises(NumericalError, match=r"1 tensor not finite, .*layers\.1.*lora_A\.weight first"):
        export_adapter(trained(adapter), workspace.root / "out", HEARD.append)
    size = file.stat().st_size
    os.truncate(file, size - 100)
    with pytest.raises(UsageError) as told:
        trained(adapter)
    assert str(told.value) == f"{file} has {size - 100:,} bytes, its header says {size:,}; download it again"
    assert not (workspace.root / "out").exists()


def refused(source: Path, out: Path) -> str:
    with pytest.raises(UsageError) as caught:
        export_merged(trained(source), out, None, HEARD.append)
    assert not (out / "README.md").exists()
    return str(caught.value).replace(f"{source.parent}/", "")


def damaged(source: Path, out: Path) -> str:
    with pytest.raises(DamagedCheckpoint) as caught:
        export_merged(trained(source), out, None, HEARD.append)
    return str(caught.value)


def test_an_adapter_of_another_base(workspace: Workspace) -> None:
    adapter = adapter_in(workspace)
    tensors = load_file(adapter / "adapter_model.safetensors")
    renamed = {name.replace("layers.1.", "layers.7."): tensor for name, tensor in tensors.items()}
    save_file(renamed, adapter / "adapter_model.safetensors")
    assert "was changed after it was written" in damaged(adapter, workspace.root / "merged")
    (adapter / "manifest.json").unlink()
    assert refused(adapter, workspace.root / "merged") == (
        "adapter: 14 of its tensors belong to no weight of base,"
        " base_model.model.model.layers.7.mlp.down_proj.lora_A.weight first; is this its base?"
    )


def test_an_adapter_that_no_formula_here_merges(workspace: Workspace) -> None:
    adapter = adapter_in(workspace)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "alpha_pattern": {"q_proj": 4}}))
    (adapter / "manifest.json").unlink()
    assert refused(adapter, workspace.root / "merged") == (
        "adapter/adapter_config.json: alpha_pattern is set; only LoRA, rsLoRA and DoRA are merged"
    )


def test_a_place_that_is_taken(workspace: Workspace) -> None:
    adapter = adapter_in(workspace)
    with pytest.raises(UsageError, match=f"--out {workspace.root}: exists already; choose another place"):
        export_adapter(trained(adapter), workspace.root, HEARD.append)
    assert (workspace.root / "train.jsonl").exists()
    with pytest.raises(UsageError, match=r"inside: lies in what is exported, .*; choose a place outside of it"):
        export_adapter(trained(adapter), adapter / "deep/inside", HEARD.append)
    assert not (adapter / "deep").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "out/adapter_config.json: no such file; expected a run directory, a checkpoint or an adapter"),
        ('{"peft_type": "IA3"}', "out/adapter_config.json: is no LoRA adapter's config; its peft_type has to be LORA"),
        (
            '{"peft_type": "LORA"}',
            "out/adapter_config.json: does not name its base; set base_model_name_or_path in it",
        ),
        (
            '{"peft_type": "LORA", "base_model_name_or_path": "base"}',
            "out/adapter_model.safetensors: no such file; an adapter is that file and adapter_config.json",
        ),
    ],
)
def test_a_folder_that_holds_nothing_trained(tmp_path: Path, content: str | None, message: str) -> None:
    (tmp_path / "out").mkdir()
    if content is not None:
        (tmp_path / "out/adapter_config.json").write_text(content)
    assert refused(tmp_path / "out", tmp_path / "merged") == message
