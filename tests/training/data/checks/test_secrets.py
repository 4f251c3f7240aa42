"""What is no placeholder, and texts that were made to be slow. Every secret is made up and put together from pieces."""

import time

import pytest

from launch.redact import redact
from training.data.checks.content import check
from training.data.checks.secrets import secrets
from training.data.rows.samples import Sample

VALUE = "q7Rt/Zk2" * 5


def told(text: str) -> list[tuple[str, str]]:
    return [(message, excerpt) for _, message, excerpt in secrets("text", text)]


@pytest.mark.parametrize(
    "address",
    [
        "postgres://app:S3cure$tuff@db.corp.net/x",
        "https://bob:Pa$$word@db.corp.net",
        "https://bob:qq7xxxx99zQ@db.corp.net",
        "https://bob:Q7!z${abcd}@db.corp.net",
        "https://bob:Q7your-9z@db.corp.net",
        "https://example:Q7z9kLm2@db.corp.net",
        "jdbc:mysql://db/x?user=root&password=W1nter$tuff",
    ],
)
def test_a_password_that_only_holds_what_placeholders_are_made_of_is_a_secret(address: str) -> None:
    assert len(told(f"Use {address} now.")) == 1


@pytest.mark.parametrize(
    "password",
    [
        "$TOKEN",
        "${TOKEN}",
        "${TOKEN:-none}",
        "{token}",
        "{{token}}",
        "${{secrets.TOKEN}}",
        "#{token}",
        "%TOKEN%",
        "$(token)",
        "<token>",
        "<your token>",
        "[secret]",
        "xxxx",
        "***",
        "your-password-here",
        "PASSWORD",
        "YOUR_DB_PASSWORD",
        "changeme",
        "example",
        "ghp_xxxxxxxxxxxxxxxxxxxx",
        "my-secret-token",
    ],
)
def test_a_placeholder_is_a_whole_password(password: str) -> None:
    assert told(f"Use https://user:{password}@db.corp.net now.") == []


@pytest.mark.parametrize(
    "text",
    [
        'aws_secret_access_key = "{}"',
        "aws_secret_access_key={}",
        "AWS_SECRET_ACCESS_KEY: '{}'",
        "export AWS_SECRET_ACCESS_KEY={}\n",
        '{{"SecretAccessKey": "{}"}}',
        '{{\\"secretAccessKey\\":\\"{}\\"}}',
        "Secret access key: {}",
        "awsSecretKey => `{}`",
        "<SecretAccessKey>{}</SecretAccessKey>",
        "aws configure set aws_secret_access_key {}",
    ],
)
def test_the_secret_half_of_an_aws_key_is_known_by_its_name(text: str) -> None:
    assert told(text.format(VALUE)) == [("text holds what looks like a token", "q7Rt...(40 characters)")]
    assert VALUE not in redact(text.format(VALUE))
    assert told(text.format("x" * 40)) == []
    assert told(text.format("A" * 40)) == []
    assert told(text.format("wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + "EXAMPLEKEY")) == []


def test_40_characters_without_that_name_are_none() -> None:
    assert told(f"The commit is {VALUE}, its key a secret.") == []


SLOW = [
    "//a/:_authToken=",
    "//",
    "//a",
    "/a",
    "eyJ",
    "eyJ-",
    "eyJ-aaaaaaaa.",
    "sk-",
    "sk-" + "a" * 25,
    "://a:",
    "://a",
    "a://b:",
    "xoxb-1-",
    "xoxb-",
    "1-",
    "pypi-",
    "AccountKey=",
    "glpat-",
    "<",
    "?token=<",
    "secret_access_key",
    "secret_access_key=    ",
    "a@",
    "a.",
    "1 ",
    "http://x:",
    "AKIA" + "Q3EGT7ZK5MW2PX4N ",
    "your",
    "changeme",
    "https://a:changeme",
    "[a",
    "DE89 ",
]
SIGNS = "//a/:_authToken= eyJ T3BlbkFJ :// = pypi- xox k_live_ secret@"


@pytest.mark.parametrize("repeated", SLOW)
@pytest.mark.parametrize("signs", ["", SIGNS])
def test_half_a_megabyte_of_what_begins_a_secret_takes_no_long_time(repeated: str, signs: str) -> None:
    """The signs let every rule look."""
    began = time.process_time()
    list(check(Sample("id", "f", 1, text=repeated * (500_000 // len(repeated)) + signs)))
    assert time.process_time() - began < 5
