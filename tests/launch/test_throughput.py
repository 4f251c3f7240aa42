"""FLOPs, counted by hand."""

import pytest

from launch.architecture import from_config
from launch.throughput import flops_per_token
from launch.variants import VARIANTS
from tests.launch.conftest import TINY_CONFIG


def test_flops_of_a_tiny_model_by_hand() -> None:
    architecture = from_config(TINY_CONFIG, "config.json")
    linears = 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 96)  # two layers of q, k and v, o, and the MLP
    head = 320 * 64
    attention = 6 * 100 * 64 * 2  # 100 tokens, queries 64 wide, two layers
    assert flops_per_token(architecture, 1000, 100) == 4 * linears + 4 * head + attention + 6 * 1000


def test_a_14b_model_costs_four_flops_a_token_for_each_weight_that_is_multiplied() -> None:
    architecture = VARIANTS["qwen2.5-14b"].architecture
    multiplied = (
        architecture.parameters - architecture.vocab_size * architecture.hidden_size
    )  # embeddings are looked up
    short = flops_per_token(architecture, 34_406_400, 1)
    assert short / multiplied == pytest.approx(4, rel=0.01)


def test_attention_grows_with_the_length() -> None:
    architecture = VARIANTS["qwen2.5-14b"].architecture
    short, long = (flops_per_token(architecture, 34_406_400, length) for length in (1024, 4096))
    assert long - short == 6 * (4096 - 1024) * 5120 * 48
