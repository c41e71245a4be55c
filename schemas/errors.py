"""The errors a user can cause, each with the exit code it ends a command with.

Exit codes: 0 complete, 2 wrong usage, 3 complete with quarantined items, 4 retryable failure, 5 a gate of an
evaluation failed, 1 anything else.
"""

import difflib
from bisect import bisect
from collections.abc import Iterable, Sequence

EXIT_COMPLETE = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_QUARANTINED = 3
EXIT_RETRYABLE = 4
EXIT_GATE = 5


class ClipmillError(Exception):
    """Base of every domain error; its message is the one line a user reads."""

    exit_code = EXIT_FAILURE


class UsageError(ClipmillError, ValueError):
    """The command, its config or its input cannot be used as given."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """A config file or a ``--set`` override does not validate."""


class ManifestError(UsageError):
    """A folder, CSV or Parquet manifest cannot be turned into a list of videos."""


class StoreError(UsageError):
    """A store is missing, belongs to another dataset, or has another format."""


class UnknownNameError(StoreError, KeyError):
    """A store has no such feature, or a feature no rows of such a video: a `KeyError`, as of any mapping."""

    def __str__(self) -> str:
        # KeyError's own would quote the line.
        return str(self.args[0])


class WeightsError(UsageError):
    """A weights file is missing, unsafe, corrupt, or of the wrong layout."""


class FormatError(UsageError):
    """An annotation, prediction or ranking file is not of the expected format, or its ids do not match."""


class StorageUnavailableError(ClipmillError):
    """Storage refused a write (read-only, full, unreachable): nothing is lost, run the command again."""

    exit_code = EXIT_RETRYABLE


class NetworkError(ClipmillError):
    """The network failed: what has been fetched is kept, run the command again to go on."""

    exit_code = EXIT_RETRYABLE


class MachineFaultError(ClipmillError):
    """Too many videos failed for reasons that are none of theirs, or no decoder starts; nothing is booked on them.

    Run the command again.
    """

    exit_code = EXIT_RETRYABLE


class EngineError(ClipmillError):
    """An engine could not finish its tasks; committed tasks stand, run the command again."""

    exit_code = EXIT_RETRYABLE


class VideoError(ClipmillError):
    """One video cannot be processed: it is quarantined with `stage` and `reason`, and the others go on.

    Args:
        stage: where it happened: ``probe``, ``scan``, ``decode``, ``segment`` or ``extract``.
        reason: a short stable code one can query and requeue by, such as ``not_a_video``.
        message: one line: what, expected, got, remedy.
    """

    def __init__(self, stage: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type["VideoError"], tuple[str, str, str]]:
        return type(self), (self.stage, self.reason, self.message)


class RenamedKeyWarning(FutureWarning):
    """A config uses a key or a value by the name it had before; read for one release."""


class CopiesAcrossSplitWarning(UserWarning):
    """A manifest's column `split` has copies of one video, under several ids, in different parts."""


def describe(thing: str, key: str, expected: str, got: str, remedy: str) -> str:
    """Returns the house's one-line error: ``<thing> <key>: expected <x>, got <y>; <remedy>``."""
    return f"{thing} {key}: expected {expected}, got {got}; {remedy}"


def near(name: str, known: Iterable[str]) -> str:
    """Returns ``did you mean 'a' or 'b'?``, or the whole list of known names where none is near."""
    names = sorted(known)
    begun = [item for item in names if len(name) > 2 and item.startswith(name)]
    close = list(dict.fromkeys([*begun, *difflib.get_close_matches(name, names, n=3, cutoff=0.5)]))[:3]
    if close:
        return "did you mean " + " or ".join(repr(item) for item in close) + "?"
    return "known: " + ", ".join(names)


def nearest(name: str, known: Sequence[str], most: int = 5) -> str:
    """Returns ``near ones: 'a', 'b'``: at most `most` of `known`, which may be many, those most like `name` first.

    Names that hold `name` in any case of letters, or are held by it, come first; then those most alike of its
    neighbours in the order of names and in that of names read backwards, so that a slip at either end is found.
    """
    if not known:
        return "there are none"
    folded = name.casefold()
    holding = [item for item in known if folded in item.casefold() or item.casefold() in folded] if name else []
    backwards = [item[::-1] for item in _around(name[::-1], [item[::-1] for item in known])]
    around = [*_around(name, known), *backwards]
    alike = difflib.get_close_matches(name, around, n=most, cutoff=0.0)
    found = list(dict.fromkeys([*sorted(holding, key=len)[:most], *alike, *around]))[:most]
    return "near ones: " + ", ".join(repr(item) for item in found)


def _around(name: str, known: Iterable[str]) -> list[str]:
    names = sorted(known)
    at = bisect(names, name)
    return names[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS]


_NEIGHBOURS = 100
"""ours: names to each side that are compared letter by letter, which of 100,000 would take seconds."""
