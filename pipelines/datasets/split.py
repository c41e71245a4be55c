"""Which clips train, validate and test: decided per video, so that no clip of a training video is ever tested."""

import hashlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from clipmill.schemas.errors import CopiesAcrossSplitWarning, ManifestError, describe

SPLIT_NAMES = ("train", "validation", "test")


def random_parts(
    video_ids: Sequence[str],
    labels: Sequence[str],
    test_fraction: float,
    validation_fraction: float,
    seed: int,
    contents: Mapping[str, str] | None = None,
) -> npt.NDArray[np.str_]:
    """Returns each clip's part: about these fractions of the videos of each label are tested and validated on.

    Videos of the same bytes under several ids are one video here, so that no copy of a training video is ever tested.

    A video with clips of several labels counts for its most frequent one. Videos are ordered by a hash of (seed, id),
    so a video's place does not depend on the platform or on the other labels. Of n videos of a label, round(fraction *
    n) are tested, but at least one and at most n - 1; a label with a single video is not tested. Of the next ones
    round(fraction * n) validate, as long as one is left to train.

    Args:
        video_ids, labels: one per clip.
        contents: by video id, a digest of its bytes; without one a video has no copies.
    """
    same = _first_of_copies(video_ids, contents or {})
    per_video: dict[str, Counter[str]] = defaultdict(Counter)
    for video_id, label in zip(video_ids, labels, strict=True):
        per_video[same[video_id]][label] += 1
    groups: dict[str, list[str]] = defaultdict(list)
    for video_id, counts in per_video.items():
        groups[min(counts, key=lambda name: (-counts[name], name))].append(video_id)
    parts: dict[str, str] = {}
    for members in groups.values():
        num_test = min(max(int(test_fraction * len(members) + 0.5), 1), len(members) - 1)
        num_validation = min(int(validation_fraction * len(members) + 0.5), len(members) - num_test - 1)
        ordered = sorted(members, key=lambda video_id: _draw(seed, video_id))
        parts |= dict.fromkeys(ordered[:num_test], "test")
        parts |= dict.fromkeys(ordered[num_test : num_test + num_validation], "validation")
    return np.array([parts.get(same[video_id], "train") for video_id in video_ids], dtype="<U10")


def manifest_parts(
    video_ids: Sequence[str], splits: Mapping[str, str | None], contents: Mapping[str, str] | None = None
) -> npt.NDArray[np.str_]:
    """Returns each clip's part, ``train``, ``validation`` or ``test``, from its video's entry in the manifest.

    What the manifest says holds for copies too, as published splits have some on both sides; it is warned of.

    Args:
        video_ids: one per clip.
        splits: by video id.
        contents: by video id, a digest of its bytes.

    Raises:
        ManifestError: a video has no split, or one that is none of the three.
    """
    wrong = sorted({video_id for video_id in video_ids if splits.get(video_id) not in SPLIT_NAMES})
    if wrong:
        got = f"{splits.get(wrong[0])!r} for {wrong[0]!r}" + (f" and {len(wrong) - 1} more" if len(wrong) > 1 else "")
        raise ManifestError(
            describe(
                "manifest",
                "split",
                "train, validation or test for every video",
                got,
                "fill in the column split, or take data.split.from: random",
            )
        )
    same = _first_of_copies(video_ids, contents or {})
    across = sorted({(same[name], name) for name in video_ids if splits[name] != splits[same[name]]})
    if across:
        first, second = across[0]
        warnings.warn(
            f"split: {len(across)} videos hold the bytes of one in another part, such as {second!r} ({splits[second]}) "
            f"and {first!r} ({splits[first]}); give copies one part in the manifest's column split",
            CopiesAcrossSplitWarning,
            stacklevel=2,
        )
    return np.array([splits[video_id] for video_id in video_ids], dtype="<U10")


def _first_of_copies(video_ids: Sequence[str], contents: Mapping[str, str]) -> dict[str, str]:
    """Returns for each video the least id of those with its bytes."""
    first: dict[str, str] = {}
    ids = sorted(set(video_ids))
    return {video_id: first.setdefault(contents.get(video_id) or f"id {video_id}", video_id) for video_id in ids}


def validation_videos(video_ids: Sequence[str], fraction: float, seed: int) -> frozenset[str]:
    """Returns round(`fraction` x n) of the n distinct videos, at least one, in the order of a hash of seed and id."""
    ordered = sorted(set(video_ids), key=lambda video_id: _draw(seed, video_id))
    return frozenset(ordered[: max(1, int(fraction * len(ordered) + 0.5))])


def _draw(seed: int, video_id: str) -> bytes:
    return hashlib.blake2b(f"{seed}\n{video_id}".encode(), digest_size=16).digest()
