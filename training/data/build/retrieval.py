"""BM25 over passages: what a retriever would find for a question, right or wrong."""

import re
from collections.abc import Sequence, Set

import bm25s
import numpy as np

from training.data.build.passages import Passage

_WORD = re.compile(r"\w+")
SAME = 0.8


class Index:
    """BM25 (Lucene's variant, k1 1.5, b 0.75) over titles, headings and texts.

    `named_only` are the ids of passages that nobody gets who did not ask for them by name.
    """

    def __init__(self, passages: Sequence[Passage], named_only: Set[str] = frozenset()):
        self.passages = list(passages)
        self._named_only = named_only
        corpus = [f"{passage.title} {passage.heading} {passage.text}" for passage in self.passages]
        tokens = bm25s.tokenize(corpus, stopwords="en", show_progress=False)
        self._bm25 = bm25s.BM25() if any(len(ids) for ids in tokens.ids) else None
        if self._bm25 is not None:
            self._bm25.index(tokens, show_progress=False)
        self._shingles = {passage.id: _shingles(passage.text) for passage in self.passages}

    def ranked(self, query: str) -> list[Passage]:
        """All passages, the best first; those that score the same in the order of the collection."""
        tokens = bm25s.tokenize([query], stopwords="en", show_progress=False, return_ids=False)[0]
        known = [token for token in tokens if self._bm25 is not None and token in self._bm25.vocab_dict]
        if self._bm25 is None or not known:
            return list(self.passages)
        scores = self._bm25.get_scores(known)
        return [self.passages[place] for place in np.argsort(-scores, kind="stable")]

    def best(self, query: str) -> Passage | None:
        """What a search finds first; None where it may find nothing."""
        return next((passage for passage in self.ranked(query) if passage.id not in self._named_only), None)

    def distractors(self, query: str, oracles: Sequence[Passage], count: int) -> list[Passage]:
        """The best that are neither an oracle, nor of its section, nor almost one: what looks right and is not."""
        theirs = [_shingles(oracle.text) for oracle in oracles]  # an oracle may be none of the passages to choose from
        sections = {oracle.section for oracle in oracles}
        found: list[Passage] = []
        for passage in self.ranked(query):
            if len(found) == count:
                break
            own = self._shingles[passage.id]
            if passage.section not in sections and all(_similarity(own, other) < SAME for other in theirs):
                found.append(passage)
        return found


def _shingles(text: str) -> set[str]:
    words = _WORD.findall(text.casefold())
    return {" ".join(words[start : start + 3]) for start in range(max(1, len(words) - 2))}


def _similarity(first: set[str], second: set[str]) -> float:
    return len(first & second) / len(first | second)
