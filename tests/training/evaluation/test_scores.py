"""What an answer is worth: held against torchmetrics' SQuAD, and against the shipped answers."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.text.squad import squad

from launch.errors import UsageError
from launch.evaluation import DECLINES, decline_pattern
from tests.conftest import ROOT, WORDS
from training.evaluation.scores import declined, overlap, scores, words

ENGLISH = st.lists(st.sampled_from([*WORDS, "The", "a", "an", "It's", "e-mail,", "CVE-2024-3094."]), max_size=12).map(
    " ".join
)


@settings(max_examples=200, deadline=None)
@given(answer=ENGLISH, reference=ENGLISH.filter(lambda text: bool(words(text))))
def test_f1_is_that_of_squad(answer: str, reference: str) -> None:
    theirs = squad(
        {"prediction_text": answer, "id": "1"}, {"answers": {"answer_start": [0], "text": [reference]}, "id": "1"}
    )
    assert overlap(answer, reference)[0] == pytest.approx(float(theirs["f1"]) / 100, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat, a dog.", ["cat", "dog"]),
        ("\u8bc1\u4e66 is TLS\u3002", ["\u8bc1", "\u4e66", "is", "tls"]),
        ("\u0e44\u0e17", ["\u0e44", "\u0e17"]),
        ("\uc778\uc99d\uc11c \uac31\uc2e0", ["\uc778\uc99d\uc11c", "\uac31\uc2e0"]),
        ("\uff34\uff2c\uff33 1.3", ["tls", "13"]),
        ("caf\u00e9 \u201cquoted\u201d", ["caf\u00e9", "quoted"]),
        (" .,!", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_order_counts_for_rouge_l_alone() -> None:
    f1, rouge_l = overlap("token session cookie header", "header cookie session token")
    assert (f1, rouge_l) == (1.0, 0.25)
    assert overlap("", "token") == overlap("token", "") == (0.0, 0.0)


def test_citations_are_judged_apart_from_words() -> None:
    known = {"id-mfa", "net-dns"}
    found = scores("Use two factors [id-mfa] [net-ntp].", "Use two factors [id-mfa].", known, DECLINES)
    expected = {"f1": 1.0, "rouge_l": 1.0, "cited": ["id-mfa"], "invented": ["net-ntp"], "declined": False}
    assert found == expected
    other = scores("Use two factors [1].", "Use two factors.", set(), DECLINES)
    assert (other["cited"], other["invented"], other["f1"]) == ([], [], 0.8571)  # without documents [1] is a word


@pytest.mark.parametrize(
    "answer",
    [
        "The documents do not say.", "None of this: the provided context doesn't mention it.",
        "I don't know.", "There is not enough information to tell.", "This cannot be answered from the documents.",
        "It is not stated in the documents.", "The sources contain no figures. They only list names [a].",
        "\u6587\u6863\u4e2d\u6ca1\u6709\u63d0\u5230\u4ef7\u683c\u3002", "\u65e0\u6cd5\u56de\u7b54\u3002",
    ],
)  # fmt: skip
def test_what_declines(answer: str) -> None:
    assert declined(answer, DECLINES)


@pytest.mark.parametrize(
    "answer",
    [
        "No. A snapshot contains no memory [a].", "Use the documents that name no owner [a]: they do not expire.",
        "Rotate it. The documents do not say when.", "", "Users do not know that it matters [a].",
    ],
)  # fmt: skip
def test_what_answers(answer: str) -> None:
    assert not declined(answer, DECLINES)


def test_the_shipped_answers_are_told_apart() -> None:
    questions = [
        json.loads(line)
        for file in sorted((ROOT / "examples/security-rag/questions").glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    assert len(questions) == 455
    assert [row["answer"] for row in questions if declined(row["answer"], DECLINES) != (not row["oracle"])] == []


def test_a_pattern_of_one_s_own() -> None:
    assert declined("Keine Angabe.", "^keine angabe")
    with pytest.raises(UsageError, match=r"--declines \(: is no regular expression: missing \)"):
        decline_pattern("(")
