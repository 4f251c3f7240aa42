"""Files -> raw rows: each kind of file, and each way that one can be damaged, named with its place."""

import gzip
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch.errors import DataError, ExitCode
from tests.training.data.data_files import ENDINGS, compressed, content, written
from training.data.rows.formats import to_sample
from training.data.rows.problems import KINDS, RowError
from training.data.rows.raw import RawRow
from training.data.rows.sources import files_of, not_read, rows_of

ROWS = [{"id": "a", "text": 'One, "two"\nthree é'}, {"id": "b", "text": "Four"}]


def read(path: Path) -> list[tuple[int, Any]]:
    """(line, row, or what is wrong with it with its column)."""
    return [(row.line, outcome(row)) for row in rows_of(str(path))]


def outcome(row: Any) -> Any:
    try:
        return row.read()
    except RowError as error:
        return error.kind, str(error), error.column


def of_bytes(path: Path, raw: bytes) -> list[tuple[int, Any]]:
    path.write_bytes(raw)
    return read(path)


def refused(source: object) -> str:
    with pytest.raises(DataError) as caught:
        [list(rows_of(file)) for file in files_of(str(source))]
    assert caught.value.exit_code == ExitCode.DATA
    return str(caught.value).replace(str(source), "SOURCE")


# Each kind of file


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_kind_of_file_gives_the_same_rows(ending: str, tmp_path: Path) -> None:
    path = written(tmp_path / f"rows{ending}", *ROWS)
    assert files_of(str(path)) == [str(path)]
    assert [row for _, row in read(path)] == ROWS


def test_a_line_is_that_of_the_text_or_the_number_of_the_row(tmp_path: Path) -> None:
    starts = {ending: [line for line, _ in read(written(tmp_path / f"r{ending}", *ROWS))] for ending in ENDINGS[::3]}
    # In the .csv the first row's text goes over two lines, in the .json each row over four.
    assert starts == {".jsonl": [1, 2], ".json": [2, 6], ".csv": [2, 4], ".parquet": [1, 2]}


def test_empty_lines_are_no_rows_and_are_counted(tmp_path: Path) -> None:
    assert of_bytes(tmp_path / "a.jsonl", b'\n{"a": 1}\r\n  \n{"a": 2}') == [(2, {"a": 1}), (4, {"a": 2})]
    assert of_bytes(tmp_path / "a.csv", b"a\n\n\nx\n") == [(4, {"a": "x"})]


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    assert of_bytes(tmp_path / "a.jsonl", mark + b'{"a": 1}\n') == [(1, {"a": 1})]
    assert of_bytes(tmp_path / "a.json", mark + b'[{"a": 1}]') == [(1, {"a": 1})]
    assert of_bytes(tmp_path / "a.csv", mark + b"a,b\n1,2\n") == [(2, {"a": "1", "b": "2"})]


def test_json_lines_under_the_name_of_json(tmp_path: Path) -> None:
    assert of_bytes(tmp_path / "a.json", b'{"a": 1}\n{"a": 2}\n') == [(1, {"a": 1}), (2, {"a": 2})]


def test_cells_and_values_that_are_empty_are_no_fields(tmp_path: Path) -> None:
    assert of_bytes(tmp_path / "a.csv", b"a,b,c\n1,,\n2\n") == [(2, {"a": "1"}), (3, {"a": "2"})]
    assert read(written(tmp_path / "a.parquet", {"a": "x", "b": None}, {"a": None, "b": "y"})) == [
        (1, {"a": "x"}),
        (2, {"b": "y"}),
    ]


def test_a_compressed_file_of_several_parts_is_read_to_its_end(tmp_path: Path) -> None:
    for packed in ("gz", "zst"):
        parts = compressed(b'{"a": 1}\n', packed) + compressed(b'{"a": 2}\n', packed)
        assert of_bytes(tmp_path / f"a.jsonl.{packed}", parts) == [(1, {"a": 1}), (2, {"a": 2})]


# Sources of several files


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    """Rows are read more than once: to check them, and to make tokens of them."""
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="is a pipe or a device, which gives its rows once: write them into a file"):
        files_of(str(tmp_path / "rows.jsonl"))


