"""Rows that say the same, exactly or almost."""

import random

import numpy as np
import pytest

from tests.training.data.encoding.chat_templates import sample_of, talk
from training.data.checks.duplicates import PERMUTATIONS, Fingerprints, fingerprint, repeated
from training.data.rows.samples import Document, Sample

WORDS = [f"word{number}" for number in range(2000)]


def prints_of(*samples: Sample) -> Fingerprints:
    """In chunks of two, as rows come in chunks."""
    prints, marks = Fingerprints(), [fingerprint(sample) for sample in samples]
    for start in range(0, len(marks), 2):
        part = marks[start : start + 2]
        signatures = np.frombuffer(b"".join(mark.signature for mark in part), dtype=np.uint8)
        exact, asked = (
            np.array(hashes, dtype=np.uint64) for hashes in zip(*((m.exact, m.asked) for m in part), strict=True)
        )
        prints.add(exact, asked, signatures.reshape(-1, PERMUTATIONS))
    return prints


def text(words: list[str]) -> Sample:
    return Sample("a", "f", 1, text=" ".join(words))


def varied(count: int, changed: int, seed: int) -> tuple[Sample, Sample, float]:
    """Two texts of `count` words that differ in `changed` of them, and the Jaccard similarity of their shingles."""
    chance = random.Random(seed)
    words = chance.sample(WORDS, count)
    other = list(words)
    for place in chance.sample(range(count), changed):
        other[place] = f"other{place}"
    first, second = ({tuple(one[i : i + 3]) for i in range(count - 2)} for one in (words, other))
    return text(words), text(other), len(first & second) / len(first | second)


def test_the_same_words_are_an_exact_duplicate_of_the_first() -> None:
    a, b = sample_of(*talk("Which port?", "443")), sample_of(*talk("Which host?", "a.b"))
    assert list(prints_of(a, b, a, a, b).exact()) == [(2, 0), (3, 0), (4, 1)]
    assert list(prints_of(a, b, a).near()) == []


def test_a_chinese_text_of_which_one_character_differs_is_a_near_duplicate() -> None:
    asked = "".join(chr(0x4E00 + number) for number in range(60))
    first, second = (sample_of(*talk("什么？", f"{asked}{end}。")) for end in "甲乙")
    assert list(prints_of(first, second).near()) == [(1, 0)]


def test_case_white_space_and_punctuation_do_not_make_it_another() -> None:
    first, second = sample_of(*talk("Which port?", "It is 443.")), sample_of(*talk("which  PORT", "it is 443"))
    assert fingerprint(first) == fingerprint(second)


def test_documents_and_the_system_turn_do_not_count_and_calls_do() -> None:
    turns = talk("Which port?", "It is 443.")
    plain = fingerprint(sample_of(*turns))
    shown = fingerprint(sample_of(*turns, documents=(Document("d", "x"),)))
    assert (shown.exact, shown.signature) == (plain.exact, plain.signature)
    assert shown.asked != plain.asked  # the same question of other documents is another question
    assert fingerprint(sample_of(*talk("Which port?", "It is 443.", system="Be brief."))) == plain
    call = {"function": {"name": "lookup", "arguments": {}}}
    assert fingerprint(sample_of(turns[0], {**turns[1], "tool_calls": [call]})) != plain


@pytest.mark.parametrize("seed", range(20))
def test_almost_the_same_words_are_a_near_duplicate(seed: int) -> None:
    first, second, similarity = varied(300, 3, seed)
    assert similarity > 0.92
    assert list(prints_of(first, text(["quite", "other"]), second).near()) == [(2, 0)]


@pytest.mark.parametrize("seed", range(20))
def test_half_the_same_words_are_not(seed: int) -> None:
    first, second, similarity = varied(300, 40, seed)
    assert similarity < 0.55
    assert list(prints_of(first, second).near()) == []


def test_each_row_is_told_once_and_an_exact_one_is_not_near_as_well() -> None:
    first, second, _ = varied(300, 2, 1)
    prints = prints_of(first, second, first, second)
    assert list(prints.exact()) == [(2, 0), (3, 1)]
    assert list(prints.near()) == [(1, 0)]


def test_nothing_repeats_nothing() -> None:
    assert list(Fingerprints().exact()) == []
    assert list(Fingerprints().near()) == []


def test_a_row_without_a_word_has_a_fingerprint() -> None:
    assert len(fingerprint(Sample("a", "f", 1, text="?!")).signature) == PERMUTATIONS


def test_what_differs_in_signs_alone_is_not_the_same() -> None:
    """`x < 3` and `x > 3` are two questions, and texts of signs alone have no words to compare."""
    assert list(prints_of(sample_of(*talk("Is x < 3?", "Yes")), sample_of(*talk("Is x > 3?", "Yes"))).exact()) == []
    assert list(prints_of(text(["→", "←"]), text(["+", "-"])).exact()) == []


def test_repeated_names_the_first_with_the_same_key() -> None:
    assert list(repeated(np.array([5, 7, 5, 7, 5, 9], dtype=np.uint64))) == [(2, 0), (3, 1), (4, 0)]
    assert list(repeated(np.array([], dtype=np.uint64))) == []
