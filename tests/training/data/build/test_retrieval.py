"""BM25 over passages: what is found first, and what may stand beside the passage that answers."""

import pytest

from training.data.build.passages import Passage
from training.data.build.retrieval import Index


def passage(name: str, text: str, title: str = "Manual", heading: str = "") -> Passage:
    return Passage(name, name.split("#")[0], title, heading, text)


TLS = passage("tls#setup", "The gateway ends TLS connections and checks every certificate.")
PORTS = passage("ports#list", "HTTPS listens on port 443 and SSH listens on port 22.")
ROLES = passage("roles#admin", "An admin may rotate the certificate of the gateway each quarter.")
BACKUP = passage("backup#when", "Nightly jobs copy each database to another region.")
ALL = [TLS, PORTS, ROLES, BACKUP]


def ids(passages: list[Passage]) -> list[str]:
    return [found.id for found in passages]


# Ranking


def test_the_passage_with_the_rarest_words_of_the_query_is_first() -> None:
    ranked = Index(ALL).ranked("Who may rotate the certificate of the gateway?")
    assert ids(ranked) == ["roles#admin", "tls#setup", "ports#list", "backup#when"]


@pytest.mark.parametrize("word", ["443", "HTTPS", "https", "SSH"])
def test_one_word_finds_its_passage_in_any_case(word: str) -> None:
    assert Index(ALL).ranked(word)[0] == PORTS


@pytest.mark.parametrize(
    ("query", "found"),
    [("谁可以更换证书？", "b#1"), ("数据库何时备份", "c#1"), ("港", "d#1"), ("Python3脚本", "c#1"), ("서울의", "e#1")],
)
def test_scripts_without_spaces_are_found_by_two_characters_that_stand_together(query: str, found: str) -> None:
    texts = [
        "防火墙丢弃入站连接。",
        "管理员每季度更换网关的证书。",
        "数据库每晚由Python3脚本备份。",
        "港",
        "서울은 수도이다.",
    ]
    passages = [passage(f"{name}#1", text, title="手册") for name, text in zip("abcde", texts, strict=True)]
    assert Index(passages).best(query) == next(passage for passage in passages if passage.id == found)


def test_a_chinese_passage_that_is_almost_an_oracle_is_no_distractor() -> None:
    text = "".join(chr(0x4E00 + number) for number in range(60))
    oracle, almost, other = (
        passage(f"{n}#1", t) for n, t in zip("abc", [text, f"{text}。完", "别的文字"], strict=True)
    )
    assert Index([oracle, almost, other]).distractors("一丁", [oracle], 4) == [other]


def test_titles_and_headings_are_searched() -> None:
    places = [passage("a#1", "Nothing of note."), passage("b#1", "Nothing of note.", heading="Firewall")]
    assert Index(places).ranked("firewall")[0].id == "b#1"
    places = [passage("a#1", "Nothing of note."), passage("b#1", "Nothing of note.", title="Firewall")]
    assert Index(places).ranked("firewall")[0].id == "b#1"


def test_ties_are_in_the_order_of_the_collection() -> None:
    same = [passage(f"{name}#1", "The firewall drops it.") for name in "cabd"]
    other = passage("z#1", "The router forwards it.")
    assert ids(Index([*same, other]).ranked("firewall")) == ["c#1", "a#1", "b#1", "d#1", "z#1"]
    assert ids(Index([other, *reversed(same)]).ranked("firewall")) == ["d#1", "b#1", "a#1", "c#1", "z#1"]


@pytest.mark.parametrize("query", ["zebra", "the of and", "", "???"])
def test_a_query_that_matches_nothing_leaves_the_order_of_the_collection(query: str) -> None:
    assert Index(ALL).ranked(query) == ALL


def test_the_same_passages_are_ranked_the_same_again() -> None:
    many = [passage(f"d{n}#1", f"gateway {'role ' * (n % 7)} port {n % 5} certificate {n % 3}") for n in range(60)]
    query = "gateway port 3 role certificate 2"
    assert ids(Index(many).ranked(query)) == ids(Index(list(many)).ranked(query))
    assert sorted(ids(Index(many).ranked(query))) == sorted(ids(many))


@pytest.mark.parametrize("text", ["the of and", "!!! ???", "a b c"])
def test_passages_without_a_word_to_search_for_are_all_there(text: str) -> None:
    only = passage("a#1", text, title="")
    assert Index([only]).ranked("certificate") == [only]


def test_a_search_finds_no_passage_that_must_be_named() -> None:
    query = "Who may rotate the certificate of the gateway?"
    assert Index(ALL).best(query) == ROLES
    assert Index(ALL, {"roles#admin"}).best(query) == TLS
    assert Index([ROLES], {"roles#admin"}).best(query) is None
    assert Index(ALL).best("Xyzzy plugh?") is None, "the first of the collection is no match"


# Distractors


def test_distractors_are_the_best_that_are_no_oracle() -> None:
    query = "Who may rotate the certificate of the gateway?"
    assert Index(ALL).distractors(query, [ROLES], 2) == [TLS, PORTS]
    assert Index(ALL).distractors(query, [ROLES, TLS], 2) == [PORTS, BACKUP]
    assert Index(ALL).distractors(query, [], 1) == [ROLES]


def test_an_oracle_may_be_none_of_the_passages_to_choose_from() -> None:
    assert Index([TLS, PORTS]).distractors("certificate", [ROLES], 4) == [TLS, PORTS]


def test_no_distractors_where_none_are_asked_for() -> None:
    assert Index(ALL).distractors("certificate", [ROLES], 0) == []


def test_fewer_passages_than_asked_for() -> None:
    assert Index(ALL).distractors("certificate", [ROLES], 9) == [TLS, PORTS, BACKUP]
    assert Index([ROLES]).distractors("certificate", [ROLES], 4) == []


def words(count: int, changed: int = 0) -> str:
    """`count` words, of which the last ones are others."""
    return " ".join([f"word{n}" for n in range(count - changed)] + [f"other{n}" for n in range(changed)])


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        (words(60), True),
        (words(60).upper().replace(" ", ",  "), True),  # other case and marks
        (words(60, 1), True),
        (words(60, 6), True),  # of 64 triples of words in either, 52 are in both: 0.81
        (words(60, 7), False),  # 51 of 65: 0.78
        (words(30), False),  # half of the oracle
        (words(60, 60), False),
    ],
)
def test_what_has_almost_the_words_of_an_oracle_is_no_distractor(text: str, left_out: bool) -> None:
    oracle, copy = passage("a#1", words(60)), passage("b#1", text)
    assert Index([oracle, copy]).distractors("word1 word2", [oracle], 4) == ([] if left_out else [copy])


def test_almost_a_copy_of_any_oracle_is_left_out() -> None:
    first, second, copy = passage("a#1", words(60)), passage("b#1", words(60, 60)), passage("c#1", words(60, 59))
    assert Index([first, second, copy, PORTS]).distractors("word1", [first, second], 4) == [PORTS]
