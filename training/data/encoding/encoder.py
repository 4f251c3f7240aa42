"""Text -> token ids, fast, and exactly as the model's own tokenizer does it.

Byte-level BPE with one merge for each token, in the order of their ranks, is what tiktoken encodes, several times as
fast as the tokenizers library (docs/measurements.md). Qwen's is of that kind; Llama 3's file lists several merges for
a token, of which tiktoken would not choose the same in runs such as `aaaa`. Whether a tokenizer is of that kind is read
from its file and then tried on texts of many scripts; any other goes through tokenizers itself.
"""

import json
import sys
import unicodedata
from functools import cache, cached_property
from itertools import accumulate, pairwise
from typing import Any

import tiktoken
from tokenizers import Tokenizer

# GPT-2's own pattern, which a ByteLevel pre-tokenizer applies when it is told to split.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# A pattern with a look-ahead walks back over a run of white space: tiktoken's regex engine gives up on very long ones.
LONG_TEXT = 200_000
PROBES = (
    "Hello, world! It's 2026.\n\n\tdef f(x):  return x ** 2  # done\r\n", "naïve café ﬁ Å Ω 1234567 3.14e-10 ½",
    "日本語の文章と漢字、한국어 텍스트, русский текст, العربية، עברית", "   leading and trailing   ", "\n\n\n  \n x",
    "emoji 👩‍👩‍👧‍👦 🇩🇪 ✈️ e\u0301 \u1e9b\u0323", "<|not|> [INST] {json: [1, 2]} https://a.b/c?d=e&f=%20",
    "'S 'T I'LL WE'RE don't",
    "\u00a0\u2003\u3000\ufeff\u200b\u0000\u0007", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "CamelCase snake_case kebab-case",
)  # fmt: skip


Ids = tuple[int, ...]


def probed(tokenizer: Tokenizer) -> tuple[Ids, ...]:
    """What a tokenizer makes of the probes."""
    return tuple(tuple(tokenizer.encode(probe, add_special_tokens=False).ids) for probe in PROBES)


class Encoder:
    """Encodes text in which nothing is a control token. `engine` is tiktoken or tokenizers.

    `expected` is what the tokenizer makes of the probes; without it the tokenizer is loaded once more to find out.
    """

    def __init__(self, tokenizer_json: str, expected: tuple[Ids, ...] | None = None):
        document = json.loads(tokenizer_json)
        self.added_tokens: list[dict[str, Any]] = document["added_tokens"]
        self._document = tokenizer_json
        self._normalizes = (document.get("normalizer") or {}).get("type") == "NFC"
        self._fast = _as_tiktoken(document)
        self._cuts_at_lines = r"\s*[\r\n]+" in (_pattern(document.get("pre_tokenizer")) or "")
        if self._fast is not None:
            found = tuple(tuple(self._quick(probe)) for probe in PROBES)
            self._fast = self._fast if found == (expected or probed(self._plain)) else None
        self.engine = "tokenizers" if self._fast is None else "tiktoken"

    @cached_property
    def _plain(self) -> Tokenizer:
        # Without its added tokens a tokenizer takes no text for one of them.
        none: dict[str, Any] = {"added_tokens": [], "truncation": None, "padding": None, "post_processor": None}
        return Tokenizer.from_str(json.dumps({**json.loads(self._document), **none}))

    def __getstate__(self) -> dict[str, Any]:
        """For another process: tiktoken's part travels, tokenizers' is made there if a text needs it."""
        return {name: value for name, value in vars(self).items() if name != "_plain"}

    def encode(self, text: str) -> list[int]:
        return self._slow(text) if self._fast is None or len(text) > LONG_TEXT else self._quick(text)

    def encode_at(self, text: str, position: int) -> tuple[list[int], int]:
        """The ids of the whole text, and how many of them lie before the character at `position`.

        A token across it counts as before it.
        """
        before, after = text[:position], text[position:]
        if not before or not after:
            ids = self.encode(text)
            return ids, len(ids) if before else 0
        if after[0].strip() and self.ends_token(before):
            head = self.encode(before)
            return head + self.encode(after), len(head)
        encoded = self._plain.encode(text, add_special_tokens=False)
        inside = sum(start < position for start, _ in encoded.offsets)
        return encoded.ids, inside

    def ends_token(self, text: str) -> bool:
        """Whether no token reaches from this text into a next one that does not begin with white space.

        None reaches from a line end into what is no white space; only GPT-2's pattern may cut the white space before
        that line end in two.
        """
        return self._fast is not None and text.endswith("\n") and (self._cuts_at_lines or not text[-2:-1].isspace())

    def _slow(self, text: str) -> list[int]:
        return self._plain.encode(text, add_special_tokens=False).ids  # type: ignore[no-any-return]

    def _quick(self, text: str) -> list[int]:
        assert self._fast is not None
        if self._normalizes and not text.isascii():
            text = unicodedata.normalize("NFC", text)
        try:
            return self._fast.encode_ordinary(text)
        except BaseException as error:  # its Rust code panics on a text that is too much for its regular expressions
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            return self._slow(text)


def _as_tiktoken(document: dict[str, Any]) -> tiktoken.Encoding | None:
    """The same encoding in tiktoken, or None where its file says that it is of another kind."""
    model, pattern = document["model"], _pattern(document.get("pre_tokenizer"))
    normalizer = document.get("normalizer")
    plain = model.get("type") == "BPE" and not any(
        model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    )
    if not plain or pattern is None or (normalizer is not None and normalizer.get("type") != "NFC"):
        return None
    vocabulary = model["vocab"]
    merged = [merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge) for merge in model["merges"]]
    order = [vocabulary.get(token, -1) for token in merged]
    if -1 in order or any(left >= right for left, right in pairwise(order)):
        return None
    tokens = [*(token for token in vocabulary if len(token) == 1), *merged]
    try:
        # One character for one byte, so all are translated in one go.
        joined = "".join(tokens).translate(_bytes_of_characters()).encode("latin-1")
        ends = list(accumulate(map(len, tokens)))
        ranks = {joined[start:end]: vocabulary[t] for start, end, t in zip([0, *ends], ends, tokens, strict=False)}
        return tiktoken.Encoding("muster", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    except ValueError:  # characters that stand for no byte; a pattern that it cannot compile
        return None


def _pattern(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """The one regular expression that cuts text into words; None where there is more to it."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer] if pre_tokenizer else [])
    if [step["type"] for step in steps] == ["ByteLevel"] and steps[0].get("use_regex", True):
        return None if steps[0].get("add_prefix_space") else GPT2_PATTERN
    if [step["type"] for step in steps] != ["Split", "ByteLevel"]:
        return None
    split, level = steps
    cuts = split["behavior"] in ("Isolated", "isolated") and not split.get("invert") and "Regex" in split["pattern"]
    if not cuts or level.get("use_regex", True) or level.get("add_prefix_space"):
        return None
    return str(split["pattern"]["Regex"])


@cache
def _bytes_of_characters() -> dict[int, int]:
    """For str.translate: the printable character that stands for a byte in byte-level BPE (GPT-2's table) -> that byte.

    The others become a character beyond all bytes.
    """
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {**dict.fromkeys(hidden, sys.maxunicode), **{256 + index: byte for index, byte in enumerate(hidden)}}
