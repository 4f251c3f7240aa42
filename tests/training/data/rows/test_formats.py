"""Raw rows -> samples: what each format's row becomes, and why one cannot be used."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tests.training.data.data_files import ENDINGS, written
from training.data.rows.formats import FORMATS, detect, to_sample
from training.data.rows.problems import RowError
from training.data.rows.samples import SYSTEM, Document, Message, Sample
from training.data.rows.sources import rows_of

RAG = {
    "id": "q1",
    "question": "Which port?",
    "documents": [{"id": "net-1", "title": "Ports", "text": "HTTPS uses 443."}, {"text": "Plain text."}],
    "answer": "443 [net-1].",
}
RAFT = {
    "id": "q1",
    "question": "Which port?",
    "context": {"title": [["placeholder"] * 2], "sentences": [["SSH uses 22.", "HTTPS uses 443."]]},
    "oracle_context": "HTTPS uses 443.",
    "cot_answer": "##Answer: 443",
}
USER: Message = {"role": "user", "content": "Hello"}
ASSISTANT: Message = {"role": "assistant", "content": "Hi"}
CHAT = {"id": "q1", "messages": [USER, ASSISTANT]}
ARGUMENTS = '{"host": "a.b", "port": 443}'
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "lookup", "arguments": {"host": "a.b", "port": 443}},
}
TOOL = {"type": "function", "function": {"name": "lookup", "description": "Looks up a host."}}
TOOL_CHAT = {
    "id": "q1",
    "tools": [TOOL],
    "messages": [
        {"role": "user", "content": "Is it up?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "lookup", "arguments": ARGUMENTS}}
            ],
        },
        {"role": "tool", "content": "up", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "Yes."},
    ],
}
SHAREGPT = {
    "id": "q1",
    "system": "Be brief.",
    "tools": '[{"name": "lookup", "description": "Looks up a host."}]',
    "conversations": [
        {"from": "human", "value": "Is it up?"},
        {"from": "function_call", "value": '{"name": "lookup", "arguments": {"host": "a.b", "port": 443}}'},
        {"from": "observation", "value": "up"},
        {"from": "gpt", "value": "Yes."},
    ],
}
ALPACA = {"id": "q1", "instruction": "Translate.", "input": "Hallo", "output": "Hello"}
TEXT = {"id": "q1", "text": "All of this."}
# A row of each format, and the sample that it is: turns, documents, tools, text.
EXAMPLES: dict[str, tuple[dict[str, Any], Sample]] = {
    "rag": (
        RAG,
        Sample(
            "q1", "f", 1,
            messages=(
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": "Question: Which port?"},
                {"role": "assistant", "content": "443 [net-1]."},
            ),
            documents=(Document("net-1", "Ports\nHTTPS uses 443."), Document("2", "Plain text.")),
        ),
    ),
    "raft": (
        RAFT,
        Sample(
            "q1", "f", 1,
            messages=(
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": "Question: Which port?"},
                {"role": "assistant", "content": "##Answer: 443"},
            ),
            documents=(Document("1", "SSH uses 22.", oracle=False), Document("2", "HTTPS uses 443.", oracle=True)),
        ),
    ),
    "messages": (
        TOOL_CHAT,
        Sample(
            "q1", "f", 1,
            messages=(
                {"role": "user", "content": "Is it up?"},
                {"role": "assistant", "content": "", "tool_calls": [CALL]},
                {"role": "tool", "content": "up", "tool_call_id": "call_1"},
                {"role": "assistant", "content": "Yes."},
            ),
            tools=(TOOL,),
        ),
    ),
    "sharegpt": (
        SHAREGPT,
        Sample(
            "q1", "f", 1,
            messages=(
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Is it up?"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{key: value for key, value in CALL.items() if key != "id"}],
                },
                {"role": "tool", "content": "up"},
                {"role": "assistant", "content": "Yes."},
            ),
            tools=(TOOL,),
        ),
    ),
    "alpaca": (
        ALPACA,
        Sample(
            "q1", "f", 1,
            messages=({"role": "user", "content": "Translate.\nHallo"}, {"role": "assistant", "content": "Hello"}),
        ),
    ),
    "text": (TEXT, Sample("q1", "f", 1, text="All of this.")),
}  # fmt: skip


def sample(row: Any, form: str = "auto", **columns: str) -> Sample:
    return to_sample(row, "f", 1, form, columns)


def refused(row: Any, form: str = "auto", **columns: str) -> tuple[str, str]:
    with pytest.raises(RowError) as caught:
        sample(row, form, **columns)
    return caught.value.kind, str(caught.value)


# Every format from every kind of file


def test_there_is_an_example_of_every_format() -> None:
    assert tuple(EXAMPLES) == FORMATS


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_from_every_kind_of_file(form: str, ending: str, tmp_path: Path) -> None:
    row, expected = EXAMPLES[form]
    (raw,) = rows_of(str(written(tmp_path / f"rows{ending}", row)))
    assert to_sample(raw.read(), "f", 1, "auto", {}) == expected
    assert to_sample(raw.read(), "f", 1, form, {}) == expected


# What a row becomes


def test_documents_stand_before_the_question_under_their_ids() -> None:
    assert sample(RAG).conversation == [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "[net-1] Ports\nHTTPS uses 443.\n\n[2] Plain text.\n\nQuestion: Which port?"},
        {"role": "assistant", "content": "443 [net-1]."},
    ]
    assert sample(RAG).answer == "443 [net-1]."


def test_a_row_without_id_is_named_by_its_line_and_one_of_several_files_by_its_file_too() -> None:
    row = {"text": "x"}
    assert to_sample(row, "f", 7, "auto", {}).id == "7"
    assert to_sample(row, "f", 7, "auto", {}, "f:7").id == "f:7"
    assert to_sample({"id": 12, **row}, "f", 7, "auto", {}, "f:7").id == "12"


def test_documents_may_be_called_contexts() -> None:
    row = {"question": "a", "contexts": ["x", "y"], "answer": "b"}
    assert sample(row).documents == (Document("1", "x"), Document("2", "y"))
    assert sample({**row, "documents": None}).documents == (Document("1", "x"), Document("2", "y"))


def test_a_document_whose_id_is_null_is_named_by_its_number() -> None:
    """Parquet writes null where one of the documents has an id and another has none."""
    row = {**RAG, "documents": [{"id": "a", "text": "x"}, {"id": None, "title": None, "text": "y"}]}
    assert [document.id for document in sample(row).documents] == ["a", "2"]


@pytest.mark.parametrize("given", ["net-1", ["net-1"], '["net-1"]'])
def test_oracle_ids_tell_the_documents_that_the_answer_rests_on(given: object) -> None:
    for key in ("oracle", "oracles"):
        assert [document.oracle for document in sample({**RAG, key: given}).documents] == [True, False]


def test_without_its_oracles_a_row_has_distractors_alone() -> None:
    """The 1 - p of RAFT: the documents that hold the answer were left out on purpose."""
    row = {**RAG, "answer": "Nobody says.", "oracle": ["net-9"]}
    assert [document.oracle for document in sample(row).documents] == [False, False]


def test_an_oracle_that_is_not_there_beside_an_answer_that_cites_one_is_a_mistake() -> None:
    assert refused({**RAG, "oracle": ["net-9"]}) == (
        "field", "`oracle` names net-9, none of the documents, but the answer cites net-1"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ([{"id": "net-1"}], "an object"), (True, "a truth value"), ([None], "null"), ([["net-1"]], "a list"),
        ([1.5], "a number"), ("", "an empty text"), (["net-1", ""], "an empty text"),
    ],
)  # fmt: skip
def test_an_oracle_that_is_no_id_is_no_oracle_that_was_held_back(given: object, what: str) -> None:
    """Else the document that it means would be left out as a distractor."""
    told = f"`oracle` holds {what}; expected ids of documents, [] where none answers"
    assert refused({**RAG, "oracle": given}) == ("field", told)


def test_oracles_under_two_names_are_refused() -> None:
    row = {**RAG, "oracle": ["net-1"], "oracles": ["net-2"]}
    assert refused(row) == ("field", "has both `oracle` and `oracles`: only one is read; join them")


def test_the_oracle_of_raft_is_text() -> None:
    told = "`oracle_context` is a list; expected the passage as text"
    assert refused({**RAFT, "oracle_context": ["HTTPS uses 443."]}) == ("field", told)


def test_raft_knows_its_oracle_among_the_passages() -> None:
    assert sample({**RAFT, "context": ["x", " HTTPS uses 443. "]}).documents == (
        Document("1", "x", oracle=False),
        Document("2", "HTTPS uses 443.", oracle=True),
    )
    assert sample({**RAFT, "oracle_context": None}).documents[0].oracle is None


def test_other_names_of_the_same_roles() -> None:
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Up?"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
        {"role": "function", "name": "f", "content": "up"},
        {"role": "assistant", "content": "Yes."},
    ]
    assert [message["role"] for message in sample({"messages": turns}).messages] == [
        "system", "user", "assistant", "tool", "assistant",
    ]  # fmt: skip
    assert sample({"messages": turns}).messages[3]["name"] == "f"


def test_content_in_parts_of_text_is_joined() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert sample({"messages": [{"role": "user", "content": parts}, ASSISTANT]}).messages[0]["content"] == "Hello"


def test_thoughts_are_kept() -> None:
    turns = [USER, {**ASSISTANT, "reasoning_content": "They greet."}]
    assert sample({"messages": turns}).messages[1]["reasoning_content"] == "They greet."


def test_thoughts_in_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "They "}, {"type": "text", "text": "greet."}]
    turns = [USER, {**ASSISTANT, "reasoning_content": parts}]
    assert sample({"messages": turns}).messages[1]["reasoning_content"] == "They greet."


UNREAD = {
    "thoughts that are no text": ({"reasoning_content": 5}, "`reasoning_content` is a number; expected text"),
    "thoughts with a picture": (
        {"reasoning_content": [{"type": "image"}]},
        "`reasoning_content` has parts that are not text; only text can be trained on",
    ),
    "a number for a name": ({"name": 5}, "`name` is a number; expected text"),
    "a weight": ({"weight": 0}, "`weight` 0 is not read: every answer is trained on; split the row"),
    "thoughts of another name": (
        {"thinking": "x"}, "`thinking` is not read; call it `reasoning_content`, or leave it out",
    ),
    "a long text": (
        {"plan": "First I say hello, then I wait for what comes."},
        "`plan` is not read; near: `{main}`; call it so, join them, or leave it out",
    ),
    "parameters": (
        {"tool_calls": [{"name": "f", "parameters": {"a": 1}}]},
        "call of f: `parameters` is not read; call it `arguments`",
    ),
    "an input": (
        {"tool_calls": [{"function": {"name": "f", "input": "{}"}}]},
        "call of f: `input` is not read; call it `arguments`",
    ),
    "an input beside the function": (
        {"tool_calls": [{"function": {"name": "f"}, "input": {"a": 1}}]},
        "call of f: `input` is not read; call it `arguments`",
    ),
    "arguments beside the function": (
        {"tool_calls": [{"function": {"name": "f"}, "arguments": {"a": 1}}]},
        "call of f: `arguments` beside `function` is not read; put it there",
    ),
    "another name beside the function": (
        {"tool_calls": [{"function": {"name": "f"}, "name": "g"}]},
        "call of f: `name` beside `function` is not read; put it there",
    ),
    "a number for a call's id": (
        {"tool_calls": [{"id": 7, "function": {"name": "f"}}]}, "call of f: `id` is a number; expected text",
    ),
    "arguments with a letter left out": (
        {"tool_calls": [{"name": "f", "argument": {"a": 1}}]},
        "call of f: `argument` is not read; near: `arguments`; call it so, join them, or leave it out",
    ),
    "arguments in a list": (
        {"tool_calls": [{"name": "f", "arguments": [1]}]}, "the arguments of f are a list; expected an object",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", UNREAD)
def test_what_would_be_lost_of_a_turn_is_refused_by_messages_and_sharegpt_alike(what: str) -> None:
    keys, message = UNREAD[what]
    row: dict[str, Any] = {"messages": [USER, {**ASSISTANT, **keys}]}
    assert refused(row) == ("field", f"message 2: {message.replace('{main}', 'content')}")
    row = {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi", **keys}]}
    assert refused(row) == ("field", f"turn 2: {message.replace('{main}', 'value')}")


def test_a_turn_of_sharegpt_has_thoughts_and_calls_as_a_message_has() -> None:
    more = {"reasoning_content": "They ask.", "weight": 1, "tool_calls": [CALL]}
    answers = [{"from": "tool", "value": "1", "tool_call_id": "call_1"}, {"from": "gpt", "value": "a"}]
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "I look.", **more}, *answers]
    _, asked, found, _ = sample({"conversations": turns}).messages
    assert asked == {"role": "assistant", "content": "I look.", "reasoning_content": "They ask.", "tool_calls": [CALL]}
    assert found["tool_call_id"] == "call_1"


def test_what_is_asked_may_have_no_weight_for_it_is_never_trained_on() -> None:
    turns = [{"from": "human", "value": "q", "weight": 0.0}, {"from": "gpt", "value": "a", "weight": 1.0}]
    assert sample({"conversations": turns}).answer == "a"


def test_a_turn_of_sharegpt_has_its_calls_in_one_place() -> None:
    call = {"from": "function_call", "value": '{"name": "f"}', "tool_calls": [CALL]}
    told = "turn 2: has more calls than its `value`: only these are read; join them"
    assert refused({"conversations": [{"from": "human", "value": "q"}, call]}) == ("field", told)


def test_several_calls_in_one_turn() -> None:
    value = '[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]'
    turns = [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": value},
        {"from": "observation", "value": "1"},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "a"},
    ]
    calls = sample({"conversations": turns}).messages[1]["tool_calls"]
    assert [call["function"] for call in calls] == [
        {"name": "f", "arguments": {"a": 1}},
        {"name": "g", "arguments": {}},
    ]


def test_alpaca_with_a_system_turn_and_earlier_turns() -> None:
    row = {**ALPACA, "input": "", "system": "Be brief.", "history": [["One?", "1"], ["Two?", "2"]]}
    assert [(message["role"], message["content"]) for message in sample(row).messages] == [
        ("system", "Be brief."),
        ("user", "One?"),
        ("assistant", "1"),
        ("user", "Two?"),
        ("assistant", "2"),
        ("user", "Translate."),
        ("assistant", "Hello"),
    ]


# Which format it is


@pytest.mark.parametrize("form", FORMATS)
def test_the_keys_tell_the_format(form: str) -> None:
    assert detect(EXAMPLES[form][0]) == form


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ALPACA, "text": "t"}, "can be read as alpaca or as text: say which with data.format"),
        ({**RAG, **RAFT}, "can be read as rag or as raft: say which with data.format"),
        (
            {"question": "q", "answer": "a"},
            "its keys are 'question', 'answer'; it lacks `documents` or `contexts` to be rag:"
            " name its columns with data.columns, or its data.format",
        ),
        (
            {"prompt": "q", "response": "a"},
            "its keys are 'prompt', 'response'; expected one of rag, raft, messages, sharegpt, alpaca, text:"
            " name its columns with data.columns, or its data.format",
        ),
        (
            {},
            "its keys are none; expected one of rag, raft, messages, sharegpt, alpaca, text:"
            " name its columns with data.columns, or its data.format",
        ),
    ],
)
def test_where_the_keys_do_not_tell_it_says_so_and_asks(row: dict[str, Any], message: str) -> None:
    assert refused(row) == ("format", message)


def test_saying_which_settles_it() -> None:
    both = {**ALPACA, "text": "t"}
    assert sample(both, "text").text == "t"
    assert sample(both, "alpaca").answer == "Hello"


def test_a_key_without_a_value_does_not_count() -> None:
    assert detect({"text": None, **CHAT}) == "messages"


# Columns of other names


def test_columns_of_other_names() -> None:
    row = {"prompt": "Which port?", "passages": ["HTTPS uses 443."], "reply": "443 [1].", "key": "q1"}
    found = sample(row, question="prompt", documents="passages", answer="reply", id="key")
    assert found == sample(
        {"id": "q1", "question": "Which port?", "documents": ["HTTPS uses 443."], "answer": "443 [1]."}
    )


def test_a_named_column_beside_one_that_has_muster_s_name_is_told() -> None:
    assert refused({"text": "old", "new": "new"}, text="new") == (
        "field", "has both `text` and `new`, which data.columns maps to it"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("row", "form", "other"),
    [
        ({"text": "x", "prompt": "p"}, "text", "'prompt'"),
        ({"messages": CHAT["messages"], "documents": ["d"]}, "messages", "'documents'"),
    ],
)
def test_a_format_that_would_pass_over_a_field_is_asked_about(row: dict[str, Any], form: str, other: str) -> None:
    kind, message = refused(row)
    assert (kind, message.startswith(f"reads like {form}, but {other} would not be read")) == ("format", True)


def test_what_is_said_about_a_document_or_a_turn_may_stay() -> None:
    about = {"source": "The handbook of the gateway, third edition, page 12.", "url": "https://a.b", "score": 0.5,
             "metadata": {"page": 1}, "lang": "en", "body": None}  # fmt: skip
    document = {"id": "net-1", "title": "Ports", "text": "HTTPS uses 443."}
    assert sample({**RAG, "documents": [{**document, **about}]}).documents == (
        Document("net-1", "Ports\nHTTPS uses 443."),
    )
    refusal = {"refusal": None, "annotations": [], "function_call": None, "tool_calls": []}
    assert sample({"messages": [USER, {**ASSISTANT, **about, **refusal}]}).answer == "Hi"


@pytest.mark.parametrize(
    ("oracle", "near"),
    [("net-tsl", True), ("net_tls", True), ("NET-TLS", True), ("net-ttls", True), ("nt-tls", True), ("net-tcp", False),
     ("net-tlx", False), ("net-tls-2", False), ("net-tl", False), ("net-9", False), ("ten-sports", False),
     ("n-ettls", False)],
)  # fmt: skip
def test_an_oracle_that_was_held_back_is_no_mistyped_one(oracle: str, near: bool) -> None:
    row = {**RAG, "documents": [{"id": "net-tls", "text": "x"}], "answer": "Nobody says.", "oracle": [oracle]}
    if near:
        assert refused(row)[1] == f"`oracle` names {oracle}, which is not among the documents; near: net-tls"
    else:
        assert [document.oracle for document in sample(row).documents] == [False]


def test_documents_as_other_libraries_call_their_text() -> None:
    row = {**RAG, "documents": [{"id": "net-1", "page_content": "HTTPS uses 443."}]}
    assert sample(row).documents[0].text == "HTTPS uses 443."


def test_a_document_may_have_the_number_0_as_its_id() -> None:
    row = {**RAG, "documents": [{"id": 0, "text": "x"}], "answer": "x [0]."}
    assert sample(row).documents == (Document("0", "x"),)


def test_two_documents_of_one_id_are_refused() -> None:
    document = {"id": "net-1", "text": "x"}
    assert refused({**RAG, "documents": [document, document]}) == (
        "field", "two documents are called 'net-1': a citation could not tell them apart"
    )  # fmt: skip


def test_the_call_of_before_there_were_several_survives() -> None:
    call = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    turns = [USER, call, {"role": "function", "name": "f", "content": "1"}, ASSISTANT]
    assert sample({"messages": turns}).messages[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}


def test_a_row_without_any_of_the_named_columns() -> None:
    assert refused({"text": "x"}, question="prompt", answer="reply") == (
        "field",
        "has none of the columns of data.columns (prompt, reply)",
    )


# Rows that cannot be used


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ([1], "field", "is a list, not an object"),
        (None, "field", "is null, not an object"),
        ({**TEXT, "id": 1.5}, "field", "`id` is a number; expected text or a whole number"),
        ({**TEXT, "id": []}, "field", "`id` is a list; expected text or a whole number"),
        ({**TEXT, "text": " \n"}, "field", "`text` is empty"),
        ({**RAG, "answer": " "}, "field", "`answer` is empty"),
        ({**RAG, "question": 7}, "field", "`question` is a number; expected text"),
        ({**RAG, "question": b"Who?"}, "field", "`question` is bytes; expected text"),
        ({**RAG, "question": date(2024, 1, 1)}, "field", "`question` is a date; expected text"),
        ({**RAG, "question": True}, "field", "`question` is a truth value; expected text"),
        ({**RAG, "documents": "x"}, "field", "`documents` is missing, empty or not a list"),
        ({**RAG, "documents": []}, "field", "`documents` is missing, empty or not a list"),
        (
            {**RAG, "documents": ["a"], "contexts": ["b"]},
            "field", "has both `documents` and `contexts`: only one is read; join them",
        ),
        (
            {**RAG, "documents": ["a", "b"], "oracle": [0]},
            "field", "`oracle` names 0; these documents are numbered from 1 to 2",
        ),
        (
            {**RAG, "documents": [{"id": " ", "text": "a"}]},
            "field", "document 1: `id` is empty; leave it out, or give it a value",
        ),
        (
            {**RAG, "documents": [{"id": True, "text": "a"}]},
            "field", "document 1: `id` is a truth value; expected text or a whole number",
        ),
        (
            {**RAG, "documents": ["x", {"id": {"a": 1}, "text": "a"}]},
            "field", "document 2: `id` is an object; expected text or a whole number",
        ),
        ({**RAG, "id": ""}, "field", "`id` is empty; leave it out, or give it a value"),
        ({**RAG, "documents": "[x"}, "field", "`documents` looks like JSON and is not"),
        ({**RAG, "documents": [""]}, "field", "document 1 is empty or text; expected text or {id, title, text}"),
        ({**RAG, "documents": [2]}, "field", "document 1 is empty or a number; expected text or {id, title, text}"),
        ({**RAG, "documents": ["x", {"id": "y"}]}, "field", "document 2: `text` is missing; expected text"),
        ({**RAG, "documents": [{"title": 1, "text": "y"}]}, "field", "document 1: `title` is a number; expected text"),
        ({**RAG, "oracle": ["net-1", "z"]}, "field", "`oracle` names z, which is not among the documents"),
        ({**RAFT, "context": 3}, "field", "`context` is not {title, sentences} or a list of passages"),
        ({**RAFT, "context": ["  ", "\n"]}, "field", "`context` has no passage"),
        ({**RAFT, "context": []}, "field", "`context` has no passage"),
        ({**RAFT, "context": [1]}, "field", "`context` is not {title, sentences} or a list of passages"),
        ({"messages": []}, "field", "`messages` is missing or empty"),
        ({"messages": [USER, {"role": "assistant"}]}, "field", "message 2: `content` is missing; expected text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}, ASSISTANT]},
            "field", "message 1: `content` has parts that are not text; only text can be trained on",
        ),
        (
            {"messages": [{**USER, "tool_calls": [{"name": "f"}]}, ASSISTANT]},
            "field", "message 1: `tool_calls` is a list of an assistant's calls",
        ),
        (
            {"messages": [USER, {**ASSISTANT, "tool_calls": [{"arguments": {}}]}]},
            "field", "message 2: a tool call has no function name",
        ),
        (
            {"messages": [USER, {**ASSISTANT, "tool_calls": [{"name": "f", "arguments": "{"}]}]},
            "field", "message 2: the arguments of f are not JSON",
        ),
        (
            {"messages": [USER, {**ASSISTANT, "tool_calls": [{"name": "f"}], "function_call": {"name": "g"}}]},
            "field", "message 2: has both `tool_calls` and `function_call`: only one is read; join them",
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": None, "tool_call": {"name": "f"}}]},
            "field", "message 2: `tool_call` is not read; near: `tool_calls`; call it so, join them, or leave it out",
        ),
        (
            {"messages": [USER, {**ASSISTANT, "plan": "First I say hello, then I wait for what comes."}]},
            "field", "message 2: `plan` is not read; near: `content`; call it so, join them, or leave it out",
        ),
        (
            {**RAG, "documents": [{"id": "net-1", "text": "x", "content": "y"}]},
            "field", "document 1: `content` is not read; near: `text`; call it so, join them, or leave it out",
        ),
        (
            {**RAG, "documents": [{"page_content": "x", "context": "y"}]},
            "field", "document 1: `context` is not read; near: `page_content`; call it so, join them, or leave it out",
        ),
        (
            {**RAG, "documents": [{"text": "x", "body": "HTTPS uses the port 443 and nothing else."}]},
            "field", "document 1: `body` is not read; near: `text`; call it so, join them, or leave it out",
        ),
        (
            {**RAG, "documents": [{"id": "net-tls", "text": "x"}], "oracle": ["net-tsl"]},
            "field", "`oracle` names net-tsl, which is not among the documents; near: net-tls",
        ),
        ({**CHAT, "tools": "none"}, "field", "`tools` is not a list of objects"),
        ({"messages": [{"role": "critic"}]}, "roles", "message 1 has no role of system, user, assistant, tool"),
        ({"messages": ["x"]}, "roles", "message 1 has no role of system, user, assistant, tool"),
        ({"messages": [USER]}, "roles", "roles are user: the last turn should be assistant"),
        ({"messages": [ASSISTANT, USER]}, "roles", "roles are assistant user: turn 1 should be system or user"),
        ({"messages": [USER, USER, ASSISTANT]}, "roles", "roles are user user assistant: turn 2 should be assistant"),
        (
            {"messages": [USER, {"role": "tool", "content": "x"}, ASSISTANT]},
            "roles", "roles are user tool assistant: turn 2 should be assistant",
        ),
        (
            {"messages": [USER, {**ASSISTANT, "tool_calls": [{"name": "f"}]}, USER, ASSISTANT]},
            "roles", "roles are user assistant user assistant: turn 3 should be tool",
        ),
        (
            {"messages": [{"role": "system", "content": "s"}, ASSISTANT]},
            "roles", "roles are system assistant: turn 2 should be user",
        ),
        ({"conversations": 1}, "field", "`conversations` is missing or empty"),
        (
            {"conversations": [{"from": "bing", "value": "x"}]},
            "roles",
            "turn 1 is from none of human, user, gpt, assistant, model, system, function_call, observation,"
            " function_response, tool",
        ),
        ({"conversations": [{"from": "human"}]}, "field", "turn 1: `value` is missing; expected text"),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "f()"}]},
            "field", "turn 2: a function_call is not JSON",
        ),
        ({**ALPACA, "history": [["q"]]}, "field", "`history` is not a list of [question, answer]"),
        ({**ALPACA, "history": 5}, "field", "`history` is not a list of [question, answer]"),
        ({**ALPACA, "history": [["q", None]]}, "field", "history: `answer` is missing; expected text"),
    ],
)  # fmt: skip
def test_each_unusable_row_says_why(row: object, kind: str, message: str) -> None:
    assert refused(row) == (kind, message)


HALF = "\ud83d"
ANSWERED = TOOL_CHAT["messages"][2:]
HALVES = {
    "an answer": ({**RAG, "answer": HALF}, "`answer`"),
    "a document": ({**RAG, "documents": [HALF]}, "document 1: `text`"),
    "a document's title": ({**RAG, "documents": [{"title": HALF, "text": "x"}]}, "document 1: `title`"),
    "a document's id": ({**RAG, "documents": [{"id": HALF, "text": "x"}]}, "document 1: `id`"),
    "a passage": ({**RAFT, "context": ["x", HALF]}, "`context`"),
    "a turn": ({"messages": [{**USER, "content": HALF}, ASSISTANT]}, "message 1: `content`"),
    "thoughts": ({"messages": [USER, {**ASSISTANT, "reasoning_content": HALF}]}, "message 2: `reasoning_content`"),
    "a call": ({"messages": [USER, {"role": "assistant", "tool_calls": [{"name": HALF}]}, *ANSWERED]}, "message 2"),
    "a tool": ({**CHAT, "tools": [{"name": "f", "description": HALF}]}, "`tools`"),
    "the id": ({**TEXT, "id": HALF}, "`id`"),
}  # fmt: skip


@pytest.mark.parametrize("where", HALVES)
def test_half_a_character_is_no_text_wherever_it_stands(where: str) -> None:
    """It cannot be encoded, so no tokenizer, file or terminal takes it."""
    row, field = HALVES[where]
    kind, message = refused(row)
    assert kind == "unreadable"
    assert message.startswith(field)
