"""How a text is cut into words: by name, as the publications on moments cut theirs. All are in lower case."""

import re
import string
from collections.abc import Callable, Mapping

_WORD = re.compile(r"\w+")
_DELETED = str.maketrans("", "", string.punctuation)

_TREEBANK: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r'^"|(?<=[ (\[{<])("|\'{2})', " `` "),
        (r"([:,])(?=[^\d]|$)", r" \1 "),
        (r"\.\.\.", " ... "),
        (r"[;@#$%&?!*]", r" \g<0> "),
        # A sentence may follow in the same text, so the period of every word that ends with one is cut off.
        (r"([^.\s])\.([\])}>\"']*)(?=\s|$)", r"\1 . \2 "),
        (r"(?<=[^'])'(?=\s)", " ' "),
        (r"[\][(){}<>]", r" \g<0> "),
        (r"--", " -- "),
        (r'"', " '' "),
        (r"(?<=\S)(\'\')", r" \1 "),
        (r"(?<=[^' ])('s|'m|'d|') ", r" \1 "),
        (r"(?<=[^' ])('ll|'re|'ve|n't) ", r" \1 "),
        (r"\b(can)(not)\b", r"\1 \2"),
        (r"\b(gim|lem)(me)\b", r"\1 \2"),
        (r"\b(gon|wan)(na)\b", r"\1 \2"),
        (r"\b(got)(ta)\b", r"\1 \2"),
        (r"(?<= )('t)(is|was)\b", r"\1 \2"),
    )
)


def words_of(text: str) -> tuple[str, ...]:
    """Returns the words of `text`: runs of letters, digits and underscores, in lower case."""
    return tuple(_WORD.findall(text.lower()))


def lgi_words(text: str) -> tuple[str, ...]:
    """Returns what is between the spaces of `text` once ASCII punctuation is deleted ("man's" is ``mans``).

    Source: LGI (J. Mun et al., CVPR 2020), released code.
    """
    return tuple(text.lower().translate(_DELETED).split())


def treebank_words(text: str) -> tuple[str, ...]:
    """Returns the tokens of `text` as the Penn Treebank cuts them: punctuation and ``n't``, ``'s`` are tokens.

    Source: R. MacIntyre's tokenizer.sed, as NLTK has it, which VSLNet uses; abbreviations are not known here.
    """
    found = f" {text.lower().strip()} "
    for pattern, replacement in _TREEBANK:
        found = pattern.sub(replacement, found)
    return tuple(found.split())


TOKENISERS: Mapping[str, Callable[[str], tuple[str, ...]]] = {
    "words": words_of,
    "lgi": lgi_words,
    "treebank": treebank_words,
}
"""By the names that `schemas.inputs.Tokens` knows."""
