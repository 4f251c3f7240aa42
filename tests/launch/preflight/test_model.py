"""The model's files, tokenizer and chat template."""

import json
from pathlib import Path

import pytest

from launch.model.variants import VARIANTS
from launch.preflight import model
from tests.conftest import Workspace
from tests.launch.conftest import TOKENIZER, write_model
from tests.launch.preflight.conftest import of_model


def test_a_whole_model(tmp_path: Path) -> None:
    found = model.files(of_model(write_model(tmp_path)))
    assert (found.status, found.evidence) == ("pass", str(tmp_path))


def test_a_model_with_files_missing(tmp_path: Path) -> None:
    write_model(tmp_path, shards=("a.safetensors", "b.safetensors"))
    (tmp_path / "b.safetensors").unlink()
    (tmp_path / "tokenizer.json").unlink()
    found = model.files(of_model(tmp_path))
    assert (found.status, found.evidence) == (
        "fail",
        f"{tmp_path}/b.safetensors is missing or empty, but model.safetensors.index.json names it;"
        f" {tmp_path}: no tokenizer (tokenizer.json, vocab.json, tokenizer.model)",
    )
    assert found.fix == "complete the model's files, or change model.variant"


def test_a_model_that_will_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    found = model.files(of_model("qwen3-8b"))
    assert (found.status, found.evidence) == ("warn", "qwen3-8b is not on this machine and will be downloaded")
    assert found.fix.endswith("hf download Qwen/Qwen3-8B")
    assert model._not_here(of_model("qwen3-8b")) == "the model's files are not on this machine yet"


@pytest.mark.parametrize("variant", ["qwen3-8b", "qwen-7b-chat"])
def test_a_model_of_which_the_cache_has_the_config_alone(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As reading a tokenizer leaves it; of an original checkpoint there is then nothing to import yet."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    repository = tmp_path / f"models--{VARIANTS[variant].hub.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("abc")
    model_type = "qwen" if VARIANTS[variant].original else "qwen3"
    (write_model(repository / "snapshots/abc", model_type=model_type) / "model.safetensors").unlink()
    found = model.files(of_model(variant))
    assert (found.status, found.evidence) == (
        "warn",
        f"{variant} is not whole on this machine and will be downloaded",
    )


# Tokenizer


def test_a_real_tokenizer_is_read(base_workspace: Workspace) -> None:
    found = model.tokenizer(of_model(base_workspace.root / "base"))
    assert (found.status, found.values) == ("pass", {"tokens": 425}), found


@pytest.mark.parametrize(
    ("file", "text", "evidence"),
    [
        ("tokenizer.json", "{", "its tokenizer cannot be read: "),
        ("tokenizer.json", json.dumps({"version": "1.0"}), "its tokenizer cannot be read: "),
        ("chat_template.jinja", "{% for m in messages %}", "its chat template cannot be read: "),
        ("chat_template.jinja", "", "has no chat template"),
    ],
)
def test_a_tokenizer_that_cannot_be_used(file: str, text: str, evidence: str, tmp_path: Path) -> None:
    (write_model(tmp_path) / file).write_text(text)
    found = model.tokenizer(of_model(tmp_path))
    assert (found.status, evidence in found.evidence) == ("fail", True), found
    assert found.fix


def test_a_template_that_marks_what_the_assistant_says(tmp_path: Path) -> None:
    """With the tag that transformers adds to jinja."""
    template = "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}"
    (write_model(tmp_path) / "chat_template.jinja").write_text(template)
    assert model.tokenizer(of_model(tmp_path)).status == "pass"


def test_a_tokenizer_that_is_made_when_it_is_loaded(tmp_path: Path) -> None:
    (write_model(tmp_path) / "tokenizer.json").unlink()
    assert model.tokenizer(of_model(tmp_path)).status == "unknown"


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    words = {f"w{number}": number for number in range(200_000)}
    changed = {**TOKENIZER, "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"}}
    (write_model(tmp_path) / "tokenizer.json").write_text(json.dumps(changed))
    found = model.tokenizer(of_model(tmp_path))
    assert (found.status, found.evidence) == (
        "fail",
        "the tokenizer has 200,000 tokens, the model's vocabulary 152,064",
    )


def test_the_default_of_several_chat_templates(tmp_path: Path) -> None:
    (write_model(tmp_path) / "chat_template.jinja").unlink()
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": [{"name": "tools", "template": "{%"}]}))
    assert model.tokenizer(of_model(tmp_path)).evidence == f"{tmp_path} has no chat template"
    config.write_text(json.dumps({"chat_template": [{"name": "default", "template": "{{ messages }}"}]}))
    assert model.tokenizer(of_model(tmp_path)).status == "pass"
