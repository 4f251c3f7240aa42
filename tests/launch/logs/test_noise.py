"""Which lines of a rank's log are for people: real lines, as the libraries write them."""

import pytest

from launch.logs.noise import HARMLESS, PYTHON_FORMAT, harmless, warning

SITE = "/opt/venv/lib/python3.11/site-packages"
NOISE = {
    "deprecation": [
        f"{SITE}/transformers/modeling_utils.py:3303: FutureWarning: `is_gradient_checkpointing` is deprecated and will"
        " be removed in v6. Use `is_activation_checkpointing` instead.",
        f"{SITE}/torch/distributed/c10d_logger.py:83: FutureWarning: `torch.distributed.all_gather_into_tensor` is"
        " deprecated. Please use `torch.distributed.all_gather_single` instead.",
    ],
    "omp-threads": [
        "W1127 09:08:17.311000 27505 torch/distributed/run.py:874] Setting OMP_NUM_THREADS environment variable for"
        " each process to be 1 in default, to avoid your system being overloaded, please further tune the variable for"
        " optimal performance in your application as needed. ",
        "W1127 09:08:17.311000 27505 torch/distributed/run.py:874] *****************************************",
        "W1127 09:08:17.311000 27505 torch/distributed/run.py:874] ",
    ],
    "deepspeed-accelerator": [
        "[2026-11-27 09:08:30,019] [WARNING] [real_accelerator.py:213:get_accelerator] Setting accelerator to CPU. If"
        " you have GPU or other accelerator, we were unable to detect it.",
    ],
    "int8-cast": [
        "[WARNING|bitsandbytes.autograd._functions] MatMul8bitLt: inputs will be cast from torch.bfloat16 to float16"
        " during quantization",
    ],
    "early-stopping-best": [
        "[WARNING|trainer_callback.py:747] 2026-11-27 10:28:55,237 >> Using EarlyStoppingCallback without"
        " load_best_model_at_end=True. Once training is finished, the best model will not be loaded automatically.",
    ],
    "paged-on-cpu": [
        f"{SITE}/bitsandbytes/optim/optimizer.py:509: UserWarning: Paged optimizers are not supported on CPU. Falling"
        " back to non-paged optimizer behavior.",
    ],
    "no-cache-while-training": [
        "[WARNING|modeling_layers.py:103] 2026-11-27 09:08:30,019 >> Caching is incompatible with gradient"
        " checkpointing in Qwen2DecoderLayer. Setting `past_key_values=None`.",
    ],
    "special-tokens": [
        "[WARNING|trainer_utils.py:1246] 2026-11-27 09:08:30,019 >> The tokenizer has new PAD/BOS/EOS tokens that"
        " differ from the model config and generation config. The model config and generation config were aligned"
        " accordingly, being updated with the tokenizer's values. Updated tokens: {'bos_token_id': None}.",
    ],
    "process-group-at-exit": [
        "[rank0]:[W1127 09:08:30.123456789 ProcessGroupNCCL.cpp:1524] Warning: WARNING: destroy_process_group() was not"
        " called before program exit, which can leak resources.",
    ],
    "no-name-of-a-peer": [
        "[W1127 10:10:02.311000123 socket.cpp:209] [c10d] The hostname of the client socket cannot be retrieved."
        " err=-3",
    ],
    "no-ipv6": [
        "[W1127 09:08:17.311000123 socket.cpp:764] [c10d] The client socket cannot be initialized to connect to"
        " [localhost]:29500 (errno: 97 - Address family not supported by protocol).",
    ],
}  # fmt: skip
SEEN = {
    f"{SITE}/torch/nn/modules/module.py:12: UserWarning: grad and param do not match": (
        "grad and param do not match", "module.py:12",
    ),
    "/home/me/my run/hook.py:7: RuntimeWarning: overflow encountered": (
        "RuntimeWarning: overflow encountered", "hook.py:7",
    ),
    "[2026-11-27 09:08:30,019] [WARNING] [stage3.py:2150:step] 3 pytorch allocator cache flushes since last step": (
        "3 pytorch allocator cache flushes since last step", "stage3.py:2150",
    ),
    "[ERROR|trainer.py:99] 2026-11-27 09:08:30,019 >> no space": ("error: no space", "trainer.py:99"),
    "[WARNING|accelerate.utils.other] Detected kernel version 5.4.0, which is below the recommended minimum of 5.5.0":
        ("Detected kernel version 5.4.0, which is below the recommended minimum of 5.5.0", "accelerate.utils.other"),
    "WARNING:root:said so": ("said so", "root"),
    "[rank3]:[W1127 09:08:30.123456789 reducer.cpp:1457] Warning: find_unused_parameters=True was specified": (
        "find_unused_parameters=True was specified", "reducer.cpp:1457",
    ),
    "W1127 09:08:17.311000 27505 torch/_inductor/utils.py:1436] Not enough SMs to use max_autotune_gemm mode": (
        "Not enough SMs to use max_autotune_gemm mode", "utils.py:1436",
    ),
    "n0:27505:27511 [0] misc/socket.cc:50 NCCL WARN socketProgress: Connection closed by remote peer": (
        "socketProgress: Connection closed by remote peer", "socket.cc:50",
    ),
}  # fmt: skip
NO_WARNING = [
    "Loading weights: 100%|██████████| 27/27 [00:00<00:00, 21653.19it/s]",
    "  warnings.warn(",
    "n0:27505:27511 [0] NCCL INFO Channel 00/02 : 0 1",
    "[2026-11-27 09:08:30,019] [INFO] [logging.py:107:log_dist] [Rank 0] Creating optimizer",
    "I1127 09:08:17.311000 27505 torch/distributed/run.py:874] fine",
    'Traceback (most recent call last): WARNING: "quoted"',
    "",
]


