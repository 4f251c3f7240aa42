"""Specs, plans and model folders as values: no torch, no process."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from launch import cli
from launch.machine.hardware import Topology, parse_gpus
from launch.model.architecture import Architecture, from_config
from launch.model.variants import VARIANTS
from launch.model.weights import expected
from launch.plan import Plan, resolve
from launch.spec import RunSpec
from tests.conftest import Finished

CPU = Topology(
    nodes=1, devices_per_node=1, device="cpu", device_name="CPU process", memory_bytes=64 * 1024**3, bf16=False
)
# What config.json of a Qwen2 model of a few thousand parameters says.
TINY_CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 512,
}

TOKENIZER = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}}


def spec_of(variant: str = "qwen2.5-14b-instruct", **sections: dict[str, Any]) -> RunSpec:
    """The recipe's spec with changes: spec_of(training={"epochs": 1})."""
    data = {"train": "/data/train.jsonl", **sections.pop("data", {})}
    model = {"variant": variant, **sections.pop("model", {})}
    return RunSpec.model_validate({"name": "demo", "model": model, "data": data, **sections})


def plan_of(gpus: str | Topology = "8xA100-80GB", nodes: int = 1, spec: RunSpec | None = None) -> Plan:
    """The plan of a spec, by default the recipe's with 14B parameters, on `nodes` machines with these GPUs."""
    spec = spec or spec_of()
    topology = gpus if isinstance(gpus, Topology) else parse_gpus(gpus, nodes)
    return resolve(spec, architecture_of(spec), topology)


def architecture_of(spec: RunSpec) -> Architecture:
    return VARIANTS[spec.model.variant].architecture


def write_model(directory: Path, shards: tuple[str, ...] = (), **changes: Any) -> Path:
    """A model folder whose files are all there: config, tokenizer, and weights of the right shapes, one byte each."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {**TINY_CONFIG, **changes}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    shapes = list(expected(from_config(config, "config.json"), config["model_type"] == "qwen").items())
    names = shards or ("model.safetensors",)
    parts = {name: dict(shapes[number :: len(names)]) for number, name in enumerate(names)}
    if shards:
        index = {"weight_map": {tensor: name for name, part in parts.items() for tensor in part}}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    for name, part in parts.items():
        (directory / name).write_bytes(weights(part))
    return directory


def weights(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """A safetensors file of bytes that are all 0."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape)
        header[name] = {"dtype": "U8", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


def in_process(capsys: pytest.CaptureFixture[str], *argv: object) -> Finished:
    """`muster ARGV` in this process."""
    before = sys.argv
    sys.argv = ["muster", *map(str, argv)]
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = before
    out, err = capsys.readouterr()
    return Finished(int(ended.value.code or 0), out, err)
