"""Documents -> passages: where they are cut, what they are called, and what is refused."""

import json
import string
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launch.errors import DataError, ExitCode
from training.data.build.escape import escaped
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
        "The time-out is 5*60*1000 ms and a_*b*_c",
        "1986. That is a year",
        "2) is no place in a list",
        "> is greater than <",
        "- is a dash, + a sum, | a pipe",
        "`a``b` ~~c~~ {d} $e$ ^f^ &copy; ==g==",
    ],
)
def test_text_of_html_arrives_whole_in_passages_answers_and_headings(text: str, read: Read) -> None:
    page = f"<h1>T</h1><h2>{html(text)}</h2><p>{html(text)}</p><p>{html(text)} {prose('a')}.</p>"
    (passage,) = read(t_html=page)
    assert passage.heading == " ".join(text.split())
    assert passage.text == f"{text}\n\n{text} {prose('a')}."
    assert opening(passage.markdown) == f"{' '.join(text.split())} {prose('a')}."


@given(st.text(st.sampled_from([mark for mark in string.punctuation + "a1 " if mark not in ".!?("]), max_size=40))
@settings(max_examples=150, deadline=None)
def test_whatever_marks_stand_in_html_or_a_text_file_they_are_text(marks: str) -> None:
    text = " ".join(f"{marks} {prose('a')}.".split())
    with tempfile.TemporaryDirectory() as folder:
        passages, _ = read_passages(str(filled(Path(folder), a_html=f"<p>{html(text)}</p>", b_txt=f"{text} c")), 300)
    assert [passage.text for passage in passages] == [text, f"{text} c"]
    assert [opening(passage.markdown) for passage in passages] == [text, text]


@pytest.mark.parametrize("tag", ["summary", "legend", "main", "option", "address"])
def test_a_block_of_html_is_a_paragraph_of_its_own(tag: str, read: Read) -> None:
    (passage,) = read(t_html=f"<div>{prose('a')}<{tag}>{prose('b')}</{tag}>{prose('c')}</div>")
    assert passage.text == "\n\n".join(map(prose, "abc"))


def test_buttons_of_html_are_apart_from_their_neighbours(read: Read) -> None:
    page = f"{prose('a')}<button>Copy</button><button>Run</button>. Press <button>Go</button> <input>now"
    (passage,) = read(t_html=f"<p>{page}</p>")
    assert passage.text == f"{prose('a')} Copy Run . Press Go now"


def test_code_of_html_is_whole_whatever_stands_in_it(read: Read) -> None:
    (passage,) = read(
        t_html=f"<h1>T</h1><pre>```\n# {prose('a')}\n```\n&lt;b&gt;</pre><p><code>&lt;b&gt; \\*</code></p>"
    )
    assert passage.text == f"````\n```\n# {prose('a')}\n```\n<b>\n````\n\n`<b> \\*`"
    assert opening(passage.markdown) == ""


def test_lines_that_a_break_ends_in_code_of_html_gain_no_spaces(read: Read) -> None:
    (passage,) = read(t_html=f"<pre>a<br>  b <br/><br><code>c<br>d</code></pre><p>{prose('a')}<br>{prose('b')}</p>")
    assert passage.text == f"```\na\n  b \n\nc\nd\n```\n\n{prose('a')}  \n{prose('b')}"


def test_the_code_and_tables_of_html_are_no_answer_though_its_text_is_text(read: Read) -> None:
    page = f"<pre>{prose('a')}.</pre><table><tr><th>{prose('b')}.</th></tr></table><p>*{prose('c')}.</p>"
    (passage,) = read(t_html=page)
    assert opening(passage.markdown) == f"*{prose('c')}."


def test_html_between_two_lines_is_no_front_matter(read: Read) -> None:
    (passage,) = read(t_html=f"<hr><p>Note: {prose('a')}</p><hr><p>{prose('b')}</p>")
    assert passage.text == f"---\n\nNote: {prose('a')}\n\n---\n\n{prose('b')}"


def test_html_may_leave_out_end_tags(read: Read) -> None:
    page = (
        f"<p>{prose('a')}<p>{prose('b')}<ul><li>Lock the door.<li>Never share</ul>"
        "<table><tr><th>Port<th>Use<tr><td>22<td>ssh<tr><td>443<td>https</table>after"
    )
    (passage,) = read(t_html=page)
    assert passage.text == (
        f"{prose('a')}\n\n{prose('b')}\n\n* Lock the door.\n* Never share\n\n"
        "| Port | Use |\n| --- | --- |\n| 22 | ssh |\n| 443 | https |\n\nafter"
    )


def test_a_page_of_many_paragraphs_without_end_tags_is_read(read: Read) -> None:
    found = read(t_html="".join(f"<p>{prose(f'w{number}x')}" for number in range(1000)))
    assert " ".join(p.text for p in found).split() == [f"w{n}x{m}" for n in range(1000) for m in range(10)]


