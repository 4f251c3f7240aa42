"""An original checkpoint as a Qwen2 directory: the same logits, nothing run, nothing half done."""

import hashlib
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launch.errors import HostError, UsageError
from launch.model.files import directory_problems
from tests.training.original.checkpoint import Tensors, logits, random_tensors, tiktoken_file, write_checkpoint
from training.original.importing import import_model, native_directory
from training.original.tokenizer import original_tokenizer


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return random_tensors()


@pytest.fixture(scope="module")
def imported(tensors: Tensors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("original")
    import_model(write_checkpoint(root / "Qwen-7B-Chat", tensors), root / "out")
    return root / "out"


@pytest.fixture
def quick_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making one takes seconds; where it is not what is tested, one does for all."""
    monkeypatch.setattr("training.original.importing.original_tokenizer", lambda _, chat: made_tokenizer(chat))


@cache
def made_tokenizer(chat: bool) -> Any:
    return original_tokenizer(tiktoken_file().parent, chat)


def loaded_logits(directory: Path, ids: torch.Tensor) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=False, dtype=torch.float32)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    with torch.no_grad():
        return model(ids).logits  # type: ignore[no-any-return]


def test_the_logits_are_the_original_s(imported: Path, tensors: Tensors) -> None:
    ids = torch.randint(0, 151851, (2, 64), generator=torch.Generator().manual_seed(1))
    expected = logits(tensors, ids)
    assert expected.std() > 0.5  # of weights that matter
    assert (loaded_logits(imported, ids) - expected).abs().max() < 1e-5


def test_transformers_loads_the_tokenizer_with_its_template(imported: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(imported, trust_remote_code=False)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Why?"}], tokenize=False)
    assert text == "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
    assert tokenizer.encode("a <|im_end|> b") == [64, 220, 151645, 293]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_config_and_generation_config_say_what_the_original_s_do(imported: Path) -> None:
    config = json.loads((imported / "config.json").read_text())
    named = ("model_type", "intermediate_size", "max_position_embeddings", "dtype", "eos_token_id", "pad_token_id")
    assert [config[key] for key in named] == ["qwen2", 48, 64, "float32", 151645, 151643]
    assert json.loads((imported / "generation_config.json").read_text()) == {
        "eos_token_id": [151645, 151643], "pad_token_id": 151643, "top_p": 0.8, "max_new_tokens": 512,
    }  # fmt: skip


def test_what_was_read_and_written_is_recorded(imported: Path) -> None:
    manifest = json.loads((imported / "manifest.json").read_text())
    source = imported.parent / "Qwen-7B-Chat"
    assert manifest["source"]["directory"] == str(source)
    for folder, files in ((imported, manifest["files"]), (source, manifest["source"]["files"])):
        for name, said in files.items():
            content = (folder / name).read_bytes()
            assert said == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert set(manifest["files"]) == {path.name for path in imported.iterdir()} - {"manifest.json"}
    assert set(manifest["source"]["files"]) == {
        "config.json", "generation_config.json", "qwen.tiktoken", "LICENSE", "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }  # fmt: skip
    assert (imported / "LICENSE").read_text() == "Tongyi Qianwen LICENSE AGREEMENT\n"


def test_no_code_comes_along(imported: Path) -> None:
    assert list(imported.glob("*.py")) == []
    assert "auto_map" not in json.loads((imported / "config.json").read_text())


def weights_of(directory: Path) -> Tensors:
    return {name: tensor for path in directory.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.usefixtures("quick_tokenizer")
@pytest.mark.parametrize(("shards", "pickled"), [(1, False), (1, True), (3, True)])
def test_shards_and_pickles_give_the_same_weights(
    imported: Path, tensors: Tensors, tmp_path: Path, shards: int, pickled: bool
) -> None:
    import_model(write_checkpoint(tmp_path / "source", tensors, shards, pickled), tmp_path / "out")
    expected, found = weights_of(imported), weights_of(tmp_path / "out")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.usefixtures("quick_tokenizer")
def test_a_base_model_and_the_keys_and_buffers_of_the_first_revisions(tensors: Tensors, tmp_path: Path) -> None:
    older = {
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "ffn_hidden_size": 96,
        "padded_vocab_size": 151936,
        "n_positions": 256,
    }
    newer = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    buffers = {"transformer.h.0.attn.masked_bias": torch.tensor(-1e4), "transformer.rotary_emb.inv_freq": torch.ones(4)}
    source = write_checkpoint(
        tmp_path / "source", {**tensors, **buffers}, chat=False, **older, **dict.fromkeys(newer), vocab_size=151851
    )
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key not in newer}))
    import_model(source, tmp_path / "out")
    assert directory_problems(tmp_path / "out") == []
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["eos_token_id"] == [151643]


# Bad input


def refused(source: Path, out: Path) -> str:
    before = sorted(out.parent.iterdir())
    with pytest.raises(UsageError) as caught:
        import_model(source, out)
    assert sorted(out.parent.iterdir()) == before
    assert list(out.parent.glob(".*.partial")) == []
    return str(caught.value).replace(f"{source.parent}/", "")


def test_a_place_that_is_taken(tensors: Tensors, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", tensors)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    assert refused(source, tmp_path / "out") == "--out out: exists already; choose another place"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_model_that_is_native_already(imported: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model_type is 'qwen2'; only 'qwen', the original layout, is imported"):
        import_model(imported, tmp_path / "out")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere", tmp_path / "out") == (
        "nowhere: no such directory; expected the files of an original Qwen checkpoint"
    )


def test_all_files_that_are_missing_are_named(tensors: Tensors, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", tensors, shards=3)
    (source / "model-00002-of-00003.safetensors").unlink()
    (source / "qwen.tiktoken").unlink()
    assert refused(source, tmp_path / "out").splitlines() == [
        "source/model-00002-of-00003.safetensors is missing or empty, but model.safetensors.index.json names it",
        "source/qwen.tiktoken is missing",
    ]


@pytest.mark.usefixtures("quick_tokenizer")
@pytest.mark.parametrize("pickled", [False, True])
def test_a_tensor_that_is_unknown(tensors: Tensors, tmp_path: Path, pickled: bool) -> None:
    source = write_checkpoint(tmp_path / "source", {**tensors, "transformer.visual.proj": torch.ones(2)}, 1, pickled)
    name = "pytorch_model.bin" if pickled else "model.safetensors"
    assert refused(source, tmp_path / "out") == (
        f"source/{name}: tensor 'transformer.visual.proj' is none of the original Qwen's; nothing was imported"
    )


@pytest.mark.usefixtures("quick_tokenizer")
def test_pickled_weights_are_compared_with_the_config_too(tensors: Tensors, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", tensors, 1, pickled=True, intermediate_size=64)
    assert refused(source, tmp_path / "out") == (
        "source/pytorch_model.bin: transformer.h.0.mlp.w1.weight has [48, 32], config.json says [32, 32];"
        " nothing was imported"
    )
    partial = {name: tensor for name, tensor in tensors.items() if "ln_f" not in name}
    source = write_checkpoint(tmp_path / "other", partial, 1, pickled=True)
    assert refused(source, tmp_path / "out") == "other: 1 tensors are in no file, transformer.ln_f.weight first"


class Dangerous:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/muster-was-here",)


@pytest.mark.usefixtures("quick_tokenizer")
def test_a_pickle_that_would_run_code_is_refused(tensors: Tensors, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", {**tensors, "bad": Dangerous()}, 1, pickled=True)  # type: ignore[dict-item]
    message = refused(source, tmp_path / "out")
    assert message.startswith("source/pytorch_model.bin: holds more than tensors, and loading it would run code: ")
    assert not Path("/tmp/muster-was-here").exists()


@pytest.mark.parametrize("content", [[1, 2], {"transformer.wte.weight": "words"}])
def test_a_pickle_of_something_else(tensors: Tensors, tmp_path: Path, content: Any) -> None:
    source = write_checkpoint(tmp_path / "source", tensors, 1, pickled=True)
    torch.save(content, source / "pytorch_model.bin")
    expected = "source/pytorch_model.bin: holds no dictionary of tensors by name; download it again"
    assert refused(source, tmp_path / "out") == expected


@pytest.mark.parametrize("value", ["x", 0, 2.0, None])
def test_an_epsilon_that_is_none(tensors: Tensors, tmp_path: Path, value: Any) -> None:
    source = write_checkpoint(tmp_path / "source", tensors, layer_norm_epsilon=value)
    expected = f"source/config.json: key 'layer_norm_epsilon' is {value!r}; expected a number between 0 and 1"
    assert refused(source, tmp_path / "out") == expected


def test_a_disk_that_is_too_small(tensors: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_checkpoint(tmp_path / "source", tensors)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1_000_000}))
    with pytest.raises(HostError, match=r"1.0 MiB free, 37.* MiB needed; choose another --out"):
        import_model(source, tmp_path / "out")


# At first use


@pytest.mark.usefixtures("quick_tokenizer")
def test_a_checkpoint_is_imported_once_into_the_cache(
    tensors: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    source = write_checkpoint(tmp_path / "Qwen-7B-Chat", tensors)
    heard: list[str] = []
    out = native_directory(source, heard.append)
    assert out.parent == tmp_path / "hf/muster"
    assert out.name.startswith("Qwen-7B-Chat-")
    assert heard[0] == f"importing {source} into {out}, once"
    heard.clear()
    assert (native_directory(source, heard.append), heard) == (out, [])


SHARD = """
import resource, sys, torch
from pathlib import Path
from launch.model.architecture import from_config
from launch.model.original import native_config
from training.original.weights import convert
source, out = Path(sys.argv[1]), Path(sys.argv[2])
import json
config = json.loads((source / "config.json").read_text())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(sorted(source.glob(sys.argv[3])), out, from_config(config, "config.json"), print)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("pickled", [False, True])
def test_memory_stays_below_three_times_the_largest_shard(tmp_path: Path, pickled: bool) -> None:
    hidden, half, blocks = 1024, 2048, 10
    wide: Tensors = {"transformer.wte.weight": torch.zeros(1000, hidden)}
    for number in range(blocks):
        shapes = {
            "ln_1.weight": (hidden,), "attn.c_attn.weight": (3 * hidden, hidden), "attn.c_attn.bias": (3 * hidden,),
            "attn.c_proj.weight": (hidden, hidden), "ln_2.weight": (hidden,), "mlp.w1.weight": (half, hidden),
            "mlp.w2.weight": (half, hidden), "mlp.c_proj.weight": (hidden, half),
        }  # fmt: skip
        wide |= {f"transformer.h.{number}.{name}": torch.full(shape, 0.5) for name, shape in shapes.items()}
    wide |= {"transformer.ln_f.weight": torch.ones(hidden), "lm_head.weight": torch.zeros(1000, hidden)}
    sizes = {"hidden_size": hidden, "intermediate_size": 2 * half, "num_hidden_layers": blocks, "vocab_size": 1000}
    source = write_checkpoint(
        tmp_path / "source", wide, shards=4, pickled=pickled, **sizes, num_attention_heads=8, kv_channels=128
    )
    (tmp_path / "out").mkdir()
    pattern = "*.bin" if pickled else "*.safetensors"
    argv = [sys.executable, "-c", SHARD, str(source), str(tmp_path / "out"), pattern]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    grown, largest = int(done.stdout.split()[-1]), max(path.stat().st_size for path in source.glob(pattern))
    assert largest > 100_000_000
    assert grown < 3 * largest
