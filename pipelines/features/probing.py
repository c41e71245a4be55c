"""Probing a manifest: the fingerprint and the header of every video, read once and remembered in the store."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from clipmill.extractors import registry
from clipmill.extractors.flow_files import FLOW_MARK, UNREADABLE
from clipmill.pipelines.decode.inspection import DEFAULT_LIMITS, InspectionLimits
from clipmill.pipelines.decode.probe import probe, video_fingerprint
from clipmill.pipelines.features.sources import is_local, local_copy, local_path
from clipmill.schemas.errors import UsageError, VideoError, describe
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video
from clipmill.stores.store import Probe

PROBE_THREADS = 4
"""Hashing releases the interpreter lock; more threads than this only fight for the disk (ours)."""

PASSING_REASONS = frozenset({"deadline", "out_of_memory", "decoder_crashed"})
"""Failures that say as much of the machine as of the file: `clipmill requeue` must be able to try them anew."""

ProbeKey = tuple[str, int, int]

STREAM_MARK = "#stream="
"""Between a file's place and the stream that was asked for, in a probe's key."""


@dataclass(frozen=True, slots=True)
class ProbedVideo:
    """A video with its fingerprint and header, or with the reason it has none."""

    video: Video
    error: VideoError | None = None


def probe_videos(
    videos: Sequence[Video],
    known: Mapping[ProbeKey, Probe],
    on_probed: Callable[[int, int], None] | None = None,
    limits: InspectionLimits = DEFAULT_LIMITS,
) -> tuple[list[ProbedVideo], dict[ProbeKey, Probe]]:
    """Returns every video probed, in order, and what was newly learnt (to be remembered by `Store.write_probes`).

    A local file whose path, size and modification time are known is not opened again. Remote objects are always read:
    they have no modification time one can trust.

    Raises:
        MachineFaultError: no child could be started to read headers in.
    """
    learnt: dict[ProbeKey, Probe] = {}

    def one(video: Video) -> ProbedVideo:
        key = _key(video)
        found = known.get(key) if key is not None else None
        if found is None:
            found = _read(video, limits)
            # A file nobody could read is not known (permission comes back without a new modification time), nor is one
            # that a machine under load could not finish.
            if key is not None and found.fingerprint and not (found.failure and found.failure[1] in PASSING_REASONS):
                learnt[key] = found
        return _apply(video, found)

    results: list[ProbedVideo] = []
    with ThreadPoolExecutor(PROBE_THREADS, thread_name_prefix="probe") as pool:
        for result in pool.map(one, videos):
            results.append(result)
            if on_probed is not None:
                on_probed(len(results), len(videos))
    return results, learnt


def digest_files(
    probed: Sequence[ProbedVideo],
    recipes: Sequence[Recipe],
    known: Mapping[ProbeKey, Probe],
    earlier: Callable[[], Mapping[tuple[str, str], str]] = dict,
) -> tuple[list[ProbedVideo], dict[ProbeKey, Probe]]:
    """Returns the videos with the digests of what `recipes` read beside them, and what was newly learnt.

    Files whose names, sizes and modification times are known are not read again.

    Raises:
        UsageError: two videos would have the same files.

    Args:
        earlier: returns the digests of earlier runs, by video id and recipe fingerprint. They stand for files none of
            which is there any more: rows stay in force when the images they were made from are deleted.
    """
    finders = [(recipe, find) for recipe in recipes if (find := registry.card_of(recipe).video_files) is not None]
    learnt: dict[ProbeKey, Probe] = {}
    if not finders:
        return list(probed), learnt
    before = earlier()
    owners: dict[tuple[str, str], Video] = {}

    def one(item: ProbedVideo) -> ProbedVideo:
        digests: list[tuple[str, str]] = []
        for recipe, find in finders:
            files = find(recipe, item.video)
            owner = owners.setdefault((recipe.fingerprint, files.uri), item.video)
            if owner.fingerprint != item.video.fingerprint:
                expected = "images of its own for each video"
                ids = " and ".join(sorted((owner.id, item.video.id)))
                got = f"the same for {ids}: {files.uri.partition(FLOW_MARK)[0]}"
                remedy = "put {path} or {id} into flow.folder"
                raise UsageError(describe(f"features.{recipe.name}.options", "flow.folder", expected, got, remedy))
            gone = before.get((item.video.id, recipe.fingerprint)) if not (files.num_x or files.num_y) else None
            if gone is not None:
                digests.append((recipe.fingerprint, gone))
                continue
            key = (files.uri, *files.stamp())
            found = known.get(key)
            digest = found.fingerprint if found is not None else files.digest()
            # Permission comes back without a new modification time.
            if found is None and digest != UNREADABLE:
                learnt[key] = Probe(digest, None, None)
            digests.append((recipe.fingerprint, digest))
        return replace(item, video=replace(item.video, file_digests=tuple(digests))) if digests else item

    with ThreadPoolExecutor(PROBE_THREADS, thread_name_prefix="digest") as pool:
        return list(pool.map(one, probed)), learnt


def _key(video: Video) -> ProbeKey | None:
    if not is_local(video.uri):
        return None
    try:
        status = os.stat(local_path(video.uri))
    except OSError:
        return None
    # The streams of one file are videos of their own.
    uri = video.uri if video.stream is None else f"{video.uri}{STREAM_MARK}{video.stream}"
    return uri, status.st_size, status.st_mtime_ns


def _read(video: Video, limits: InspectionLimits) -> Probe:
    fingerprint = ""
    try:
        with local_copy(video.uri) as path:
            fingerprint = video_fingerprint(path, video.stream)
            return Probe(fingerprint, probe(path, video.stream, limits), None)
    except VideoError as error:
        return Probe(fingerprint, None, (error.stage, error.reason, error.message))


def _apply(video: Video, found: Probe) -> ProbedVideo:
    num_bytes = os.stat(local_path(video.uri)).st_size if _key(video) is not None else 0
    probed = replace(video, fingerprint=found.fingerprint, header=found.header, num_bytes=num_bytes)
    return ProbedVideo(probed, None if found.failure is None else VideoError(*found.failure))
