"""Probing a manifest: the fingerprint and the header of every video, read once and remembered in the store."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

from clipmill.extractors import registry
from clipmill.extractors.flow_files import FLOW_MARK, UNREADABLE
from clipmill.pipelines.decode.inspection import DEFAULT_LIMITS, InspectionLimits, idle_children
from clipmill.pipelines.decode.probe import probe, video_fingerprint
from clipmill.pipelines.features.engines.cores import num_cores
from clipmill.pipelines.features.machine_faults import is_passing
from clipmill.pipelines.features.remote_videos import (
    RemoteState,
    address_of,
    fetched_copy,
    header_by_ranges,
    remote_fingerprint,
    remote_state,
)
from clipmill.pipelines.features.sources import DEFAULT_CALLS, is_local, local_copy, local_path
from clipmill.schemas.errors import UsageError, VideoError, describe
from clipmill.schemas.recipe import Recipe
from clipmill.schemas.records import Video
from clipmill.stores.storage_faults import RetriedCalls
from clipmill.stores.store import Probe, ProbeTable

LEAST_PROBE_THREADS = 4
"""ours: fewer cores than this still wait for more files than one at a time, as disks answer late."""

MOST_PROBE_THREADS = 32
"""ours: each keeps a child of 40 MiB that reads headers."""

VIDEOS_AT_A_TIME = 8192
"""ours: so many are looked up among the known ones together."""

ProbeKey = tuple[str, int, int]

STREAM_MARK = "#stream="
"""Between a file's place and the stream that was asked for, in a probe's key."""

STATE_MARK = "#state="
"""Between a remote file's address and what its server says of its bytes, in a probe's key."""


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
    num_threads: int | None = None,
    calls: RetriedCalls = DEFAULT_CALLS,
    earlier: Mapping[str, str] | None = None,
) -> tuple[list[ProbedVideo], dict[ProbeKey, Probe]]:
    """Returns every video probed, in order, and what was newly learnt (to be remembered by `Store.write_probes`).

    A local file whose path, size and modification time are known is not opened again, nor is a remote one fetched whose
    server says that it is the same. What is new is read by `num_threads`; None: as many as there are cores, at least
    `LEAST_PROBE_THREADS` and at most `MOST_PROBE_THREADS`.

    Args:
        calls: to the servers of remote videos.
        earlier: fingerprints the store has, by video id: an identity by bytes that still holds is kept.

    Raises:
        MachineFaultError: no child could be started to read headers in.
    """
    learnt: dict[ProbeKey, Probe] = {}
    results: list[ProbedVideo] = []
    threads = num_threads or _probe_threads()
    remote = _RemoteReader(known, earlier or {}, limits, calls)
    num_done = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="probe") as pool, idle_children(threads):
        for start in range(0, len(videos), VIDEOS_AT_A_TIME):
            part = videos[start : start + VIDEOS_AT_A_TIME]
            asked = remote.ask(part, pool)
            keys = [
                _key(video) if is_local(video.uri) else asked[number].key(video) for number, video in enumerate(part)
            ]
            found = _find(known, keys)
            # Threads only for what has to be read: to hand a video to one takes longer than to look it up.
            unknown = [number for number, item in enumerate(found) if item is None]
            num_done += len(part) - len(unknown)
            if on_probed is not None and not unknown:
                on_probed(num_done, len(videos))

            def read(number: int, part: Sequence[Video] = part, asked: Mapping[int, _Asked] = asked) -> Probe:
                return remote.read(part[number], asked[number]) if number in asked else _read(part[number], limits)

            for number, item in zip(unknown, pool.map(read, unknown), strict=True):
                found[number] = item
                key = keys[number]
                # A file nobody could read is not known (permission comes back without a new modification time), nor is
                # one that a machine under load could not finish, or that storage did not give.
                if key is not None and item.fingerprint and not (item.failure and is_passing(item.failure[1])):
                    learnt[key] = item
                num_done += 1
                if on_probed is not None:
                    on_probed(num_done, len(videos))
            results += [
                _apply(video, key, item) for video, key, item in zip(part, keys, found, strict=True) if item is not None
            ]
    return results, learnt


def _probe_threads() -> int:
    return min(max(num_cores(), LEAST_PROBE_THREADS), MOST_PROBE_THREADS)


def _find(known: Mapping[ProbeKey, Probe], keys: Sequence[ProbeKey | None]) -> list[Probe | None]:
    if not isinstance(known, ProbeTable):
        return [None if key is None else known.get(key) for key in keys]
    places = [number for number, key in enumerate(keys) if key is not None]
    found: list[Probe | None] = [None] * len(keys)
    for number, item in zip(places, known.find([key for key in keys if key is not None]), strict=True):
        found[number] = item
    return found


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

    with ThreadPoolExecutor(_probe_threads(), thread_name_prefix="digest") as pool:
        return list(pool.map(one, probed)), learnt


def place_of(probe_uri: str) -> str:
    """Returns where the file of a probe's key lies."""
    return probe_uri.partition(STREAM_MARK)[0].partition(STATE_MARK)[0]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a server said of a remote video, or why it said nothing."""

    state: RemoteState | None
    error: VideoError | None = None

    def key(self, video: Video) -> ProbeKey | None:
        if self.state is None:
            return None
        uri = f"{address_of(video.uri)}{STATE_MARK}{self.state.token}"
        return uri if video.stream is None else f"{uri}{STREAM_MARK}{video.stream}", self.state.num_bytes, 0


class _RemoteReader:
    """Asks the servers of remote videos, and reads those that are new."""

    def __init__(
        self,
        known: Mapping[ProbeKey, Probe],
        earlier: Mapping[str, str],
        limits: InspectionLimits,
        calls: RetriedCalls,
    ) -> None:
        self._known = known
        self._earlier = earlier
        self._limits = limits
        self._calls = calls

    def ask(self, videos: Sequence[Video], pool: ThreadPoolExecutor) -> dict[int, _Asked]:
        """Returns what is said of the remote ones of `videos`, by position."""
        numbers = [number for number, video in enumerate(videos) if not is_local(video.uri)]
        return dict(zip(numbers, pool.map(lambda number: self._ask(videos[number]), numbers), strict=True))

    def _ask(self, video: Video) -> _Asked:
        try:
            return _Asked(remote_state(video.uri, self._calls))
        except VideoError as error:
            return _Asked(None, error)

    def read(self, video: Video, asked: _Asked) -> Probe:
        """Returns what is in it: by ranges where its server's word identifies it, else by all its bytes."""
        if asked.error is not None:
            return _failed("", asked.error)
        state, own = asked.state, ""
        if state is not None:
            own = remote_fingerprint(video.uri, state, video.stream)
        before = self._earlier.get(video.id, "")
        # Of one that the store knows, and whose server was never asked, only the bytes tell whether it is the same.
        is_by_bytes = state is None or (before not in ("", own) and address_of(video.uri) not in self._addresses)
        fingerprint = own
        try:
            if state is not None and not is_by_bytes:
                header = header_by_ranges(video.uri, state, video.stream, self._limits, self._calls)
                if header is not None:
                    return Probe(own, header)
            with fetched_copy(video.uri, self._calls, keep=True) as path:
                if is_by_bytes:
                    content = video_fingerprint(path, video.stream)
                    fingerprint = content if content == before or not own else own
                return Probe(fingerprint, probe(path, video.stream, self._limits))
        except VideoError as error:
            return _failed(fingerprint, error)

    @cached_property
    def _addresses(self) -> frozenset[str]:
        return frozenset(place_of(uri) for uri, _, _ in self._known if STATE_MARK in uri)


def _failed(fingerprint: str, error: VideoError) -> Probe:
    return Probe(fingerprint, None, (error.stage, error.reason, error.message))


def _key(video: Video) -> ProbeKey | None:
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
        return _failed(fingerprint, error)


def _apply(video: Video, key: ProbeKey | None, found: Probe) -> ProbedVideo:
    probed = Video(
        id=video.id,
        uri=video.uri,
        fingerprint=found.fingerprint,
        num_bytes=0 if key is None else key[1],
        header=found.header,
        label=video.label,
        split=video.split,
        segments=video.segments,
        stream=video.stream,
        file_digests=video.file_digests,
    )
    return ProbedVideo(probed, None if found.failure is None else VideoError(*found.failure))
