"""A model's files: where they are, what they say, and which are missing."""

import json
import os
import zipfile
from pathlib import Path

import pytest

from launch.errors import UsageError
from launch.model.files import find, problems, read_architecture
from launch.model.variants import VARIANTS
from tests.launch.conftest import TINY_CONFIG, write_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, online."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path / "hub"


def snapshot(cache: Path, hub_id: str, name: str, main: bool = True) -> Path:
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    path = write_model(repository / "snapshots" / name)
    if main:
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text(name)
    return path


def refused(variant: object) -> str:
    with pytest.raises(UsageError) as caught:
        read_architecture(str(variant))
    return str(caught.value)


# Architecture


def test_a_known_variant_needs_no_files() -> None:
    assert read_architecture("qwen2.5-14b-instruct") is VARIANTS["qwen2.5-14b-instruct"].architecture


def test_a_folder_is_read(tmp_path: Path) -> None:
    architecture = read_architecture(str(write_model(tmp_path / "base")))
    assert (architecture.model_type, architecture.layers, architecture.hidden_size) == ("qwen2", 2, 64)


def test_a_cached_hub_id_is_read(cache: Path) -> None:
    snapshot(cache, "Qwen/Qwen2.5-0.5B", "abc")
    assert read_architecture("Qwen/Qwen2.5-0.5B").vocab_size == 320


def test_the_hub_id_of_a_known_model_needs_no_files_either(cache: Path) -> None:
    assert read_architecture("Qwen/Qwen2.5-14B-Instruct") is VARIANTS["qwen2.5-14b-instruct"].architecture
    snapshot(cache, "Qwen/Qwen2.5-14B-Instruct", "abc")
    assert read_architecture("Qwen/Qwen2.5-14B-Instruct").vocab_size == 320, "what is there is what is trained"


def test_an_unknown_variant() -> None:
    assert refused("qwen2.5-14b-instrct") == (
        "model.variant qwen2.5-14b-instrct: unknown. Did you mean 'qwen2.5-14b-instruct'?"
        f" Allowed: a local directory, a hub id (owner/name), or {', '.join(VARIANTS)}"
    )


def test_a_variant_like_no_other() -> None:
    assert refused("xyz") == (
        f"model.variant xyz: unknown. Allowed: a local directory, a hub id (owner/name), or {', '.join(VARIANTS)}"
    )


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "x") == f"model.variant {tmp_path}/x: no such directory"


def test_a_hub_id_that_is_not_cached() -> None:
    assert refused("Qwen/Qwen2.5-0.5B") == (
        "model.variant Qwen/Qwen2.5-0.5B: not a directory, and not in the Hugging Face cache;"
        " download it first: hf download Qwen/Qwen2.5-0.5B"
    )


def test_a_folder_without_config(tmp_path: Path) -> None:
    assert refused(tmp_path) == (
        f"{tmp_path}/config.json: no such file; a model directory holds config.json, *.safetensors and a tokenizer"
    )


def test_a_config_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    assert refused(tmp_path) == f"{tmp_path}/config.json: is no file"
    assert f"{tmp_path}/config.json is missing" in problems(str(tmp_path))


