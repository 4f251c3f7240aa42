"""What an answer is worth against its reference: token F1, ROUGE-L, citations, and whether it declines.

F1 is that of SQuAD (arXiv 1606.05250): words without case, punctuation and articles; it equals ROUGE-1's F-measure over
these tokens. Scripts that put no space between words are counted by character, as MLQA does (arXiv 1910.07475).
Citations are taken out first: they have numbers of their own.
"""

import re
import string
import unicodedata
from typing import Any

from launch.evaluation import decline_pattern
from training.data.rows.citations import cited, without_citations
from training.data.rows.scripts import UNSPACED

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CHARACTERS = re.compile(f"[{UNSPACED}]")
# A first sentence ends at a line's end or at a full stop with a space behind it, in Chinese without one.
_SENTENCE = re.compile(r"(?<=[.!?])\s|\n|(?<=[\u3002\uff01\uff1f])")


def words(text: str) -> list[str]:
    """The tokens that F1 and ROUGE-L compare."""
    kept = "".join(
        character
        for character in unicodedata.normalize("NFKC", text).lower()
        if character not in string.punctuation and not unicodedata.category(character).startswith("P")
    )
    return _CHARACTERS.sub(lambda match: f" {match[0]} ", _ARTICLES.sub(" ", kept)).split()


def overlap(answer: str, reference: str) -> tuple[float, float]:
    """(F1, ROUGE-L's F-measure) of an answer, both from 0 to 1."""
    # Imports transformers, which whoever only reads rows need not wait for.
    from torchmetrics.functional.text.rouge import rouge_score

    found = rouge_score(
        answer, reference, rouge_keys=("rouge1", "rougeL"), normalizer=lambda text: text, tokenizer=words
    )
    return float(found["rouge1_fmeasure"]), float(found["rougeL_fmeasure"])


def scores(answer: str, reference: str, documents: set[str], pattern: str) -> dict[str, Any]:
    """An answer's scores, as a row of answers.jsonl holds them."""
    there, absent = cited(answer, documents)
    meant, _ = cited(reference, documents)
    f1, rouge_l = overlap(without_citations(answer, there | absent), without_citations(reference, meant))
    return {
        "f1": round(f1, 4), "rouge_l": round(rouge_l, 4), "cited": sorted(there), "invented": sorted(absent),
        "declined": declined(answer, pattern),
    }  # fmt: skip


def declined(answer: str, pattern: str) -> bool:
    """Whether the first sentence says that there is no answer."""
    first = _SENTENCE.split(answer.strip(), maxsplit=1)[0]
    return decline_pattern(pattern).search(first) is not None
