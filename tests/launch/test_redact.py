"""No secret in anything that is written."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch.redact import redact, secret_values
from launch.secrets import SECRET
from tests.conftest import ROOT, environment

SECRETS = {
    "Hugging Face": "hf_abcdefghijklmnopqrst",
    "GitHub": "ghp_abcdefghij0123456789ABCD",
    "OpenAI": "sk-proj-abcdefghij_0123456789",
    "AWS": "AKIAIOSFODNN7EXAMPLE",
    "Weights & Biases": "wandb_v1_abcdefghij0123456789",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
def test_a_token_is_known_by_its_form(secret: str) -> None:
    assert redact(f"token={secret}, next", []) == "token=[secret], next"
    assert SECRET.search(secret)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("git clone https://me:password@host/repo.git", "git clone [secret]host/repo.git"),
        ("http://:token@proxy:8080", "[secret]proxy:8080"),
        ("postgres://user:p%40ss@db/x and s3://k:s@b", "[secret]db/x and [secret]b"),
    ],
)
def test_credentials_in_an_address(text: str, expected: str) -> None:
    assert redact(text, []) == expected


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/Qwen/Qwen3-8B",
        "http://127.0.0.1:29500",
        "mail me@example.org at 10:30",
        "hf_hub_download(repo_id, filename)",
        "HF_TOKEN is not set",
        "tokens_per_second: 1234567890123456",
        "https://host/a:b@c",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text, []) == text


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "db_password", "AWS_SECRET_ACCESS_KEY", "MYAPIKEY"])
def test_the_environment_gives_its_secrets_away_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "correct horse battery")
    assert redact("login with correct horse battery failed") == "login with [secret] failed"


def test_other_variables_short_values_and_paths_are_no_secrets(tmp_path: Path) -> None:
    assert secret_values(
        {
            "HOME": "/home/somebody",
            "TOKENIZERS_PARALLELISM": "true",
            "API_KEY": "1234567",
            "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path),
            "HF_TOKEN": "12345678",
        }
    ) == ["12345678"]


def test_a_secret_inside_a_longer_one_leaves_no_rest() -> None:
    values = secret_values({"A_TOKEN": "abcdefgh", "B_TOKEN": "abcdefgh-ijkl"})
    assert values == ["abcdefgh-ijkl", "abcdefgh"]
    assert redact("abcdefgh-ijkl abcdefgh", values) == "[secret] [secret]"


def test_a_password_with_an_at_sign() -> None:
    assert redact("https://me:pa@ss@host/x", []) == "[secret]host/x"


def redacted_by_a_process(log: Path, written: bytes, **variables: str) -> int:
    argv = [sys.executable, "-m", "launch.redact", str(log)]
    done = subprocess.run(argv, input=written, cwd=ROOT, env=environment(**variables), capture_output=True, timeout=60)
    return done.returncode


def test_the_command_appends_its_input_without_secrets(tmp_path: Path) -> None:
    log = tmp_path / "rank-0.log"
    log.write_text("before\n")
    written = f"naïve {SECRETS['Hugging Face']}\r50 %\r100 %\nmine is hunter2hunter2\nno newline".encode()
    assert redacted_by_a_process(log, written, MY_PASSWORD="hunter2hunter2") == 0
    assert log.read_text() == "before\nnaïve [secret]\n50 %\n100 %\nmine is [secret]\nno newline"


def test_the_command_writes_each_line_as_it_comes(tmp_path: Path) -> None:
    log = tmp_path / "rank-0.log"
    argv = [sys.executable, "-m", "launch.redact", str(log)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, cwd=ROOT, env=environment()) as process:
        assert process.stdin is not None
        process.stdin.write(b"first line\n")
        process.stdin.flush()
        while not log.exists() or log.read_text() != "first line\n":
            assert process.poll() is None
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def test_the_command_outlives_what_is_sent_to_all_processes_of_a_step(tmp_path: Path) -> None:
    """At a preemption, or by scancel --signal: the workers save, and tell of it."""
    log = tmp_path / "rank-0.log"
    argv = [sys.executable, "-m", "launch.redact", str(log)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, cwd=ROOT, env=environment()) as process:
        assert process.stdin is not None
        process.stdin.write(b"training\n")
        process.stdin.flush()
        while not log.exists():
            assert process.poll() is None
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT):
            process.send_signal(number)
        process.stdin.write(b"saved\n")
        process.stdin.close()
        assert process.wait(timeout=30) == 0
    assert log.read_text() == "training\nsaved\n"


def test_output_that_is_not_utf8_does_not_end_the_log(tmp_path: Path) -> None:
    log = tmp_path / "rank-0.log"
    code = redacted_by_a_process(log, b"before\n\xff\xfe\nafter\n", PYTHONIOENCODING="utf-8:strict")
    assert (code, log.read_text().splitlines()[-1]) == (0, "after")
