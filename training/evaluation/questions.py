"""Held-out rows -> questions with the very prompts that training would show."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from launch.spec import DataSpec
from training.data.formats import to_sample
from training.data.problems import RowError
from training.data.samples import Sample
from training.data.shorten import fit, known_oracles
from training.data.survey import chunks
from training.data.template import Chat, ChatFiles
from training.evaluation.scores import declined


@dataclass(frozen=True)
class Question:
    """A conversation up to the assistant's last turn. `prompt` are its token ids, the cue to answer included;
    `ends` is the token that ends an answer."""

    sample: Sample
    prompt: list[int]
    end: int

    @property
    def documents(self) -> set[str]:
        return {document.id for document in self.sample.documents}

    def row(self, pattern: str) -> dict[str, Any]:
        """As answers.jsonl holds it. `oracles` are the documents that a right answer cites."""
        sample, reference = self.sample, self.sample.answer
        return {
            "id": sample.id, "file": sample.file, "line": sample.line, "question": sample.asked,
            "documents": [document.id for document in sample.documents], "reference": reference,
            "oracles": sorted(known_oracles(sample) or ()),
            "unanswerable": bool(sample.documents) and declined(reference, pattern),
        }  # fmt: skip


def questions(data: DataSpec, source: str, files: ChatFiles, names: set[str]) -> Iterator[Question]:
    """The rows of a source that have an answer to give; those called `names`, which have been examined.

    Prompts are shortened as training shortens them; the rows of plain text have none.
    """
    chat, waiting = Chat(files), set(names)
    columns: dict[str, str] = dict(data.columns.items())
    for chunk in chunks({"eval": source}):
        for row in chunk.rows:
            name = f"{chunk.prefix}{row.number or row.line}"
            try:
                sample = to_sample(row.read(), row.file, row.line, data.format, columns, name)
                if sample.id in waiting and not sample.text:
                    waiting.remove(sample.id)
                    tokens = fit(sample, chat, data.max_length).tokens
                    start, end = tokens.spans[-1]
                    yield Question(sample, tokens.ids[:start].tolist(), int(tokens.ids[end - 1]))
            except RowError:  # told, and left out, when the rows were examined
                continue
