"""The error of a file that cannot be used, as the child raises it."""

from clipmill.schemas.errors import VideoError


class Refused(VideoError):
    """A `VideoError` of the child; the stage is filled in by the parent, which knows what it asked for."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__("", reason, message)


def refusal(path: str, reason: str, expected: str, got: str, remedy: str) -> Refused:
    """Returns the error in the house's one line."""
    return Refused(reason, f"video {path}: expected {expected}, got {got}; {remedy}")
