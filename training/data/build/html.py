"""An HTML page -> Markdown of its tags alone: what was text is escaped, so that nothing in it becomes markup."""

import re
from typing import Any

from bs4 import BeautifulSoup
from bs4.element import PreformattedString
from markdownify import MarkdownConverter

from training.data.build.escape import escaped, unescaped
from training.data.build.words import mark_of

_HIDDEN = ["script", "style", "nav", "noscript", "template", "head"]
# Each stands apart from its neighbours without a space in the page (HTML Standard, 15.5: inline-block).
_APART = ["button", "input", "select", "textarea"]

# No text: to a parser of HTML each of these ends at its first `>`, which may stand in the middle of a program.
_NO_TEXT = re.compile(r"<\?(?:xml|php|=).*?\?>|<!\[CDATA\[.*?\]\]>", re.DOTALL)

# Blocks of the HTML Standard (15.3) that the converter takes for a part of a line.
_BLOCKS = {
    "address", "aside", "center", "details", "dialog", "fieldset", "figure", "footer", "form", "header", "hgroup",
    "legend", "main", "menu", "optgroup", "option", "search", "summary",
}  # fmt: skip


def as_markdown(text: str) -> str:
    """To be shown by `escape.unescaped`. Raises RecursionError where some hundred tags stand in each other."""
    page = BeautifulSoup(_NO_TEXT.sub("", text), "lxml")  # ends what a page may leave open: <p>, <li>, <tr>, <td>
    for comment in page.find_all(string=lambda string: isinstance(string, PreformattedString)):
        comment.extract()  # declarations and the like too, which the converter takes for text
    for hidden in page(_HIDDEN):
        hidden.decompose()
    for widget in page(_APART):
        if not widget.get_text(strip=True):
            widget.replace_with(" ")
            continue
        widget.insert_before(" ")
        widget.insert_after(" ")
    page.smooth()  # neighbouring spaces are one text, and one space
    return str(_Converter(heading_style="ATX", strip=["a", "img", "b", "strong", "em", "i"]).convert_soup(page))


class _Converter(MarkdownConverter):
    def get_conv_fn(self, tag_name: str) -> Any:
        return super().get_conv_fn("div" if tag_name in _BLOCKS else tag_name)  # type: ignore[misc]  # not in its stubs

    def escape(self, text: str, parent_tags: Any) -> str:  # noqa: ARG002 - as the converter calls it
        return escaped(text or "")

    def convert_br(self, el: Any, text: str, parent_tags: Any) -> str:
        """In code just a line's end: the two spaces that mark one in prose would be text there."""
        return "\n" if "pre" in parent_tags else str(super().convert_br(el, text, parent_tags))  # type: ignore[misc]

    def convert_sup(self, el: Any, text: str, parent_tags: Any) -> str:  # noqa: ARG002
        return _marked("sup", text)

    def convert_sub(self, el: Any, text: str, parent_tags: Any) -> str:  # noqa: ARG002
        return _marked("sub", text)

    def convert_pre(self, el: Any, text: str, parent_tags: Any) -> str:
        """A longer fence than any in the code itself."""
        block = str(super().convert_pre(el, text, parent_tags))  # type: ignore[misc]  # made at run time, one a tag
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        return re.sub(r"\A(\n\n)```|```(\n\n)\Z", rf"\1{fence}\2", block)


def _marked(tag: str, text: str) -> str:
    """What is raised or lowered, in brackets where it would else not be clear how far it goes."""
    words, mark = unescaped(text.strip()), mark_of(tag, unescaped(text))
    if not mark:
        return text
    one = re.fullmatch(r"[-+\u2212]?[\w.,]+[-+\u2212]?", words)
    return escaped(f"{mark}{words}" if one else f"{mark}({words})") + (" " if text[-1].isspace() else "")
