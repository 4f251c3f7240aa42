"""Words and sentences of scripts with and without spaces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.build.escape import escaped
from training.data.build.words import count, cut, is_whole, joined, sentences, unwrapped


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ports are open - 443, e.g.", 6),
        ("naïve “quotes” — dash", 4),
        ("防火墙默认丢弃", 7),
        ("防火墙，默认：丢弃。", 7),
        ("使用Python3编程（好）", 6),
        ("使用 Python 3.5 编程", 6),
        ("カタカナの人々", 7),
        ("서울은 수도", 2),  # Hangul has spaces
        ("ที่นี่", 2),  # a vowel and a tone are marks of their consonant
        ("", 0),
    ],
)
def test_a_character_is_a_word_where_a_script_has_no_spaces(text: str, words: int) -> None:
    assert count(text) == words
    assert count(escaped(text)) == words


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("It is 3.5. Is it? Yes!", ["It is 3.5.", "Is it?", "Yes!"]),
        ("3. Press it. Wait", ["3. Press it.", "Wait"]),
        ("1.2. Press it. 7. Wait.", ["1.2. Press it.", "7.", "Wait."]),
        ("7.", ["7."]),
        ("端口已打开。是吗？是！好", ["端口已打开。", "是吗？", "是！", "好"]),
        ("真的吗？！好。", ["真的吗？！", "好。"]),
        ("他说：“好。”然后走了。", ["他说：“好。”", "然后走了。"]),
        ("（见『手册。』）下一句。 第三句。", ["（见『手册。』）", "下一句。", "第三句。"]),
        ("一；二，三：四", ["一；二，三：四"]),
        ("यह एक है। वह दो है।", ["यह एक है।", "वह दो है।"]),
    ],
)
def test_sentences_end_at_their_stops(line: str, found: list[str]) -> None:
    assert sentences(line) == found
    assert sentences(escaped(line)) == [escaped(sentence) for sentence in found]
    assert joined(found) == line.replace("。 第", "。第")


@pytest.mark.parametrize("sentence", ["Yes.", "(Yes.)", "好。", "“好。”", "（好！』）", "है।"])
def test_a_sentence_with_a_stop_is_whole(sentence: str) -> None:
    assert is_whole(sentence)
    assert not is_whole(f"{sentence}x")


def test_a_sentence_is_cut_between_words_which_keep_their_punctuation() -> None:
    assert cut("one two  three", 2) == ["one two", "three"]
    assert cut("使用Python3编程（好），完成。", 3) == ["使用Python3", "编程（好），", "完成。"]
    assert cut("ที่นี่", 1) == ["ที่", "นี่"]


def test_lines_are_one_line_without_a_space_between_chinese_ones() -> None:
    assert unwrapped("谢谢\n配合，\n好 的\nPython\n3") == "谢谢配合，好 的 Python 3"


@given(st.text(st.sampled_from("ab 。！.!?”）（，中文の。ที่  ")), st.integers(1, 9))
def test_no_character_is_lost_in_sentences_and_words(line: str, most_words: int) -> None:
    parts = [part for sentence in sentences(line) for part in cut(sentence, most_words)]
    assert "".join("".join(parts).split()) == "".join(line.split())
    assert all(count(part) <= most_words for part in parts)


@given(st.text(st.characters(codec="ascii")))
def test_words_of_english_are_what_stands_between_spaces(text: str) -> None:
    assert count(f"{text}é") == len(f"{text}é".split())
