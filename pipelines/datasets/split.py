"""Which clips train, validate and test: decided per video, so that no clip of a training video is ever tested."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from clipmill.schemas.errors import ManifestError, describe

SPLIT_NAMES = ("train", "validation", "test")


def random_parts(
    video_ids: Sequence[str], labels: Sequence[str], test_fraction: float, validation_fraction: float, seed: int
) -> npt.NDArray[np.str_]:
    """Returns each clip's part: about these fractions of the videos of each label are tested and validated on.

    A video with clips of several labels counts for its most frequent one. Videos are ordered by a hash of (seed, id),
    so a video's place does not depend on the platform or on the other labels. Of n videos of a label, round(fraction *
    n) are tested, but at least one and at most n - 1; a label with a single video is not tested. Of the next ones
    round(fraction * n) validate, as long as one is left to train.

    Args:
        video_ids, labels: one per clip.
    """
    per_video: dict[str, Counter[str]] = defaultdict(Counter)
    for video_id, label in zip(video_ids, labels, strict=True):
        per_video[video_id][label] += 1
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
    return np.array([parts.get(video_id, "train") for video_id in video_ids], dtype="<U10")


def manifest_parts(video_ids: Sequence[str], splits: Mapping[str, str | None]) -> npt.NDArray[np.str_]:
    """Returns each clip's part, ``train``, ``validation`` or ``test``, from its video's entry in the manifest.

    Args:
        video_ids: one per clip.
        splits: by video id.

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
    return np.array([splits[video_id] for video_id in video_ids], dtype="<U10")


def validation_videos(video_ids: Sequence[str], fraction: float, seed: int) -> frozenset[str]:
    """Returns round(`fraction` x n) of the n distinct videos, at least one, in the order of a hash of seed and id."""
    ordered = sorted(set(video_ids), key=lambda video_id: _draw(seed, video_id))
    return frozenset(ordered[: max(1, int(fraction * len(ordered) + 0.5))])


def _draw(seed: int, video_id: str) -> bytes:
    return hashlib.blake2b(f"{seed}\n{video_id}".encode(), digest_size=16).digest()
