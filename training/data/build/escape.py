"""Text -> Markdown that says just that text, and back.

Each of Markdown's marks is replaced by a noncharacter: there are 32 of both, no parser reads one as markup, and
Unicode keeps them for a program's own use (The Unicode Standard, section 23.7). A backslash would do the same for a
parser, but stand in what the model reads.
"""

import re
import string

_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
_SPACE, _TAB = "\U0001fffe", "\U0001ffff"
_ESCAPES = str.maketrans(dict(zip(string.punctuation, _NONCHARACTERS, strict=True)))
_INDENTS = str.maketrans({" ": _SPACE, "\t": _TAB})
_BACK = str.maketrans({**dict(zip(_NONCHARACTERS, string.punctuation, strict=True)), _SPACE: " ", _TAB: "\t"})
_FOREIGN = str.maketrans(dict.fromkeys([*_NONCHARACTERS, _SPACE, _TAB], "\ufffd"))


def escaped(text: str) -> str:
    """Text in which nothing is markup."""
    return text.translate(_ESCAPES)


def escaped_lines(text: str) -> str:
    """The same for the lines of a text file: what is indented in it is no code either."""
    return re.sub(r"(?m)^[ \t]+(?=\S)", lambda indent: indent[0].translate(_INDENTS), escaped(text))


def unescaped(markdown: str) -> str:
    """What `escaped` and `escaped_lines` were given; markup stays as it is."""
    return markdown if markdown.isascii() else markdown.translate(_BACK)


def without_escapes(text: str) -> str:
    """Somebody's text, which may stand for nothing else: a noncharacter in it is a damaged one (U+FFFD)."""
    return text if text.isascii() else text.translate(_FOREIGN)
