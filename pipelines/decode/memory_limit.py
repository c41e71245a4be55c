"""How much address space a decode child may have: the lesser of what is asked for and what this process may give."""

import resource

GIB = 1 << 30


def allowed_bytes(asked_bytes: int) -> int:
    """Returns `asked_bytes`, or this process's own limit (``ulimit -v``, soft or hard) where that is less."""
    limits = [limit for limit in resource.getrlimit(resource.RLIMIT_AS) if limit != resource.RLIM_INFINITY]
    return min([asked_bytes, *limits])


def remedy(asked_bytes: int, killed: bool = False) -> str:
    """Returns what a user can do where a decode child has too little memory.

    Args:
        killed: by the kernel, whose memory ran out: a higher limit would not help.
    """
    if killed:
        return "see that the machine has memory to spare"
    allowed = allowed_bytes(asked_bytes)
    if allowed < asked_bytes:
        return f"raise the limit on address space (ulimit -v), which is {allowed / GIB:.2f} GiB here"
    return "raise decode.memory_gib"