def test_declarations_programs_and_comments_in_html_are_no_text(read: Read) -> None:
    page = (
        '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "x.dtd">\n'
        '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>Site</title></head><body>\n'
        "<?php if ($a->b) { echo '<p>no</p>'; } ?>\n<?= $c->d ?><h1>Ports</h1><!-- no > --><![CDATA[a > <b>no</b>]]>"
        f"<?target no?><p>{prose('a')}<br/><a id='x'/>{prose('b')}</p></body></html>"
    )
    (passage,) = read(open_html=page)
    assert (passage.title, passage.text.split()) == ("Ports", f"{prose('a')} {prose('b')}".split())


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("2<sup>128</sup> keys", "2^128 keys"),
        ("10<sup>-9</sup> s", "10^-9 s"),
        ("x<sub>i</sub><sup>2</sup>", "x_i^2"),
        ("H<sub>2</sub>O, Ca<sup>2+</sup>", "H_2O, Ca^2+"),
        ("10<sub>2</sub>", "10_2"),
        ("2<sup> n + 1</sup>", "2^(n + 1)"),
        ("the 1<sup>st</sup> of <b>two</b><sup>TM</sup><sup>[1]</sup>", "the 1st of twoTM[1]"),
        ("<code>2<sup>8</sup></code>", "`2^8`"),
        ("a<sup> </sup>b<sub></sub>", "a b"),
        ("e<sup>x<sup>2</sup></sup>, m<sup>3 </sup>of", "e^(x^2), m^3 of"),
    ],
)
def test_what_is_raised_or_lowered_in_html_changes_no_number(page: str, text: str, read: Read) -> None:
    (passage,) = read(t_html=f"<h1>T</h1><h2>{page}</h2><p>{page} and {prose('a')}.</p>")
    assert passage.text == f"{text} and {prose('a')}."
    assert opening(passage.markdown) == passage.text
    assert passage.heading == text.strip("`")


def test_what_is_raised_or_lowered_in_markdown_changes_no_number_of_an_answer(read: Read) -> None:
    (passage,) = read(
        t_md="# T\n\n## 2<sup>8</sup>\n\n"
        f"The 1<sup>st</sup> is <b>2<sup>128</sup></b> or 10<SUB class='x'>2</SUB> {prose('a')}."
    )
    assert passage.heading == "2^8"
    assert opening(passage.markdown) == f"The 1st is 2^128 or 10_2 {prose('a')}."


@pytest.mark.parametrize("page", ["before <html><body>in it</body></html> after", "before <p>in it</p></body> after"])
def test_text_around_the_body_of_html_is_read(page: str, read: Read) -> None:
    (passage,) = read(t_html=page)
    assert passage.text.split() == ["before", "in", "it", "after"]


@pytest.mark.parametrize("tag", ["div", "blockquote", "b", "ul><li"])
def test_html_that_nests_too_deep_is_named(tag: str, tmp_path: Path) -> None:
    filled(tmp_path, a_md=prose("a"), deep_html=f"<{tag}>" * 3000 + prose("b"))
    assert refused(tmp_path) == "deep.html: nests its tags too deep to be read; close those that are left open"


# Text and JSON Lines


def test_a_text_file_has_no_headings(read: Read) -> None:
    text = f"# {prose('a')}\n\n{prose('b')}"
    (passage,) = read(open_ports_txt=f"{text}\n")
    assert passage == Passage("open-ports#overview", "open-ports", "open ports", "", escaped(text))
    assert passage.text == text


def test_a_text_file_has_no_markup(read: Read) -> None:
    """Manual pages and RFCs indent their prose."""
    text = f"Give <host> *the* [name](here).\n\n    1986. `{prose('a')}`.\n\n\t```\n\t> {prose('b')}."
    (passage,) = read(t_txt=text)
    assert passage.text == text
    assert opening(passage.markdown) == " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("1. Open the console\n2. Select the user\n3. Press reset and confirm\n\nPasswords expire in a year.",
         "Passwords expire in a year."),
        ("1. Open the console\n   of the server.\n2. Select the user\n3) Press reset. Confirm it",
         "1. Open the console of the server. 3) Press reset."),
        ("Do these in turn:\n- Lock the door\n- Close both of the windows.", "- Close both of the windows."),
        ("Do these in their order:\n3. Press reset and confirm", ""),
        ("Do these in their order.\n3. Press reset and confirm", "Do these in their order."),
        ("1.2. Open the console of it. Look\nb. Leave", "1.2. Open the console of it."),
        ("It has room for at most\n10. More are refused.", "It has room for at most 10. More are refused."),
        ("It was in the year\n1986. That is long ago.", "It was in the year 1986. That is long ago."),
        ("Which number do they dial? 1234.", "Which number do they dial? 1234."),
        ("It ended in May. 1986. That was the year.", "It ended in May. 1986. That was the year."),
        ("7.\n\nPasswords expire in a year.", "Passwords expire in a year."),
    ],
)  # fmt: skip
def test_an_answer_from_a_text_file_has_whole_sentences_of_its_lists(text: str, answer: str, read: Read) -> None:
    (passage,) = read(t_txt=text)
    assert opening(passage.markdown) == answer


