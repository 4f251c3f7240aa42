"""Held-out rows -> questions with the very prompts that training would show."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from launch.rundir.journal import scrub
from launch.spec import DataSpec
from training.data.checks.survey import chunks
from training.data.encoding.shorten import fit, known_oracles
from training.data.encoding.template import Chat, ChatFiles
from training.data.rows.formats import to_sample
from training.data.rows.problems import RowError
from training.data.rows.samples import Sample
from training.data.sequences.tokens import Sequences
from training.evaluation.answers import Answer
from training.evaluation.scores import declined, scores


@dataclass(frozen=True)
class Question:
    """A conversation up to the assistant's last turn. `prompt` are its token ids, the cue to answer included; `end`
    is the token that ends an answer."""

    name: str
    sample: Sample
    prompt: list[int]
    end: int

    @property
    def documents(self) -> set[str]:
        return {document.id for document in self.sample.documents}

    def row(self, pattern: str) -> dict[str, Any]:
        """As answers.jsonl holds it. `oracles` are the documents that a right answer cites, None where nobody knows."""
        sample, oracles = self.sample, known_oracles(self.sample)
        return {
            "id": self.name, "file": sample.file, "line": sample.line, "question": sample.asked,
            "documents": [document.id for document in sample.documents], "reference": sample.answer,
            "oracles": None if oracles is None else sorted(oracles),
            "unanswerable": bool(sample.documents) and declined(sample.answer, pattern),
        }  # fmt: skip

    def judged(self, answer: Answer, tokenizer: Any, pattern: str) -> dict[str, Any]:
        """An answer with its scores, as answers.jsonl holds it."""
        text = tokenizer.decode(answer.tokens).strip()
        return {
            "answer": text, **scores(text, self.sample.answer, self.documents, pattern),
            "tokens": len(answer.tokens), "complete": answer.complete,
        }  # fmt: skip


def questions(data: DataSpec, source: str, files: ChatFiles, rows: Sequences) -> Iterator[Question]:
    """The rows of a source that have an answer to give, of those that were found good and tokenised as `rows`.

    Prompts are shortened as training shortens them; rows of plain text have none.
    """
    chat, waiting = Chat(files), dict(rows.samples())
    columns: dict[str, str] = dict(data.columns.items())
    for chunk in chunks({"eval": source}):
        for row in chunk.rows:
            unnamed = f"{chunk.prefix}{row.number or row.line}"
            try:
                sample = to_sample(row.read(), row.file, row.line, data.format, columns, unnamed)
                name = str(scrub(sample.id))
                if sample.text or name not in waiting:
                    continue
                tokens = fit(sample, chat, data.max_length).tokens
            except RowError:  # told, and left out, when the rows were examined
                continue
            if np.array_equal(tokens.ids, waiting[name]):  # else it is a bad row under a good one's id
                del waiting[name]
                start, end = tokens.spans[-1]
                yield Question(name, sample, tokens.ids[:start].tolist(), int(tokens.ids[end - 1]))
