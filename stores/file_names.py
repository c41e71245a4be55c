"""File names that are no UTF-8 as text that can be written down, and back.

A name on Linux is bytes. Python shows those that are no UTF-8 as surrogates, which neither Arrow nor a terminal takes.
As an id, such a name has these bytes percent-encoded (RFC 3986), and its own percent signs too; as an address it is a
``file://`` URL. Names that are UTF-8 stay as they are.
"""

import os
from urllib.parse import quote, unquote_to_bytes, urlsplit

_FIRST, _LAST = "\udc80", "\udcff"
_BASE = 0xDC00


def is_text(name: str) -> bool:
    """Returns whether `name` can be written as UTF-8."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def quoted_name(name: str) -> str:
    """Returns `name` as text: itself where it is UTF-8, else with the bytes that are not, and %, percent-encoded."""
    if is_text(name):
        return name
    quoted = {"%": "%25"}
    return "".join(f"%{ord(c) - _BASE:02X}" if _FIRST <= c <= _LAST else quoted.get(c, c) for c in name)


def unquoted_name(text: str) -> str:
    """Returns the file name `quoted_name` made `text` of: another one only where its bytes are no UTF-8."""
    name = os.fsdecode(unquote_to_bytes(text))
    return text if is_text(name) else name


def address_of(path: str) -> str:
    """Returns the path of a local file as it is written down: itself, or a ``file://`` URL where it is no UTF-8."""
    return path if is_text(path) else "file://" + quote(os.fsencode(path))


def path_of(address: str) -> str:
    """Returns the path of a local file by its address, a path or a ``file://`` URL."""
    return os.fsdecode(unquote_to_bytes(urlsplit(address).path)) if address.startswith("file://") else address
