"""An HTML page -> Markdown in which what was text is text: nothing in it becomes markup and is lost."""

import re
from typing import Any

from bs4 import BeautifulSoup
from markdownify import MarkdownConverter

_HIDDEN = ["script", "style", "nav", "noscript", "template", "head"]
# What Markdown would not read as text: an escape, a tag, an entity, a link or its target, a heading's mark, a line that
# underlines or divides, a fence. Each gets a backslash; more of them (in `snake_case`, `- `) would only be in the way.
_MARKUP = re.compile(
    r"(?m)\\(?=[!-/:-@\[-`{-~]|$)|<(?=[A-Za-z/!?])|&(?=#?\w{1,40};)|\[(?=[^\[\]\n]{0,300}\][(:])|(?<!\S)#(?=#*(?!\S))"
    r"|^[-=_*](?=[-=_* ]*$)|^`(?=``)|^~(?=~~)"
)
_EMPHASIS = re.compile(r"(?<![\w\\])([_*]{1,3})(?=[^\s_*](?:[^_*\n]{0,200}[^\s_*])?\1(?!\w))")


def as_markdown(text: str) -> str:
    page = BeautifulSoup(text, "html.parser")
    for hidden in page(_HIDDEN):
        hidden.decompose()
    return str(_Converter(heading_style="ATX", strip=["a", "img", "b", "strong", "em", "i"]).convert_soup(page))


class _Converter(MarkdownConverter):
    def escape(self, text: str, parent_tags: Any) -> str:  # noqa: ARG002 - as the converter calls it
        plain = _MARKUP.sub(r"\\\g<0>", text or "")
        return _EMPHASIS.sub(lambda match: "".join(f"\\{mark}" for mark in match[1]), plain)

    def convert_pre(self, el: Any, text: str, parent_tags: Any) -> str:
        """A longer fence than any in the code itself."""
        block = str(super().convert_pre(el, text, parent_tags))  # type: ignore[misc]  # made at run time, one a tag
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        return re.sub(r"\A(\n\n)```|```(\n\n)\Z", rf"\1{fence}\2", block)