def test_a_folder_is_all_its_data_files_sorted_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.jsonl", "a.csv.gz", "deep/c.parquet", "D.JSONL"):
        (tmp_path / name).write_bytes(b"")
    for name in ("README.md", "a.zip", "notes.gz"):
        (tmp_path / name).write_bytes(b"")
    found = [str(Path(file).relative_to(tmp_path)) for file in files_of(str(tmp_path))]
    assert found == ["D.JSONL", "a.csv.gz", "b.jsonl", "deep/c.parquet"]


def test_a_glob_is_the_files_that_match(tmp_path: Path) -> None:
    for name in ("part-2.jsonl", "part-1.jsonl", "other.jsonl"):
        (tmp_path / name).write_bytes(b"")
    assert files_of(str(tmp_path / "part-*.jsonl")) == [str(tmp_path / "part-1.jsonl"), str(tmp_path / "part-2.jsonl")]


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder with a link out of it, two that lead in a circle, one to a folder beside it and one to nothing."""
    for name in ("rows/sub/a.jsonl", "elsewhere/b.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")
    rows = tmp_path / "rows"
    (rows / "0-same").symlink_to("sub")
    (rows / "more").symlink_to("../elsewhere")
    (rows / "sub" / "circle").symlink_to("..")
    (tmp_path / "elsewhere" / "circle").symlink_to("../rows")
    (rows / "nothing.jsonl").symlink_to("gone")
    return rows


def test_links_in_a_folder_are_followed_and_each_folder_is_read_once(linked: Path) -> None:
    assert files_of(str(linked)) == [str(linked / "more/b.jsonl"), str(linked / "sub/a.jsonl")]
    assert not_read(str(linked)) == [str(linked / "nothing.jsonl")]


def test_a_glob_ends_where_links_lead_in_a_circle(linked: Path) -> None:
    assert files_of(f"{linked}/**/[ab].jsonl") == [str(linked / "more/b.jsonl"), str(linked / "sub/a.jsonl")]
    assert files_of(f"{linked}/**") == [str(linked / "more/b.jsonl"), str(linked / "sub/a.jsonl")]


def test_folders_that_a_glob_matches_are_counted_as_not_read(tmp_path: Path) -> None:
    for name in ("sub/deep/b.jsonl", "other/c.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a.jsonl").write_bytes(b"")
    assert not_read(f"{tmp_path}/*") == [str(tmp_path / "other"), str(tmp_path / "sub")]
    assert not_read(f"{tmp_path}/**") == []


def test_a_hub_id_is_loaded_with_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load(name: str, split: str) -> list[dict[str, Any]]:
        asked.append((name, split))
        return [{"text": "x", "id": None}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert files_of("owner/name") == ["owner/name"]
    assert read(Path("owner/name:test")) == [(1, {"text": "x"})]
    assert read(Path("owner/name")) == [(1, {"text": "x"})]
    assert asked == [("owner/name", "test"), ("owner/name", "train")]


def test_a_hub_id_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(name: str, split: str) -> None:
        raise ConnectionError("offline\nwith details")

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert refused("owner/name") == (
        "SOURCE: is no file here, and the hub's data set owner/name cannot be loaded: ConnectionError: offline".replace(
            "owner/name", "SOURCE"
        )
    )


# Sources that are none


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.jsonl") == ("SOURCE: no such data file")


def test_a_relative_source_that_is_not_there_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        files_of("none.jsonl")
    assert str(caught.value) == f"none.jsonl: no such data file in {tmp_path}"


def test_a_folder_without_data(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("x")
    assert refused(tmp_path) == (
        "SOURCE: no data file in this folder; expected .jsonl, .ndjson, .json, .csv, .parquet,"
        " or one of these with .gz or .zst"
    )


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").write_text("x")
    assert refused(tmp_path / "rows.xlsx") == (
        "SOURCE: is none of .jsonl, .ndjson, .json, .csv, .parquet, or one of these with .gz or .zst;"
        " convert it, or rename it to what it is"
    )


def test_a_pattern_that_nothing_matches(tmp_path: Path) -> None:
    assert refused(tmp_path / "*.jsonl") == "SOURCE: no file matches this pattern"


# Files that are damaged


def test_not_json_is_named_with_its_line_and_column_and_the_others_are_read(tmp_path: Path) -> None:
    assert read(written(tmp_path / "a.jsonl", {"a": 1}, '{"question": "cut off', {"a": 3})) == [
        (1, {"a": 1}),
        (2, ("unreadable", "not JSON: Unterminated string starting at", 14)),
        (3, {"a": 3}),
    ]


def test_bytes_that_are_not_text_cost_their_line_alone(tmp_path: Path) -> None:
    assert of_bytes(tmp_path / "a.jsonl", b'{"a": "\xff"}\n{"a": 2}\n') == [
        (1, ("unreadable", "is not UTF-8 text: invalid start byte", 8)),
        (2, {"a": 2}),
    ]
    assert of_bytes(tmp_path / "a.json", b'[{"a": 1},\n{"a": "\xff"}]') == [
        (2, ("unreadable", "is not UTF-8 text: invalid start byte", 1)),
    ]


def test_json_without_end_in_depth_or_in_digits(tmp_path: Path) -> None:
    endless = ("unreadable", "not JSON that can be read: a number or a nesting without end", 1)
    assert of_bytes(tmp_path / "a.jsonl", b"[" * 100_000 + b"\n" + b"9" * 5000 + b"\n") == [(1, endless), (2, endless)]
    assert of_bytes(tmp_path / "a.json", b'[{"a": 1},\n' + b"[" * 100_000) == [
        (1, {"a": 1}),
        (2, ("unreadable", "not JSON that can be read; the rows after it are not read", 1)),
    ]


@pytest.mark.parametrize(
    ("raw", "line", "reason"),
    [
        (b'[{"a": 1}\n', 2, "Expecting ',' or ']'; the rows after it are not read"),
        (b'[{"a": 1},\n', 2, "Expecting value; the rows after it are not read"),
        (b'[{"a": 1}\n {"a": 2}]', 2, "Expecting ',' or ']'; the rows after it are not read"),
        (b'[{"a": 1},\n  nonsense]', 2, "Expecting value; the rows after it are not read"),
    ],
)
def test_an_array_is_read_up_to_its_damage(raw: bytes, line: int, reason: str, tmp_path: Path) -> None:
    first, (place, (kind, message, _)) = of_bytes(tmp_path / "a.json", raw)
    assert first == (1, {"a": 1})
    assert (place, kind, message) == (line, "unreadable", f"not JSON: {reason}")


def test_what_follows_an_array_is_not_left_out_in_silence(tmp_path: Path) -> None:
    """Two arrays in one file, as `cat a.json b.json` makes them."""
    rows = of_bytes(tmp_path / "a.json", b'[{"a": 1}]\n[{"a": 2}]\n')
    assert rows[0] == (1, {"a": 1})
    assert [(line, row[0]) for line, row in rows[1:]] == [(2, "unreadable")]


def test_csv_with_more_cells_than_names(tmp_path: Path) -> None:
    assert of_bytes(tmp_path / "a.csv", b"a,b\n1,2,3\n4,5\n") == [
        (2, ("unreadable", "has more cells than the header has names", 1)),
        (3, {"a": "4", "b": "5"}),
    ]


CUT_CSV = "not CSV: unexpected end of data; the rows after it are not read"


def test_csv_with_a_quote_that_is_not_closed(tmp_path: Path) -> None:
    assert of_bytes(tmp_path / "a.csv", b'a,b\n1,2\n3,"x\ny\n') == [
        (2, {"a": "1", "b": "2"}),
        (3, ("unreadable", CUT_CSV, 1)),
    ]
    assert of_bytes(tmp_path / "b.csv", b'a,b\n3,"x\ny\n') == [(2, ("unreadable", CUT_CSV, 1))]


def test_csv_that_is_not_utf_8_is_told_by_the_field(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text\nna\xefve\n".encode("latin-1"))
    (row,) = rows_of(str(tmp_path / "a.csv"))
    with pytest.raises(RowError) as caught:
        to_sample(row.read(), row.file, row.line, "auto", {})
    assert (caught.value.kind, str(caught.value)) == (
        "unreadable",
        "`text` holds half of a surrogate pair or a byte that is not UTF-8, which is no character",
    )


def test_parquet_that_is_cut_off(tmp_path: Path) -> None:
    whole = content(".parquet", ROWS)
    ((line, (kind, message, _)),) = of_bytes(tmp_path / "a.parquet", whole[: len(whole) // 2])
    assert (line, kind) == (1, "unreadable")
    assert message.startswith("not Parquet that can be read: ")
    assert message.endswith("; the rows after it are not read")
    assert of_bytes(tmp_path / "b.parquet", b"")[0][1][1] == (
        "not Parquet that can be read: Parquet file size is 0 bytes; the rows after it are not read"
    )


@pytest.mark.parametrize(
    ("name", "raw", "reason"),
    [
        ("a.jsonl.gz", b'{"a": 1}\n', "zlib inflate failed: incorrect header check"),
        ("b.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-9], "Truncated compressed stream"),
        ("c.jsonl.zst", b'{"a": 1}\n', "ZSTD decompress failed: Unknown frame descriptor"),
        ("d.jsonl.zst", compressed(b'{"a": 1}\n' * 99, "zst")[:-3], "Truncated compressed stream"),
    ],
)
def test_compressed_files_that_are_damaged_or_not_complete(name: str, raw: bytes, reason: str, tmp_path: Path) -> None:
    """The rows before the damage are read, and how many were lost nobody knows."""
    (tmp_path / name).write_bytes(raw)
    *before, last = rows_of(str(tmp_path / name))
    assert (str(last.error), last.last) == (f"cannot be read: {reason}; the rows after it are not read", True)
    assert last.line == len(before) + 1
    assert all(row.read() == {"a": 1} for row in before)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"m": [{"b": 1, "b": 2}]}'])
def test_a_key_that_stands_twice_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(text + '\n{"a": 1}\n')
    first, second = rows_of(str(tmp_path / "a.jsonl"))
    with pytest.raises(RowError, match=r"has `[ab]` twice; only one could be read"):
        first.read()
    assert second.read() == {"a": 1}
    (tmp_path / "b.json").write_text(f'[{text}, {{"a": 1}}]')
    first, second = rows_of(str(tmp_path / "b.json"))
    assert "twice" in str(first.error)
    assert second.read() == {"a": 1}


def test_keys_that_parquet_adds_to_nested_objects_are_not_there(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [{"calls": [{"arguments": {"city": "Rome"}}]}, {"calls": [{"arguments": {"n": 3}}]}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert [row.read() for row in rows_of(str(tmp_path / "a.parquet"))] == rows


PARQUET = content(".parquet", [{"a": 1}])
UTF_16 = "is UTF-16 text: save it as UTF-8"
ARCHIVE = "is a ZIP archive or a workbook: unpack it, or save its sheet as CSV"


@pytest.mark.parametrize("form", [".jsonl", ".json", ".csv"])
@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (PARQUET, "is a .parquet file: let its name end so"),
        (compressed(b'{"a": 1}\n', "gz"), "is a .gz file: let its name end so"),
        (compressed(b'{"a": 1}\n', "zst"), "is a .zst file: let its name end so"),
        (b"PK\x03\x04...", ARCHIVE),
        ('\ufeff{"a": 1}\n'.encode("utf-16-le"), UTF_16),
        ('\ufeff{"a": 1}\n'.encode("utf-16-be"), UTF_16),
        ('{"a": 1}\n'.encode("utf-16-le"), "has zero bytes, as UTF-16 text has: save it as UTF-8"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_named(form: str, raw: bytes, what: str, tmp_path: Path) -> None:
    for packed in ("", ".gz", ".zst"):
        path = tmp_path / f"a{form}{packed}"
        path.write_bytes(compressed(raw, packed.removeprefix(".")))
        (row,) = rows_of(str(path))
        assert (str(row.error), row.line, row.last) == (f"{what}; no row is read", 1, True)


# Any bytes whatever


def told(row: RawRow, form: str = "auto") -> bool:
    """Whether a raw row is a sample, or says what is wrong with it."""
    try:
        return to_sample(row.read(), row.file, row.line, form, {}).line == row.line
    except RowError as error:
        return error.kind in KINDS and bool(str(error))


def survives(path: Path) -> bool:
    """Rows, each one told, or one error that names the file."""
    try:
        return all(told(row) and row.line >= 1 for row in rows_of(str(path)))
    except DataError as error:
        return str(error).startswith(f"{path}: ")


FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FRAGMENTS = st.lists(
    st.sampled_from(
        ['"text"', '"documents"', '"question"', '"answer"', '"messages"', '"history"', '"instruction"', '"output"',
         "[", "]", "{", "}", ":", ",", "\n", "1", "null", "true", '"x"', '"\\ud800"', '"role"', '"user"', "\x00", '"']
    ), max_size=30,
).map("".join)  # fmt: skip
VALID = [
    {"id": str(number), "question": f"Which {number}?", "answer": "é" * number, "documents": ["a", "b"]}
    for number in range(1, 12)
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ending", ENDINGS)
@FUZZ
@given(raw=st.binary(max_size=300) | FRAGMENTS.map(str.encode))
def test_any_bytes_give_rows_or_a_named_error(ending: str, raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"fuzz{ending}"
    path.write_bytes(raw)
    assert survives(path)
    if ending.endswith((".gz", ".zst")):  # the same, inside a compression that is whole
        path.write_bytes(compressed(raw, ending.rsplit(".", 1)[1]))
        assert survives(path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ending", ENDINGS)
@FUZZ
@given(place=st.floats(0, 1, exclude_max=True), flipped=st.integers(1, 255))
def test_a_byte_of_a_good_file_flipped(ending: str, place: float, flipped: int, tmp_path: Path) -> None:
    raw = bytearray(content(ending, VALID))
    raw[int(place * len(raw))] ^= flipped
    path = tmp_path / f"flipped{ending}"
    path.write_bytes(raw)
    assert survives(path)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", " ", "x", "\ud800", "[1", "{}"])
# A row of each format, and the keys that its reader looks at.
FIELDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "rag": (
        {"question": "q", "documents": ["d"], "answer": "a"},
        ["id", "question", "documents", "contexts", "answer", "oracle", "oracles", "text", "title"],
    ),
    "raft": (
        {"question": "q", "context": ["d"], "cot_answer": "a"},
        ["question", "context", "oracle_context", "cot_answer", "sentences"],
    ),
    "messages": (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        ["messages", "tools", "role", "content", "tool_calls", "function", "name", "arguments", "type", "text"],
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        ["conversations", "system", "tools", "from", "value"],
    ),
    "alpaca": ({"instruction": "q", "output": "a"}, ["instruction", "input", "output", "history", "system"]),
    "text": ({"text": "t"}, ["id", "text"]),
}
ROLES = ["user", "assistant", "system", "tool", "human", "gpt", "function_call", "observation"]
PLAIN = [None, True, 5, 1.5, "", " ", "x", "[1", "{}", '{"name": "f"}', [], [None], {}, *ROLES]
LEAVES = st.sampled_from(PLAIN)


@pytest.mark.parametrize("form", FIELDS)
def test_a_plain_value_in_any_field_gives_a_sample_or_a_named_error(form: str) -> None:
    row, keys = FIELDS[form]
    for key in keys:
        for value in PLAIN:
            assert told(RawRow("f", 1, value=row | {key: value}), form), (key, value)


@pytest.mark.parametrize("form", FIELDS)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_values_in_the_fields_of_a_format_give_a_sample_or_a_named_error(form: str, data: st.DataObject) -> None:
    row, keys = FIELDS[form]
    names = st.sampled_from(keys)
    values = LEAVES | st.recursive(
        LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=6
    )
    changed = row | data.draw(st.dictionaries(names, values, min_size=1, max_size=2))
    assert told(RawRow("f", 1, value=changed), "auto")
    assert told(RawRow("f", 1, value=changed), form)
