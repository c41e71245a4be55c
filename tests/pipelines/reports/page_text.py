"""The text of an HTML page as a reader meets it, and a check that every element is closed in order."""

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "path", "circle", "rect"}


class _Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.stack.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] not in ("style", "script"):
            self.text.append(data)


def page_text(html: str) -> str:
    """Returns the visible text, white space run together; asserts that the markup is balanced."""
    parser = _Balance()
    parser.feed(html)
    parser.close()
    assert parser.stack == []
    return re.sub(r"\s+", " ", " ".join(parser.text))
