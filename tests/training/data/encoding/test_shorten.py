"""Rows that are too long: what goes, in which order, and what never does."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.data.encoding.chat_templates import sample_of, talk, tokenizer_of
from training.data.encoding.shorten import Fitted, fit, known_oracles
from training.data.encoding.template import Chat, ChatFiles
from training.data.rows.problems import RowError
from training.data.rows.samples import Document, Sample

CHAT = Chat(ChatFiles.of(tokenizer_of("chatml")))


def row(*documents: Document, question: str = "Question: Which role?", answer: str = "It is admin.") -> Sample:
    return sample_of(*talk(question, answer), documents=documents)


def document(name: str, words: int, oracle: bool | None = None) -> Document:
    return Document(name, " ".join(f"{name}{number}" for number in range(words)), oracle)


def length(sample: Sample) -> int:
    return len(CHAT.encode(sample).ids)


def text(fitted: Fitted) -> str:
    return str(tokenizer_of("chatml").decode(fitted.tokens.ids))


def same(fitted: Fitted, sample: Sample) -> bool:
    """Whether the fitted tokens are those of a sample as it stands."""
    whole = CHAT.encode(sample)
    return fitted.tokens.ids.tolist() == whole.ids.tolist() and fitted.tokens.spans == whole.spans


def refused(sample: Sample, max_length: int) -> str:
    with pytest.raises(RowError) as caught:
        fit(sample, CHAT, max_length)
    assert caught.value.kind == "too-long"
    return str(caught.value)


FOUR = (document("a", 9, False), document("b", 9, True), document("c", 9, False), document("d", 9, False))


def test_a_row_that_fits_stays_as_it_is() -> None:
    sample = row(*FOUR)
    fitted = fit(sample, CHAT, length(sample))
    assert same(fitted, sample)
    assert (fitted.dropped, fitted.shortened) == (0, 0)


@pytest.mark.parametrize(("kept", "dropped"), [("abcd", 0), ("abc", 1), ("ab", 2), ("b", 3)])
def test_distractors_go_from_the_last_and_only_as_many_as_must(kept: str, dropped: int) -> None:
    left = tuple(found for found in FOUR if found.id in kept)
    room = length(row(*left))
    for more in range(2):
        fitted = fit(row(*FOUR), CHAT, room + more)
        assert same(fitted, row(*left))
        assert (fitted.dropped, fitted.shortened) == (dropped, 0)


def test_an_oracle_that_is_too_long_is_never_cut() -> None:
    only = length(row(FOUR[1]))
    message = refused(row(*FOUR), only - 1)
    assert f"data.max_length {only - 1}: the row has " in message
    assert "tokens without its distractors; raise it or shorten the row" in message


def test_the_document_that_the_answer_cites_is_its_oracle() -> None:
    plain = tuple(replace(found, oracle=None) for found in FOUR)
    sample = row(*plain, answer="It is admin [c].")
    fitted = fit(sample, CHAT, length(row(plain[2], answer="It is admin [c].")))
    assert same(fitted, row(plain[2], answer="It is admin [c]."))
    assert fitted.dropped == 3


@pytest.mark.parametrize(
    ("documents", "answer", "oracles"),
    [
        (FOUR, "x [a]", {"a", "b"}),
        ((document("a", 1), document("b", 1)), "x [a]", {"a"}),
        ((document("a", 1), document("b", 1)), "x", None),
        ((document("a", 1, False),), "x", set()),
        ((), "x", None),
    ],
)
def test_named_and_cited_documents_are_oracles(
    documents: tuple[Document, ...], answer: str, oracles: set[str] | None
) -> None:
    assert known_oracles(row(*documents, answer=answer)) == oracles


def test_of_a_row_of_distractors_one_stays() -> None:
    distractors = tuple(replace(found, oracle=False) for found in FOUR)
    assert same(fit(row(*distractors), CHAT, length(row(distractors[0]))), row(distractors[0]))


def test_the_last_distractor_is_shortened_where_no_document_answers() -> None:
    """RAFT's rows without an oracle."""
    sample = row(document("a", 120, False), document("b", 30, False), answer="Nobody says.")
    fitted = fit(sample, CHAT, length(sample) // 2)
    assert (fitted.dropped, fitted.shortened) == (1, 1)


def test_without_a_known_oracle_the_longest_documents_are_shortened() -> None:
    sample = row(document("a", 100), document("b", 8), document("c", 60))
    whole = length(sample)
    fitted = fit(sample, CHAT, whole // 2)
    shown = text(fitted)
    assert (fitted.dropped, fitted.shortened) == (0, 2)
    assert whole // 2 - 40 < len(fitted.tokens.ids) <= whole // 2
    assert sample.documents[1].text in shown
    assert "Question: Which role?" in shown
    assert shown.endswith("It is admin.<|im_end|>")
    # Each ends with a whole word: what is there is a beginning of what was there.
    for found, after in ((sample.documents[0], "\n\n[b]"), (sample.documents[2], "\n\nQuestion")):
        head = shown[shown.index(f"[{found.id}] ") + 4 : shown.index(after)]
        assert found.text.startswith(head + " ")


def test_only_the_longest_is_shortened_where_that_is_enough() -> None:
    sample = row(document("a", 20), document("b", 90))
    fitted = fit(sample, CHAT, length(sample) - 30)
    assert fitted.shortened == 1
    assert sample.documents[0].text in text(fitted)


def test_documents_are_not_shortened_until_they_say_nothing() -> None:
    sample = row(document("a", 30), document("b", 30))
    assert "the row has" in refused(sample, length(row()) + 20)


def test_a_row_without_documents_says_how_long_it_is_and_what_to_do() -> None:
    sample = row(answer="word " * 50)
    tokens = length(sample)
    assert refused(sample, tokens - 1) == (
        f"the answer would be cut off at data.max_length {tokens - 1}: the row has {tokens} tokens;"
        " raise it or shorten the row"
    )
    assert refused(sample, 10) == (
        f"the answer lies beyond data.max_length 10: the row has {tokens} tokens; raise it or shorten the row"
    )


def test_the_length_that_is_told_without_distractors_is_the_length_without_them() -> None:
    only = length(row(FOUR[1]))
    assert f"the row has {only} tokens" in refused(row(*FOUR), only - 1)


WORDS = st.lists(st.sampled_from(["token", "a", "naïve", "日本", "session."]), min_size=1, max_size=40).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(
    documents=st.lists(st.tuples(WORDS, st.sampled_from([True, False, None])), max_size=5),
    answer=WORDS,
    max_length=st.integers(30, 400),
)
def test_what_must_stay_stays(documents: list[tuple[str, bool | None]], answer: str, max_length: int) -> None:
    found = tuple(Document(f"d-{place}", words, oracle) for place, (words, oracle) in enumerate(documents))
    sample = row(*found, answer=answer)
    try:
        fitted = fit(sample, CHAT, max_length)
    except RowError:
        assert length(sample) > max_length
        return
    shown = text(fitted)
    assert len(fitted.tokens.ids) <= max_length
    assert shown.endswith(f"Question: Which role?<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>")
    for one in found:
        if one.oracle:
            assert f"[{one.id}] {one.text}\n\n" in shown
    assert sum(f"[{one.id}] " in shown for one in found) == len(found) - fitted.dropped
    assert fitted.shortened == 0 or not any(one.oracle for one in found)