def test_a_passage_does_not_end_with_the_number_of_what_follows(read: Read) -> None:
    found = read(40, t_txt=f"3. {prose('b', 40)}. {prose('c', 30)}")
    assert [p.text for p in found] == [f"3. {prose('b', 39)}", f"b39. {prose('c', 30)}"]


def test_a_noncharacter_in_a_document_is_told_from_an_escape(read: Read) -> None:
    found = read(a_md=f"\ufdd0{prose('a')}", b_html=f"<p>\U0001fffe{prose('b')}</p>")
    assert [passage.text for passage in found] == [f"\ufffd{prose('a')}", f"\ufffd{prose('b')}"]


def test_marks_in_a_heading_that_goes_before_a_text_are_no_markup_of_it(read: Read) -> None:
    (passage,) = read(t_md=f"# T\n\n## 1. Use \\*args\\*\n\nOr not.\n\n## More\n\n{prose('a')}.")
    assert passage.text == f"1. Use *args*\n\nOr not.\n\n{prose('a')}."
    assert opening(passage.markdown) == f"Or not. {prose('a')}."


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
        ("การเก็บบันทึก", "การเก็บบันทึก"), ("पासवर्ड", "पासवर्ड"), ("Re\u0301sume\u0301", "résumé"), ("İ", "i̇"),
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


@pytest.mark.parametrize("ending", ["md", "html", "txt"])
def test_sentences_are_sentences_also_where_text_is_escaped(ending: str, read: Read) -> None:
    first = [f"{prose(name, 18)} end." for name in "abc"]
    found = read(40, **{f"t_{ending}": " ".join(first)})
    assert [p.text for p in found] == [f"{first[0]} {first[1]}", first[2]]


@pytest.mark.parametrize("ending", ["md", "html", "txt"])
def test_chinese_is_cut_between_sentences_too(ending: str, read: Read) -> None:
    """A character counts as a word, and no stop needs a space behind it."""
    sentences = [chr(0x4E00 + number) * 17 + stop for number, stop in enumerate("。！？")]
    found = read(40, **{f"t_{ending}": "".join(sentences)})
    assert [p.text for p in found] == [f"{sentences[0]}{sentences[1]}", sentences[2]]
    assert opening(found[0].markdown) == found[0].text


def test_a_chinese_answer_is_of_whole_sentences_without_the_breaks_of_lines(read: Read) -> None:
    (passage,) = read(
        t_md="# 手册\n\n## 备份\n\n每天晚上\n备份（保留30天）。之后自动删除！\n\n脚本在a.b上运行吗？是的，还有"
    )
    assert opening(passage.markdown) == "每天晚上备份（保留30天）。之后自动删除！脚本在a.b上运行吗？"


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
    assert refused(tmp_path) == "b.md: is not UTF-8 text: byte 2: invalid start byte; save it as UTF-8"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "b"}', "kb.jsonl:2:1: is an object without a `text`; expected {id, title, text}"),
        (b'{"text": 5}', "kb.jsonl:2:1: is an object without a `text`; expected {id, title, text}"),
        (
            b'{"text": "a", "content": "b"}',
            "kb.jsonl:2:1: `content` is not read; near: `text`; call it so, join them, or leave it out",
        ),
        (b'{"id": "", "text": "b"}', "kb.jsonl:2:1: `id` is empty; leave it out, or give it a value"),
        (b'{"id": true, "text": "b"}', "kb.jsonl:2:1: `id` is a truth value; expected text or a whole number"),
        (b'{"id": {"a": 1}, "text": "b"}', "kb.jsonl:2:1: `id` is an object; expected text or a whole number"),
        (b'{"title": 7, "text": "b"}', "kb.jsonl:2:1: `title` is a number; expected text"),
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


def test_a_placeholder_in_markdown_is_no_tag(tmp_path: Path) -> None:
    """HTML has no such element: a reader of the page means the words."""
    words = "Replace <host> by the <b>name</b> of the server and <port-2> by its number."
    text = f"# Set up\n\n## Using <token>\n\n{words}\n"
    filled(tmp_path, a_md=text)
    ((passage,), _) = read_passages(str(tmp_path), 300)
    assert (passage.id, passage.heading) == ("a#using-token", "Using <token>")
    assert opening(passage.markdown) == words.replace("<b>name</b>", "name")