def test_a_config_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    assert refused(tmp_path) == (
        f"{tmp_path}/config.json: cannot be read as JSON:"
        " Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    )


def test_a_config_that_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    refused(tmp_path)


# Where the files are


def test_the_snapshot_of_main_is_taken_as_transformers_does(cache: Path) -> None:
    assert find("qwen3-8b") is None
    main = snapshot(cache, "Qwen/Qwen3-8B", "bbb")
    snapshot(cache, "Qwen/Qwen3-8B", "ccc", main=False)  # another revision, fetched later
    assert find("qwen3-8b") == find("Qwen/Qwen3-8B") == main


def test_the_cache_is_where_huggingface_hub_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "$SCRATCH/cache")
    path = snapshot(tmp_path / "cache/huggingface/hub", "Qwen/Qwen3-8B", "aaa")
    assert find("qwen3-8b") == path
    monkeypatch.setenv("HUGGINGFACE_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert find("qwen3-8b") is None


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_either_library_may_be_told_to_fetch_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert problems("qwen3-8b")[0].startswith("Qwen/Qwen3-8B is not in the Hugging Face cache")


def test_the_cache_may_be_named_by_hf_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    path = snapshot(tmp_path / "hub", "Qwen/Qwen3-8B", "aaa")
    assert find("qwen3-8b") == path


# What is missing


def test_a_whole_folder_has_no_problems(tmp_path: Path) -> None:
    assert problems(str(write_model(tmp_path / "one"))) == []
    assert problems(str(write_model(tmp_path / "two", shards=("a.safetensors", "b.safetensors")))) == []


def test_everything_that_is_missing_is_told(tmp_path: Path) -> None:
    assert problems(str(tmp_path)) == [
        f"{tmp_path}/config.json is missing",
        f"{tmp_path}/model.safetensors is missing or empty",
        f"{tmp_path}: no tokenizer (tokenizer.json, vocab.json, tokenizer.model)",
        f"{tmp_path}: its tokenizer has no chat template; use the instruct or chat variant",
    ]


def test_weights_that_were_cut_short_are_told_by_their_sizes(tmp_path: Path) -> None:
    path = write_model(tmp_path) / "model.safetensors"
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    assert problems(str(tmp_path)) == [f"{path} has {whole - 1:,} bytes, its header says {whole:,}; download it again"]


def test_weights_that_are_something_else(tmp_path: Path) -> None:
    path = write_model(tmp_path) / "model.safetensors"
    path.write_bytes(b"<html>not found</html>")
    assert problems(str(tmp_path)) == [f"{path} is no safetensors file that can be read; download it again"]


def test_a_chat_template_inside_the_tokenizer_s_config(tmp_path: Path) -> None:
    (write_model(tmp_path) / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert problems(str(tmp_path)) == []


def test_a_shard_that_the_index_names_is_missing(tmp_path: Path) -> None:
    names = tuple(f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))
    write_model(tmp_path, shards=names)
    (tmp_path / names[1]).unlink()
    (tmp_path / names[2]).write_bytes(b"")
    assert problems(str(tmp_path)) == [
        f"{tmp_path}/{name} is missing or empty, but model.safetensors.index.json names it" for name in names[1:]
    ]


def test_only_a_pickle(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert problems(str(tmp_path)) == [
        f"{tmp_path}/model.safetensors is missing or empty; pytorch_model.bin is a pickle, which muster does not load:"
        " convert it to safetensors"
    ]


def test_an_index_that_cannot_be_read(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map"')
    assert problems(str(tmp_path)) == [f"{tmp_path}/model.safetensors.index.json cannot be read; download it again"]


def test_an_index_that_is_no_object(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    assert problems(str(tmp_path)) == [f"{tmp_path}/model.safetensors.index.json cannot be read; download it again"]


def test_a_model_that_can_be_downloaded_has_no_problems() -> None:
    assert problems("qwen3-8b") == []


def test_offline_a_model_has_to_be_in_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert problems("qwen3-8b") == [
        "Qwen/Qwen3-8B is not in the Hugging Face cache and HF_HUB_OFFLINE is set;"
        " on a machine with network: hf download Qwen/Qwen3-8B"
    ]
    snapshot(cache, "Qwen/Qwen3-8B", "aaa")
    assert problems("qwen3-8b") == []


def test_online_a_cached_config_alone_is_no_problem(cache: Path) -> None:
    path = snapshot(cache, "Qwen/Qwen3-8B", "aaa")
    for name in ("model.safetensors", "tokenizer.json"):
        (path / name).unlink()
    assert problems("qwen3-8b") == []


# Weights that are not those of config.json


def test_weights_of_another_shape_are_told_from_their_headers(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**TINY_CONFIG, "vocab_size": 300}))
    assert problems(str(tmp_path)) == [
        f"{tmp_path}: the weights are not those of its config.json: model.embed_tokens.weight has [320, 64],"
        " config.json says [300, 64] (2 tensors)"
    ]


def test_layers_that_the_weights_have_not(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**TINY_CONFIG, "num_hidden_layers": 3}))
    assert problems(str(tmp_path)) == [
        f"{tmp_path}: 12 tensors missing from the weights, model.layers.2.input_layernorm.weight first"
    ]


# The original layout


ORIGINAL = {
    "model_type": "qwen", "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 320, "seq_length": 512, "max_position_embeddings": 2048, "kv_channels": 16,
}  # fmt: skip


def test_an_original_checkpoint_needs_its_tokens(tmp_path: Path) -> None:
    write_model(tmp_path, **ORIGINAL)
    assert problems(str(tmp_path)) == [f"{tmp_path}/qwen.tiktoken is missing"]
    (tmp_path / "qwen.tiktoken").touch()
    assert problems(str(tmp_path)) == []


def test_the_shapes_of_an_original_checkpoint_are_compared_too(tmp_path: Path) -> None:
    write_model(tmp_path, **ORIGINAL)
    (tmp_path / "qwen.tiktoken").touch()
    (tmp_path / "config.json").write_text(json.dumps({**TINY_CONFIG, **ORIGINAL, "intermediate_size": 96}))
    assert problems(str(tmp_path)) == [
        f"{tmp_path}: the weights are not those of its config.json: transformer.h.0.mlp.w1.weight has [96, 64],"
        " config.json says [48, 64] (6 tensors)"
    ]


def test_an_original_checkpoint_may_be_pickled(tmp_path: Path) -> None:
    write_model(tmp_path, **ORIGINAL)
    (tmp_path / "qwen.tiktoken").touch()
    (tmp_path / "model.safetensors").unlink()
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("data.pkl", b"")
    assert problems(str(tmp_path)) == []
    (tmp_path / "pytorch_model.bin").write_bytes(b"<html>")
    assert problems(str(tmp_path)) == [
        f"{tmp_path}/pytorch_model.bin is no torch file that can be read; download it again"
    ]
