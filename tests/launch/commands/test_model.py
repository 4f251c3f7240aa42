"""muster model: what is listed, shown and imported."""

import json
from pathlib import Path

import pytest

from launch.model.variants import VARIANTS
from tests.launch.conftest import in_process as call
from tests.launch.conftest import write_model


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def test_every_variant_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "model", "list", "--json")
    models = json.loads(done.out)
    assert [model["name"] for model in models] == list(VARIANTS)
    assert models[3] == {
        "name": "qwen-14b-chat", "hub": "Qwen/Qwen-14B-Chat", "directory": None, "parameters": 14_167_290_880,
        "context": 2048, "chat": True, "license": "Tongyi Qianwen", "original_layout": True,
    }  # fmt: skip


def test_the_list_is_a_line_each(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pipe, whatever its length."""
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = call(capsys, "model", "list").out.splitlines()
    assert len(lines) == 1 + len(VARIANTS)
    assert [word.strip() for word in lines[2].split("  ") if word.strip()] == [
        "qwen-7b-chat", "7.7 B", "8,192", "chat, original layout", "Tongyi Qianwen", "no",
    ]  # fmt: skip
    assert [word.strip() for word in lines[14].split("  ") if word.strip()] == [
        "qwen2.5-14b-instruct", "14.8 B", "32,768", "chat", "Apache-2.0", "no",
    ]  # fmt: skip


def test_one_model_with_its_shapes_and_the_gpus_that_it_fits(capsys: pytest.CaptureFixture[str]) -> None:
    model = json.loads(call(capsys, "model", "show", "qwen2.5-14b-instruct", "--json").out)
    assert model["architecture"]["layers"] == 48
    assert model["lora_targets"] == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert model["adapter_parameters"] == 34_406_400
    fits = {(fit["gpus"], fit["quantization"]): fit for fit in model["fits"]}
    assert fits[("8xA100-80GB", "none")]["strategy"] == "zero3"
    assert fits[("8xA100-80GB", "none")]["checkpointed_layers"] == 10
    assert fits[("1xT4-16GB", "nf4")] == {"gpus": "1xT4-16GB", "quantization": "nf4", "strategy": None}
    by_hub = json.loads(call(capsys, "model", "show", "Qwen/Qwen2.5-14B-Instruct", "--json").out)
    assert {**by_hub, "name": model["name"]} == model
    shown = call(capsys, "model", "show", "qwen2.5-14b-instruct").out
    assert "GPU           1 GPU" in shown
    assert "not on this machine; loading downloads them" in shown


def test_a_directory_is_shown_with_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = write_model(tmp_path / "base")
    (directory / "model.safetensors").unlink()
    model = json.loads(call(capsys, "model", "show", str(directory), "--json").out)
    assert (model["hub"], model["license"], model["chat"]) == (None, None, None)
    assert model["problems"] == [f"{directory}/model.safetensors is missing or empty"]
    shown = " ".join(call(capsys, "model", "show", str(directory)).out.split())  # a long path folds
    assert "is missing or empty" in shown


def test_offline_what_is_missing_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert json.loads(call(capsys, "model", "show", "qwen3-8b", "--json").out)["problems"] == [
        "Qwen/Qwen3-8B is not in the Hugging Face cache and HF_HUB_OFFLINE is set;"
        " on a machine with network: hf download Qwen/Qwen3-8B"
    ]


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    done = call(capsys, "model", "show", "qwen2.5-7b-instrct")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(
        "error: model.variant qwen2.5-7b-instrct: unknown. Did you mean 'qwen2.5-7b-instruct'? Allowed: "
    )


def test_only_an_original_checkpoint_is_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = write_model(tmp_path / "base")
    done = call(capsys, "model", "import", str(directory), "--out", str(tmp_path / "out"))
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"error: {directory}/config.json: model_type is 'qwen2'; only 'qwen', the original layout, is imported\n"
    )
