"""Documents -> passages: where they are cut, what they are called, and what is refused."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launch.errors import DataError, ExitCode
from training.data.build.passages import Passage, read_passages, slug
from training.data.build.prose import opening


def prose(name: str, words: int = 10) -> str:
    """As many different words: more than the few for which a section is joined to its neighbour."""
    return " ".join(f"{name}{number}" for number in range(words))


def filled(folder: Path, **files: str | bytes) -> Path:
    """A folder with these files; `a__b_md` is a/b.md."""
    for name, content in files.items():
        stem, _, ending = name.replace("__", "/").rpartition("_")
        path = folder / f"{stem}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[Passage]]:
    """The passages of a folder with these files."""
    return lambda most_words=300, **files: read_passages(str(filled(tmp_path, **files)), most_words)[0]


def refused(source: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_passages(str(source), 300)
    assert caught.value.exit_code == ExitCode.DATA
    return str(caught.value).replace(f"{source}/", "").replace(f"{source}: ", "")


def ids(passages: list[Passage]) -> list[str]:
    return [passage.id for passage in passages]


def sections(passages: list[Passage]) -> list[tuple[str, str]]:
    return [(passage.heading, passage.text) for passage in passages]


Read = Callable[..., list[Passage]]

# Markdown


def test_a_passage_is_the_text_below_one_heading(read: Read) -> None:
    text = (
        f"# Ports\n\n{prose('a')}\n\n## Open ones\n\n{prose('b')}\n\n{prose('c')}\n\n"
        f"### The *last* `443`\n\n{prose('d')}\n"
    )
    assert read(Ports_md=text) == [
        Passage("ports#overview", "ports", "Ports", "Ports", prose("a")),
        Passage("ports#open-ones", "ports", "Ports", "Open ones", f"{prose('b')}\n\n{prose('c')}"),
        Passage("ports#the-last-443", "ports", "Ports", "The last 443", prose("d"), "Open ones"),
    ]


def test_a_hash_in_code_is_no_heading(read: Read) -> None:
    fenced = f"```sh\n# {prose('comment')}\necho\n```"
    indented = f"{prose('a')}\n\n    # {prose('b')}"
    text = f"# Shell\n\n{fenced}\n\n## Indented\n\n{indented}\n\n## Waves\n\n~~~\n# {prose('c')}\n~~~\n"
    assert sections(read(shell_md=text)) == [
        ("Shell", fenced),
        ("Indented", indented),
        ("Waves", f"~~~\n# {prose('c')}\n~~~"),
    ]


def test_underlined_headings(read: Read) -> None:
    text = f"Ports\n=====\n\n{prose('a')}\n\nOpen ones\n---------\n{prose('b')}\n"
    assert sections(read(ports_md=text)) == [("Ports", prose("a")), ("Open ones", prose("b"))]


def test_a_heading_of_two_lines_keeps_its_words_apart(read: Read) -> None:
    (passage,) = read(ports_md=f"Which ports\nare open\n===\n\n{prose('a')}\n")
    assert passage.title == "Which ports are open"


def test_headings_of_lists_and_quotes_are_their_text(read: Read) -> None:
    text = f"# Ports\n\n> # Quoted\n> {prose('a')}\n\n- # Listed\n  {prose('b')}\n"
    assert sections(read(ports_md=text)) == [
        ("Ports", f"> # Quoted\n> {prose('a')}\n\n- # Listed\n  {prose('b')}"),
    ]


def test_markup_in_a_heading_is_read_as_words(read: Read) -> None:
    text = f"# T\n\n## ![logo](x.png) **Bold** [link](u) `code` &amp; \\#1\n\n{prose('a')}\n"
    assert [(p.id, p.heading) for p in read(t_md=text)] == [("t#bold-link-code-1", "Bold link code & #1")]


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_front_matter_is_left_out(start: str, read: Read) -> None:
    text = f"{start}---\ntitle: Not shown\ntags: [a, b]\n---\n\n# Ports\n\n{prose('a')}\n"
    assert sections(read(ports_md=text)) == [("Ports", prose("a"))]


def test_text_between_two_lines_is_no_front_matter(read: Read) -> None:
    text = f"---\n\n{prose('a')}\n\n---\n\n{prose('b')}\n"
    assert f"{prose('a')} " in " ".join(word for p in read(ports_md=text) for word in p.text.split())


def test_text_above_the_first_heading_is_a_passage_without_heading(read: Read) -> None:
    found = read(ports_md=f"{prose('a')}\n\n## Open ones\n\n{prose('b')}\n")
    assert [(p.id, p.heading, p.text) for p in found] == [
        ("ports#overview", "", prose("a")),
        ("ports#open-ones", "Open ones", prose("b")),
    ]


def test_the_first_heading_is_the_title_only_when_nothing_stands_above_it(read: Read) -> None:
    found = read(open_ports_md=f"{prose('a')}\n\n## How to close them\n\n{prose('b')}\n")
    assert {passage.title for passage in found} == {"open ports"}


def test_repeated_headings_are_numbered(read: Read) -> None:
    parts = [f"## Rule\n\n{prose(name)}\n" for name in "abc"]
    assert ids(read(t_md="# T\n\n" + "\n".join(parts))) == ["t#rule", "t#rule-2", "t#rule-3"]


def test_a_heading_that_is_called_like_a_number_has_an_id_of_its_own(read: Read) -> None:
    """`Rule` twice gives rule-2, which is also the id of `Rule 2`."""
    parts = [f"## {heading}\n\n{prose(name)}\n" for heading, name in (("Rule", "a"), ("Rule", "b"), ("Rule 2", "c"))]
    found = read(t_md="# T\n\n" + "\n".join(parts))
    assert [p.text for p in found] == [prose("a"), prose("b"), prose("c")]
    assert len(set(ids(found))) == 3


# HTML


def test_html_is_cut_along_its_headings(read: Read) -> None:
    page = (
        f"<html><head><title>Site</title><style>p {{}}</style></head><body><nav><p>{prose('nav')}</p></nav>"
        f"<h1>Ports</h1><p>{prose('a')}</p><script>let x = '{prose('script')}'</script>"
        f"<h2>Open <em>ones</em></h2><p>{prose('b')}</p><p>{prose('c')}</p></body></html>"
    )
    assert read(ports_html=page) == [
        Passage("ports#overview", "ports", "Ports", "Ports", prose("a")),
        Passage("ports#open-ones", "ports", "Ports", "Open ones", f"{prose('b')}\n\n{prose('c')}"),
    ]


def test_html_lists_tables_and_code_keep_their_text(read: Read) -> None:
    page = (
        f"<h1>Ports</h1><ul><li>{prose('a')}</li><li><p>outer</p><ul><li>inner</li></ul></li></ul>"
        "<table><tr><th>Port</th><td>443</td></tr></table><pre>def f():\n    return 1\n</pre>"
        f"<blockquote><p>{prose('quoted')}</p></blockquote><dl><dt>TLS</dt><dd>{prose('meaning')}</dd></dl>"
    )
    (passage,) = read(ports_htm=page)
    assert [word for word in passage.text.split() if word.strip("*+>|-`:")] == (
        f"{prose('a')} outer inner Port 443 def f(): return 1 {prose('quoted')} TLS {prose('meaning')}".split()
    )
    assert "def f():\n    return 1" in passage.text


def test_html_without_markup_is_one_passage(read: Read) -> None:
    (passage,) = read(open_ports_html=f"<div>{prose('a')}</div><div>{prose('b')}</div>")
    assert (passage.title, passage.heading) == ("open ports", "")
    assert passage.text.split() == f"{prose('a')} {prose('b')}".split()


def test_html_text_beside_paragraphs_is_not_lost(read: Read) -> None:
    (passage,) = read(ports_html=f"<body>{prose('a')}<div>{prose('b')}</div><p>{prose('c')}</p></body>")
    assert passage.text.split() == f"{prose('a')} {prose('b')} {prose('c')}".split()


def test_html_headings_are_headings_also_when_text_is_in_div(read: Read) -> None:
    page = f"<h1>Ports</h1><div>{prose('a')}</div><h2>Open ones</h2><div>{prose('b')}</div>"
    assert sections(read(ports_html=page)) == [("Ports", prose("a")), ("Open ones", prose("b"))]


def test_html_markup_inside_a_sentence_adds_no_spaces(read: Read) -> None:
    (passage,) = read(ports_html=f"<p>See the <a href='x'>guide</a>, un<b>believ</b>able: {prose('a')}.</p>")
    assert passage.text == f"See the guide, unbelievable: {prose('a')}."


def html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


@pytest.mark.parametrize(
    "text",
    [
        "Put <script>alert(1)</script> or <b> and <!-- this --> there",
        "<iframe> is a tag",
        "Write &lt; and &#60; for it",
        "# No heading is this one",
        "So is\n## this line of it",
        "Under\n===\nit is no heading",
        "Under\n---\nit is none",
        "***",
        "__init__ and **kwargs** and *one* of snake_case",
        "Say [words](place) and ![words](place) here",
        "[1]: https://a.b is what it means",
        "It is C:\\_x and \\* and \\d+ there",
        "```\nno fence",
        "~~~\nno fence",
        "C# ends with a #",
    ],
)
def test_text_of_html_arrives_whole_in_passages_answers_and_headings(text: str, read: Read) -> None:
    """A passage is Markdown, where a backslash may stand before a mark; an answer is what that says."""
    page = f"<h1>T</h1><h2>{html(text)}</h2><p>{html(text)}</p><p>{html(text)} {prose('a')}.</p>"
    (passage,) = read(t_html=page)
    assert passage.heading == " ".join(text.split())
    assert passage.text.replace("\\", "") == f"{text}\n\n{text} {prose('a')}.".replace("\\", "")
    assert opening(passage.text) == f"{' '.join(text.split())} {prose('a')}."


def test_code_of_html_is_whole_whatever_stands_in_it(read: Read) -> None:
    (passage,) = read(
        t_html=f"<h1>T</h1><pre>```\n# {prose('a')}\n```\n&lt;b&gt;</pre><p><code>&lt;b&gt; \\*</code></p>"
    )
    assert passage.text == f"````\n```\n# {prose('a')}\n```\n<b>\n````\n\n`<b> \\*`"


def test_html_between_two_lines_is_no_front_matter(read: Read) -> None:
    (passage,) = read(t_html=f"<hr><p>Note: {prose('a')}</p><hr><p>{prose('b')}</p>")
    assert passage.text == f"---\n\nNote: {prose('a')}\n\n---\n\n{prose('b')}"


# Text and JSON Lines


def test_a_text_file_has_no_headings(read: Read) -> None:
    (passage,) = read(open_ports_txt=f"# {prose('a')}\n\n{prose('b')}\n")
    assert passage == Passage("open-ports#overview", "open-ports", "open ports", "", f"# {prose('a')}\n\n{prose('b')}")


def test_rows_of_json_lines_are_documents(read: Read) -> None:
    rows = [
        {"id": "KB-1", "title": "Open ports", "text": f"{prose('a')}\n\n## Close them\n\n{prose('b')}"},
        {"text": f"# From the heading\n\n{prose('c')}"},
    ]
    found = read(kb_jsonl="".join(json.dumps(row) + "\n" for row in rows))
    assert [(p.id, p.document, p.title) for p in found] == [
        ("kb-1#overview", "kb-1", "Open ports"),
        ("kb-1#close-them", "kb-1", "Open ports"),
        ("kb-2#overview", "kb-2", "From the heading"),
    ]


def test_a_row_may_have_the_number_0_as_its_id(read: Read) -> None:
    rows = [{"id": number, "text": prose(f"w{number}x")} for number in (0, 1)]
    found = read(kb_jsonl="".join(json.dumps(row) + "\n" for row in rows))
    assert [p.document for p in found] == ["0", "1"]


def test_files_are_read_in_the_order_of_their_names_and_folders_are_part_of_them(read: Read) -> None:
    found = read(b_md=prose("b"), a__z_md=prose("z"), a__B_C_txt=prose("c"), README_rst="not read")
    assert [p.document for p in found] == ["a-b-c", "a-z", "b"]


def test_links_are_followed_and_what_they_lead_to_is_read_once(tmp_path: Path) -> None:
    filled(tmp_path / "docs", a__b_md=prose("b"))
    filled(tmp_path / "elsewhere", c_md=prose("c"))
    (tmp_path / "docs" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "docs" / "a" / "circle").symlink_to(tmp_path / "docs")
    passages, counts = read_passages(str(tmp_path / "docs"), 300)
    assert ids(passages) == ["a-b#overview", "more-c#overview"]
    assert +counts == {"documents": 2}


def test_one_file_is_read_as_well(tmp_path: Path) -> None:
    filled(tmp_path, a_md=prose("a"), b_md=prose("b"))
    passages, counts = read_passages(str(tmp_path / "b.md"), 300)
    assert (ids(passages), counts) == (["b#overview"], Counter(documents=1))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Open Ports!", "open-ports"), ("  a_b--c ", "a-b-c"), ("Größe", "grösse"), ("日本語", "日本語"),
        ("1.2 TLS", "1-2-tls"), ("???", "untitled"), ("", "untitled"),
    ],
)  # fmt: skip
def test_slug(text: str, name: str) -> None:
    assert slug(text) == name


# Long and short sections


def test_a_long_section_is_cut_between_paragraphs(read: Read) -> None:
    paragraphs = [prose(name, 20) for name in "abcde"]
    found = read(50, t_md="# T\n\n## Long\n\n" + "\n\n".join(paragraphs))
    assert [(p.id, p.heading, p.text) for p in found] == [
        ("t#long", "Long", f"{paragraphs[0]}\n\n{paragraphs[1]}"),
        ("t#long-2", "Long", f"{paragraphs[2]}\n\n{paragraphs[3]}"),
        ("t#long-3", "Long", paragraphs[4]),
    ]


@pytest.mark.parametrize("fence", ["```", "~~~", "````"])
def test_code_that_fits_stays_whole(fence: str, read: Read) -> None:
    inner = "```\n" if fence == "````" else ""
    code = f"{fence}python\n{inner}{prose('b', 15)}\n\n{prose('c', 15)}\n{inner}{fence}"
    found = read(40, t_md=f"{prose('a', 20)}\n\n{code}\n\n{prose('d', 20)}")
    assert [p.text for p in found] == [prose("a", 20), code, prose("d", 20)]


def test_a_paragraph_that_is_too_long_is_cut_between_sentences(read: Read) -> None:
    sentences = [f"{prose(name, 18)} end." for name in "abc"]
    found = read(40, t_md=" ".join(sentences))
    assert [p.text for p in found] == [f"{sentences[0]} {sentences[1]}", sentences[2]]


def test_a_sentence_that_is_too_long_is_cut_between_words(read: Read) -> None:
    found = read(40, t_md=prose("a", 100))
    assert [len(p.text.split()) for p in found] == [40, 40, 20]
    assert " ".join(p.text for p in found) == prose("a", 100)


def test_a_list_that_is_too_long_is_cut_between_its_lines_which_stay_lines(read: Read) -> None:
    lines = [f"- {prose(name, 9)}" for name in "abcdef"]
    found = read(40, t_md="\n".join(lines))
    assert [line for p in found for line in p.text.splitlines()] == lines


def test_code_that_is_too_long_keeps_its_lines(read: Read) -> None:
    """Flattened into one line it could no more be read, nor told from prose."""
    lines = [f"    {prose(name, 9)}" for name in "abcdef"]
    found = read(40, t_md="```\n" + "\n".join(lines) + "\n```")
    assert [line for p in found for line in p.text.splitlines() if "`" not in line] == lines


def test_a_section_of_a_few_words_is_joined_to_the_next_one_and_the_last_to_the_one_before(read: Read) -> None:
    text = f"# T\n\n## Few\n\nonly these words.\n\n## Full\n\n{prose('a')}\n\n## Last\n\nand these.\n"
    assert [(p.id, p.text) for p in read(t_md=text)] == [
        ("t#full", f"Few\n\nonly these words.\n\n{prose('a')}\n\nLast\n\nand these.")
    ]


def test_a_joined_section_is_not_passed_off_as_part_of_another_topic(read: Read) -> None:
    """`Don't do this.` below `Custom algorithms` must not become the first words on cipher modes."""
    text = f"# T\n\n## Custom algorithms\n\nDon't do this.\n\n## Cipher modes\n\n{prose('a')}\n"
    (passage,) = read(t_md=text)
    assert "Custom algorithms" in f"{passage.heading} {passage.text}"


@pytest.mark.parametrize(("words", "found"), [(7, ["t#more"]), (8, ["t#few", "t#more"])])
def test_eight_words_are_enough_for_a_passage(words: int, found: list[str], read: Read) -> None:
    assert ids(read(t_md=f"# T\n\n## Few\n\n{prose('a', words)}\n\n## More\n\n{prose('b')}\n")) == found


def test_a_document_of_a_few_words_is_still_a_passage(read: Read) -> None:
    (passage,) = read(ports_md="# Ports\n\nHTTPS uses 443.\n")
    assert (passage.id, passage.title, passage.text) == ("ports#overview", "Ports", "HTTPS uses 443.")


def test_headings_without_text_are_no_passages(read: Read) -> None:
    assert ids(read(t_md=f"# T\n\n## Empty\n\n## Also empty\n\n### Full\n\n{prose('a')}\n")) == ["t#full"]


# What is left out, and what is refused


def test_a_passage_that_another_has_word_for_word_is_left_out_and_counted(tmp_path: Path) -> None:
    filled(
        tmp_path,
        a_md=f"# A\n\n{prose('x')}\n",
        b_md=f"# B\n\n{prose('x', 5)}\n{prose('x')[15:]}\n\n## C\n\n{prose('c')}",
    )
    passages, counts = read_passages(str(tmp_path), 300)
    assert ids(passages) == ["a#overview", "b#c"]
    assert counts == {"documents": 2, "passages left out that another already has word for word": 1}


@pytest.mark.parametrize(
    ("files", "name", "places"),
    [
        ({"a_md": prose("a"), "a_txt": prose("b")}, "a", "a.md and a.txt"),
        (
            {"a_md": f"# T\n\n## One\n\n{prose('a')}", "a_html": f"<h1>T</h1><h2>Two</h2><p>{prose('b')}</p>"},
            "a", "a.html and a.md",
        ),
        ({"a-b_md": prose("a"), "a__b_md": prose("b")}, "a-b", "a/b.md and a-b.md"),
        (
            {"kb_jsonl": "".join(json.dumps({"id": "a", "text": text}) + "\n" for text in map(prose, "ab"))},
            "a", "kb.jsonl:1 and kb.jsonl:2",
        ),
    ],
)  # fmt: skip
def test_two_documents_of_one_name_are_refused_with_both(
    files: dict[str, str], name: str, places: str, tmp_path: Path
) -> None:
    assert refused(filled(tmp_path, **files)) == (
        f"two documents are called {name!r}, {places}; their names must differ"
    )


def test_a_folder_without_documents(tmp_path: Path) -> None:
    filled(tmp_path, rows_csv="a,b\n")
    assert refused(tmp_path) == "no documents; expected .md, .markdown, .txt, .html, .htm, .jsonl"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "none") == "no such folder or file"


@pytest.mark.parametrize("files", [{"a_md": ""}, {"a_md": "# Only\n\n## Headings\n"}, {"a_html": "<p> </p>"}])
def test_documents_without_text(files: dict[str, str], tmp_path: Path) -> None:
    assert refused(filled(tmp_path, **files)) == "no text in its documents"


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    filled(tmp_path, a_md=prose("a"), b_md="Größe".encode("latin-1"))
    assert refused(tmp_path) == "b.md: is not UTF-8 text: byte 2: invalid start byte"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "b"}', "kb.jsonl:2:1: is an object without a `text`; expected {id, title, text}"),
        (b'{"text": 5}', "kb.jsonl:2:1: is an object without a `text`; expected {id, title, text}"),
        (
            b'{"text": "a", "content": "b"}',
            "kb.jsonl:2:1: `content` is not read; near: `text`; call it so, join them, or leave it out",
        ),
        (b'["a"]', "kb.jsonl:2:1: is a list without a `text`; expected {id, title, text}"),
        (b'{"text": ', "kb.jsonl:2:10: not JSON: Expecting value"),
        (b'{"text": "\xff"}', "kb.jsonl:2:11: is not UTF-8 text: invalid start byte"),
    ],
)
def test_a_row_without_text_is_told_with_its_line(line: bytes, message: str, tmp_path: Path) -> None:
    good = json.dumps({"text": prose("a")}).encode()
    assert refused(filled(tmp_path, kb_jsonl=good + b"\n" + line + b"\n")) == message


@pytest.mark.parametrize("key", ["id", "title", "text"])
def test_half_a_character_is_told_before_it_reaches_a_file(key: str, tmp_path: Path) -> None:
    row = {"id": "a", "title": "b", "text": prose("c")}
    message = refused(filled(tmp_path, kb_jsonl=json.dumps({**row, key: f"{row[key]}\ud83d"}) + "\n"))
    assert message.startswith(f"kb.jsonl:1:1: `{key}` holds half of a surrogate pair")


# Any text


BLOCKS = st.lists(
    st.tuples(st.sampled_from(["heading", "underlined", "paragraph", "lines", "list", "code"]), st.integers(8, 60)),
    max_size=12,
)


def numbered(blocks: list[tuple[str, int]]) -> tuple[str, list[str]]:
    """Markdown of these blocks, and the words outside its headings. No word is there twice."""
    parts, expected, count = [], [], 0
    for kind, size in blocks:
        words = [f"w{number}" for number in range(count, count + size)]
        count += size
        if kind == "heading":
            parts.append(f"{'#' * (1 + size % 6)} {' '.join(words)}")
        elif kind == "underlined":
            parts.append(f"{' '.join(words)}\n{'=-'[size % 2] * 3}")
        else:
            text = {
                "paragraph": " ".join(words),
                "lines": "\n".join(words),
                "list": "\n".join(f"- {word}" for word in words),
                "code": "```\n# " + "\n\n".join(words[:9]) + "\n```",
            }[kind]
            parts.append(text)
            expected += text.split()
    return "\n\n".join(parts), expected


@given(BLOCKS)
@settings(max_examples=120, deadline=None)
def test_passages_have_all_words_outside_headings_in_their_order(blocks: list[tuple[str, int]]) -> None:
    text, expected = numbered(blocks)
    if not expected:
        assert words_of(text) is None
        return
    found = words_of(text)
    assert found is not None
    assert [word for part in found for word in part] == expected
    assert all(len(part) <= 40 for part in found)


MARKDOWN = st.text(
    st.one_of(
        st.sampled_from("#=-`~>*_|[]()<&\\!1. \n\n\n\tab\r\f\u2028\x85\0"), st.characters(exclude_categories=["Cs"])
    ),
    max_size=300,
)


@given(MARKDOWN)
@example("---\n---")
@example("```\n# a")
@example("a\n=\n- # b\n  c")
@settings(max_examples=300, deadline=None)
def test_any_text_gives_words_of_it_in_its_order_and_never_another_error(text: str) -> None:
    rest = iter(text.removeprefix("\ufeff").split())
    for word in (word for part in words_of(text) or [] for word in part):
        assert word in rest, f"{word!r} is not the next word"


def words_of(text: str) -> list[list[str]] | None:
    """The words of each passage of at most 40; None where there is no text."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "any.md").write_bytes(text.encode())
        try:
            passages, _ = read_passages(folder, 40)
        except DataError as error:
            if str(error) != f"{folder}: no text in its documents":
                raise
            return None
        return [passage.text.split() for passage in passages]
