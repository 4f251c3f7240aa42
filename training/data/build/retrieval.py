"""BM25 over passages: what a retriever would find for a question, right or wrong."""

import re
from collections.abc import Sequence, Set
from itertools import pairwise

import bm25s
import numpy as np

from training.data.build.passages import Passage
from training.data.rows.scripts import UNSPACED

# Words, and characters of scripts without spaces.
_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
# Of Chinese, Japanese and Korean, Lucene's CJKAnalyzer takes each two characters that stand together for a term, and
# one that stands alone; words need no dictionary then. The same is done for the other scripts without spaces.
_UNSPACED_OR_HANGUL = f"{UNSPACED}\uac00-\ud7a3"
_RUN = re.compile(f"[{_UNSPACED_OR_HANGUL}]+")
_TERM = rf"[{_UNSPACED_OR_HANGUL}]{{1,2}}|\b\w\w+\b"  # else bm25s's own
SAME = 0.8


class Index:
    """BM25 (Lucene's variant, k1 1.5, b 0.75) over titles, headings and texts.

    `named_only` are the ids of passages that nobody gets who did not ask for them by name.
    """

    def __init__(self, passages: Sequence[Passage], named_only: Set[str] = frozenset()):
        self.passages = list(passages)
        self._named_only = named_only
        corpus = [f"{passage.title} {passage.heading} {passage.text}" for passage in self.passages]
        tokens = bm25s.tokenize(list(map(_in_pairs, corpus)), token_pattern=_TERM, stopwords="en", show_progress=False)
        self._bm25 = bm25s.BM25() if any(len(ids) for ids in tokens.ids) else None
        if self._bm25 is not None:
            self._bm25.index(tokens, show_progress=False)
        self._shingles = {passage.id: _shingles(passage.text) for passage in self.passages}

    def ranked(self, query: str) -> list[Passage]:
        """All passages, the best first; those that score the same in the order of the collection."""
        known = self._known(query)
        if self._bm25 is None or not known:
            return list(self.passages)
        scores = self._bm25.get_scores(known)
        return [self.passages[place] for place in np.argsort(-scores, kind="stable")]

    def _known(self, query: str) -> list[str]:
        """Its words that some passage has."""
        (tokens,) = bm25s.tokenize(
            [_in_pairs(query)], token_pattern=_TERM, stopwords="en", show_progress=False, return_ids=False
        )
        return [token for token in tokens if self._bm25 is not None and token in self._bm25.vocab_dict]

    def best(self, query: str) -> Passage | None:
        """What a search finds first; None where it finds no word of it, or may show nothing that it finds."""
        if not self._known(query):
            return None
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


def _in_pairs(text: str) -> str:
    """With a space between each two characters of scripts that are searched by them, and around both."""
    return _RUN.sub(lambda run: f" {' '.join(map(''.join, pairwise(run[0]))) or run[0]} ", text)


def _shingles(text: str) -> set[str]:
    words = _WORD.findall(text.casefold())
    return {" ".join(words[start : start + 3]) for start in range(max(1, len(words) - 2))}


def _similarity(first: set[str], second: set[str]) -> float:
    return len(first & second) / len(first | second)
