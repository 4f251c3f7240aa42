"""Scripts that put no space between words.

A character of theirs counts as a word, as MLQA counts them (arXiv 1910.07475) and as Unicode breaks Han and kana where
no dictionary is at hand (UAX 29).
"""

# For the brackets of a regular expression: Han, kana, Thai, Lao, Khmer and Burmese. Hangul has spaces.
UNSPACED = (
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
    "\u0e00-\u0eff\u1780-\u17ff\u1000-\u109f"
)
