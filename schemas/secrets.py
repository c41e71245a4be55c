"""Passwords, tokens and signatures in URLs, kept out of whatever a person or another program is shown."""

import re
from typing import Any, TextIO

MASK = "***"

USER = re.compile(r"(?<=://)[^/?#]+(?=@)")
"""What stands before the host of a URL: a name, and behind a colon a password."""

SECRET_WORDS = "sig|token|secret|pass|pwd|key|credential|auth|policy|session|code|sas"
"""ours: parts of the names of query parameters whose values are secrets: those of signed URLs (S3, Google, Azure, AWS)
and of most web services."""

PARAMETER = re.compile(
    rf"(?i)([?&;](?:amp;)?[\w.~%-]{{0,99}}(?:{SECRET_WORDS})[\w.~%-]{{0,99}}=)[^&;#]+?(?=[&;#]|[:,.)\]}}]{{0,9}}$)"
)
"""Names are bounded, so that a long run without ``=`` is not tried from each of its letters."""

URL = re.compile(r"://[^\s\"'<>\\]+")
"""All of a URL but its scheme, as it stands in prose, quotes, JSON or an attribute of HTML. It starts with what is
rare: from a scheme on, each letter of an embedded picture could be the first one of a URL."""


def masked(text: str) -> str:
    """Returns the text with the secrets of every URL in it replaced by ``***``: in prose, JSON, YAML or HTML."""
    return URL.sub(lambda found: PARAMETER.sub(rf"\1{MASK}", USER.sub(_user, found.group())), text)


def _user(found: "re.Match[str]") -> str:
    name, colon, _ = found.group().partition(":")
    # A name alone may itself be a token (GitHub's), a bucket's project or a mailbox: it is not worth the risk.
    return f"{name}:{MASK}" if colon and name else MASK


class MaskedStream:
    """A text stream that masks what is written to it; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes the text without secrets; returns its length, as its writer counts it."""
        self._stream.write(masked(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes each line."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