@pytest.mark.parametrize(("line", "found"), SEEN.items())
def test_what_a_person_should_see(line: str, found: tuple[str, str]) -> None:
    told = warning(line)
    assert told is not None
    assert (told.text, told.source) == found


@pytest.mark.parametrize("line", NO_WARNING)
def test_what_is_no_warning(line: str) -> None:
    assert warning(line) is None


def test_every_known_noise_is_tried_here_and_says_why_it_is_harmless() -> None:
    assert [known.name for known in HARMLESS] == list(NOISE)
    assert all(len(known.why) > 20 for known in HARMLESS)


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, lines in NOISE.items() for line in lines])
def test_known_noise_stays_in_the_log(name: str, line: str) -> None:
    known = harmless(line)
    assert known is not None
    assert (known.name, warning(line)) == (name, None)


def test_a_deprecation_in_a_users_own_code_is_told() -> None:
    told = warning("/home/me/hook.py:7: FutureWarning: use the other one")
    assert told is not None
    assert told.text == "FutureWarning: use the other one"


def test_the_same_from_two_ranks_is_one_and_another_text_is_another() -> None:
    first, second, other = (
        warning(f"[rank{rank}]:[W1127 09:08:3{rank}.1 reducer.cpp:1457] Warning: {text}")
        for rank, text in ((0, "bucket 17 on cuda:0 at 0x7f01"), (1, "bucket 18 on cuda:1 at 0x9a02"), (1, "no bucket"))
    )
    assert first is not None
    assert second is not None
    assert other is not None
    assert first.key == second.key != other.key


def test_a_message_cannot_move_the_cursor() -> None:
    told = warning("WARNING:root:\x1b[2Jgone")
    assert told is not None
    assert told.text == "\\x1b[2Jgone"


def test_what_logging_prints_by_itself_is_recognised(capfd: pytest.CaptureFixture[str]) -> None:
    import logging

    assert logging.lastResort is not None
    before = logging.lastResort.formatter
    logging.lastResort.setFormatter(logging.Formatter(PYTHON_FORMAT))
    try:
        record = logging.LogRecord("peft.tuners", logging.WARNING, "x.py", 1, "targets %d modules", (3,), None)
        line = logging.lastResort.format(record)
    finally:
        logging.lastResort.setFormatter(before)
    told = warning(line)
    assert told is not None
    assert (told.text, told.source) == ("targets 3 modules", "peft.tuners")
