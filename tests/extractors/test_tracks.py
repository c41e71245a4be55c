"""Key-feature tracks against OpenCV's own matcher, a second, naive tracker, closed forms and videos with known cuts."""

import tracemalloc
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from clipmill.extractors import registry
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.tracks.build import TracksExtractor
from clipmill.extractors.tracks.keypoints import EDGE_PIXELS, MOST_TIMES, Describer, Keypoints
from clipmill.extractors.tracks.linking import Linker, Tracks, match
from clipmill.extractors.tracks.options import TracksOptions
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.errors import ConfigError, UsageError
from clipmill.schemas.recipe import ClipRule, Recipe, Sampling
from clipmill.schemas.records import Clip, Window
from clipmill.schemas.rows import Rows
from tests.shot_videos import shots, still

Pixels = npt.NDArray[np.uint8]
DEFAULTS = TracksOptions()
FRAME_SECONDS = 0.04


def tracks_recipe(**changes: Any) -> Recipe:
    feature = FeatureConfig(**({"weights": WeightsConfig(random=0)} | changes))
    return resolve_recipe("tracks", feature, ClipRule(), DecodeConfig())


def keypoints(descriptors: npt.NDArray[np.uint8], positions: Any = None) -> Keypoints:
    places = np.zeros((len(descriptors), 2)) if positions is None else np.asarray(positions)
    return Keypoints(descriptors, places.astype(np.float32))


def random_bytes(generator: np.random.Generator, number: int) -> npt.NDArray[np.uint8]:
    return generator.integers(0, 256, (number, 32), dtype=np.uint8)


def flipped(generator: np.random.Generator, descriptors: npt.NDArray[np.uint8], share: float) -> npt.NDArray[np.uint8]:
    return descriptors ^ np.packbits(generator.random((len(descriptors), 256)) < share, axis=1)


def grey(frames: Sequence[Pixels]) -> list[Pixels]:
    return [np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), dtype=np.uint8) for frame in frames]


def rows_of(frames: Sequence[Pixels], recipe: Recipe | None = None) -> Rows:
    """Returns what the extractor makes of grey frames, given in batches of 4."""
    recipe = recipe or tracks_recipe()
    extractor = registry.build(recipe, "cpu")
    reducer = extractor.reducer(Clip(0, 0.0, len(frames) * FRAME_SECONDS))
    for first in range(0, len(frames), 4):
        batch = np.stack(frames[first : first + 4])[:, np.newaxis, :, :, np.newaxis]
        outputs = extractor.forward(batch)
        for index in range(len(batch)):
            number = first + index
            window = Window(0, (number,), number * FRAME_SECONDS, (number + 1) * FRAME_SECONDS)
            reducer.add(window, {name: values[index] for name, values in outputs.items()})
    return reducer.rows()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("num_bytes", [32, 1])
def test_matches_are_those_of_opencvs_matcher_with_cross_check(seed: int, num_bytes: int) -> None:
    """With one byte that differs at all there are many equal distances."""
    generator = np.random.default_rng(seed)
    before = random_bytes(generator, 60)
    before[:, num_bytes:] = 0
    after = flipped(generator, before[generator.permutation(60)[:45]], 0.1)
    after = np.concatenate([after, random_bytes(generator, 20)])
    after[:, num_bytes:] = 0
    expected = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(before, after)
    pairs = sorted((pair.queryIdx, pair.trainIdx) for pair in expected)
    assert len(pairs) > 10
    old, new = match(keypoints(before), keypoints(after), 257, 1.0)
    assert list(zip(old.tolist(), new.tolist(), strict=True)) == pairs
    near = sorted((pair.queryIdx, pair.trainIdx) for pair in expected if pair.distance < 20)
    old, new = match(keypoints(before), keypoints(after), 20, 1.0)
    assert list(zip(old.tolist(), new.tolist(), strict=True)) == near


@pytest.mark.parametrize(("num_bits", "is_match"), [(0, True), (19, True), (20, False)])
def test_the_distance_of_a_match_is_below_20_bits(num_bits: int, is_match: bool) -> None:
    before = random_bytes(np.random.default_rng(0), 1)
    bits = np.zeros((1, 256), dtype=np.uint8)
    bits[:, :num_bits] = 1
    old, _ = match(keypoints(before), keypoints(before ^ np.packbits(bits, axis=1)), 20, 100.0)
    assert (len(old) == 1) == is_match


@pytest.mark.parametrize(("place", "is_match"), [((99.9, 0), True), ((60, 80), False), ((60, 79.9), True)])
def test_a_match_moves_less_than_100_pixels(place: tuple[float, float], is_match: bool) -> None:
    same = random_bytes(np.random.default_rng(0), 1)
    old, _ = match(keypoints(same, [(0, 0)]), keypoints(same, [place]), 20, 100.0)
    assert (len(old) == 1) == is_match


def test_the_limits_come_after_the_cross_check() -> None:
    """The nearest descriptor is too far away in place: the next nearest does not take its part."""
    same = random_bytes(np.random.default_rng(0), 1)
    near = same.copy()
    near[0, 0] ^= 1
    old, _ = match(keypoints(same, [(0, 0)]), keypoints(np.concatenate([near, same]), [(0, 0), (500, 0)]), 20, 100.0)
    assert len(old) == 0


def test_frames_without_keypoints_match_nothing() -> None:
    none, some = keypoints(np.zeros((0, 32), np.uint8)), keypoints(random_bytes(np.random.default_rng(0), 3))
    for before, after in ((none, some), (some, none), (none, none)):
        old, new = match(before, after, 20, 100.0)
        assert len(old) == len(new) == 0


def tracks_with(counts: npt.NDArray[np.integer], num_frames: int, first: npt.NDArray[np.uint8]) -> Tracks:
    number = len(counts)
    times = np.zeros(number)
    frames = np.full(number, num_frames, dtype=np.int32)
    return Tracks(counts.astype(np.int32), first, frames, times, times, np.zeros((number, 2)))


def test_a_majority_recovers_a_descriptor_from_15_copies_with_a_tenth_of_the_bits_flipped() -> None:
    generator = np.random.default_rng(3)
    true = random_bytes(generator, 40)
    copies = np.stack([flipped(generator, true, 0.1) for _ in range(15)])
    counts = np.unpackbits(copies, axis=2).sum(axis=0)
    voted = tracks_with(counts, 15, copies[0]).vote(DEFAULTS)
    wrong = np.unpackbits(voted ^ true, axis=1).sum(axis=1)
    assert wrong.max() <= 2
    # A bit is lost with probability P(X >= 8), X ~ B(15, 0.1): 3e-5, so 40 descriptors have 0.3 such bits in all.
    assert wrong.sum() <= 3


@pytest.mark.parametrize(("num_frames", "two_members", "majority"), [(8, 0.50, 0.0104), (20, 0.93, 0.0006)])
def test_false_ones_under_noise_are_what_the_binomial_law_says(
    num_frames: int, two_members: float, majority: float
) -> None:
    """Of bits that are zero in truth, seen with a fifth of them flipped; the reference's vote sets most of them."""
    counts = np.random.default_rng(0).binomial(num_frames, 0.2, (1000, 256))
    tracks = tracks_with(counts, num_frames, np.zeros((1000, 32), np.uint8))
    for vote, at_least, published in (("two_members", 2, two_members), ("majority", num_frames // 2 + 1, majority)):
        expected = float(binom.sf(at_least - 1, num_frames, 0.2))
        assert expected == pytest.approx(published, abs=0.005)
        found = np.unpackbits(tracks.vote(TracksOptions(vote=vote)), axis=1).mean()  # type: ignore[arg-type]
        assert found == pytest.approx(expected, abs=5 * np.sqrt(expected * (1 - expected) / counts.size))


def test_a_bit_half_of_an_even_track_has_is_zero_or_as_in_the_first() -> None:
    first = np.zeros((1, 32), np.uint8)
    first[0, 0] = 0b1010_0000
    counts = np.zeros((1, 256), np.int64)
    counts[0, :5] = (4, 4, 5, 3, 8)
    tracks = tracks_with(counts, 8, first)
    assert tracks.vote(DEFAULTS)[0, 0] == 0b0010_1000
    assert tracks.vote(TracksOptions(ties="first"))[0, 0] == 0b1010_1000
    odd = tracks_with(counts, 9, first)
    assert odd.vote(TracksOptions(ties="first"))[0, 0] == odd.vote(DEFAULTS)[0, 0] == 0b0010_1000


def test_two_members_set_a_bit_however_long_the_track() -> None:
    counts = np.zeros((1, 256), np.int64)
    counts[0, :3] = (1, 2, 40)
    assert tracks_with(counts, 40, np.zeros((1, 32), np.uint8)).vote(TracksOptions(vote="two_members"))[0, 0] == 0x60


@pytest.mark.parametrize(("num_frames", "expected"), [(7, 0), (8, 8), (23, 23)])
def test_a_static_shot_gives_tracks_of_its_length_from_8_frames_on(num_frames: int, expected: int) -> None:
    frames = grey(list(shots([num_frames], pan=0)))
    rows = rows_of(frames)
    assert rows.mask.all() == (expected > 0)
    if not expected:
        assert len(rows) == 1
        assert not rows.values.any()
        assert (rows.start_seconds[0], rows.stop_seconds[0]) == (0.0, num_frames * FRAME_SECONDS)
        return
    described = Describer().describe(frames[0])
    # ORB finds a corner at several scales, which BRIEF describes alike: of equal descriptors the first is tracked.
    distinct = {tuple(value) for value in described.descriptors.tolist()}
    assert 0.8 * len(described) < len(distinct) == len(rows)
    assert (rows.extras["track_frames"] == expected).all()
    assert (rows.extras["shot"] == 0).all()
    assert {tuple(value) for value in rows.values.tolist()} == {
        tuple(value) for value in described.descriptors.tolist()
    }
    assert (rows.start_seconds == 0).all()
    np.testing.assert_allclose(rows.stop_seconds, expected * FRAME_SECONDS)
    compression = num_frames * len(described) / len(rows)
    assert compression == pytest.approx(num_frames, rel=0.25)


def naive(frames: Sequence[Pixels]) -> list[tuple[int, int, int, bytes]]:
    """A second tracker, of lists and OpenCV's matcher: (shot, first frame, number of frames, voted descriptor)."""
    detector, brief = cv2.ORB_create(), cv2.xfeatures2d.BriefDescriptorExtractor_create()  # type: ignore[attr-defined]
    matcher = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)
    described = [brief.compute(frame, detector.detect(frame, None)) for frame in frames]
    shot, found = 0, []
    open_tracks = {index: (0, [value]) for index, value in enumerate(described[0][1])}

    def close(tracks: Any) -> None:
        for start, members in tracks:
            if len(members) >= 8:
                bits = np.unpackbits(np.stack(members), axis=1)
                voted = np.packbits(bits.sum(axis=0) * 2 > len(members))
                found.append((shot, start, len(members), voted.tobytes()))

    for number in range(1, len(frames)):
        (before, old), (after, new) = described[number - 1], described[number]
        pairs = {}
        for pair in matcher.match(old, new):
            moved = np.hypot(*np.subtract(before[pair.queryIdx].pt, after[pair.trainIdx].pt))
            if pair.distance < 20 and moved < 100:
                pairs[pair.trainIdx] = pair.queryIdx
        if len(pairs) <= 1:
            close(open_tracks.values())
            shot, pairs, open_tracks = shot + 1, {}, {}
        continued = {now: open_tracks.pop(then) for now, then in pairs.items()}
        close(open_tracks.values())
        open_tracks = {}
        for index, value in enumerate(new):
            start, members = continued.get(index, (number, []))
            open_tracks[index] = (start, [*members, value])
    close(open_tracks.values())
    return found


def test_rows_are_those_of_a_second_tracker_and_cuts_are_exact() -> None:
    lengths = [12, 9, 5, 11]
    frames = grey(list(shots(lengths, pan=3)))
    rows = rows_of(frames)
    expected = naive(frames)
    firsts = np.rint(rows.start_seconds / FRAME_SECONDS).astype(int).tolist()
    shot, num_frames = rows.extras["shot"].tolist(), rows.extras["track_frames"].tolist()
    found = list(zip(shot, firsts, num_frames, [value.tobytes() for value in rows.values], strict=True))
    assert sorted(found) == sorted(expected)
    # The third shot is too short for a track; the others have many, all inside their shot.
    assert set(shot) == {0, 1, 3}
    begins = np.cumsum([0, *lengths])
    stops = np.rint(rows.stop_seconds / FRAME_SECONDS).astype(int)
    for index in set(shot):
        own = np.array(shot) == index
        assert own.sum() > 30
        assert (np.array(firsts)[own] >= begins[index]).all()
        assert (stops[own] <= begins[index + 1]).all()
    assert (stops - firsts == num_frames).all()
    # Mean positions lie where ORB looks for corners.
    x = rows.extras["x"].astype(np.float64)
    assert EDGE_PIXELS - 1 < x.min() < x.max() < 320 - EDGE_PIXELS + 1


def link_all(descriptors: Sequence[npt.NDArray[np.uint8]], options: TracksOptions = DEFAULTS) -> tuple[list[int], Any]:
    linker = Linker(options)
    boundaries: list[int] = []
    lengths: list[int] = []
    for number, values in enumerate(descriptors):
        is_boundary, ended = linker.add(keypoints(values), float(number), number + 1.0)
        if is_boundary:
            boundaries.append(number)
        lengths += [] if ended is None else ended.num_frames.tolist()
    last = linker.tracks
    return boundaries, lengths + ([] if last is None else last.num_frames.tolist())


@pytest.mark.parametrize("cut", [1499, 1500, 1501])
def test_a_cut_at_the_edge_of_the_references_chunks_is_where_it_is(cut: int) -> None:
    generator = np.random.default_rng(0)
    one, two = random_bytes(generator, 5), random_bytes(generator, 5)
    boundaries, lengths = link_all([one] * cut + [two] * (1600 - cut))
    assert boundaries == [cut]
    assert sorted(lengths) == sorted([cut] * 5 + [1600 - cut] * 5)


@pytest.mark.parametrize(("num_shared", "is_boundary"), [(0, True), (1, True), (2, False)])
def test_a_boundary_is_where_at_most_one_track_is_shared_and_cuts_it(num_shared: int, is_boundary: bool) -> None:
    generator = np.random.default_rng(0)
    one, two = random_bytes(generator, 6), random_bytes(generator, 6)
    two[:num_shared] = one[:num_shared]
    boundaries, lengths = link_all([one] * 10 + [two] * 10)
    assert boundaries == ([10] if is_boundary else [])
    assert sorted(lengths) == ([10] * 12 if is_boundary else [10] * 8 + [20] * 2)
    boundaries, _ = link_all([one] * 10 + [two] * 10, TracksOptions(max_shared_tracks=2))
    assert boundaries == [10]


def test_an_unmatched_frame_ends_a_track_for_good() -> None:
    generator = np.random.default_rng(0)
    kept, lost = random_bytes(generator, 4), random_bytes(generator, 1)
    _, lengths = link_all([np.concatenate([kept, lost])] * 9 + [kept] + [np.concatenate([kept, lost])] * 9)
    assert sorted(lengths) == [9, 9, 19, 19, 19, 19]


def test_memory_does_not_grow_with_the_length_of_a_shot() -> None:
    frame = keypoints(random_bytes(np.random.default_rng(0), 200))

    def peak(num_frames: int) -> int:
        linker = Linker(DEFAULTS)
        tracemalloc.start()
        for number in range(num_frames):
            linker.add(frame, float(number), number + 1.0)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(5)
    # Descriptors of 280 frames more would be 1.8 MB; what Python's collector has not come to yet is some 90 bytes each.
    assert abs(peak(300) - peak(20)) < 100_000


@pytest.mark.parametrize("value", [0, 255])
def test_a_video_that_shows_nothing_has_one_masked_row(value: int) -> None:
    frames = [np.full((100, 160), value, np.uint8)] * 12
    for layer in ("key_features", "frame_descriptors"):
        rows = rows_of(frames, tracks_recipe(layer=layer))
        assert rows.mask.tolist() == [False]
        assert not rows.values.any()


@pytest.mark.parametrize("shape", [(62, 400), (400, 62), (1, 1), (80, 400)])
def test_frames_too_small_for_a_corner_have_none(shape: tuple[int, int]) -> None:
    found = Describer().describe(still(0, *shape)[:, :, 0])
    assert len(found) == len(found.positions)
    assert (len(found) > 0) == (min(shape) > 62)


def test_a_regular_pattern_keeps_a_bounded_number_of_keypoints() -> None:
    tile = np.zeros((24, 24), np.uint8)
    tile[6:14, 6:14] = 255
    pattern = np.tile(tile, (20, 30))
    assert len(cv2.ORB_create(nfeatures=10).detect(pattern)) > MOST_TIMES * 10  # type: ignore[attr-defined]
    assert 0 < len(Describer(num_keypoints=10).describe(pattern)) <= MOST_TIMES * 10


def test_descriptors_stay_with_their_keypoints() -> None:
    frame = grey([still(5, 200, 300)])[0]
    found = Describer().describe(frame)
    assert len(found) > 100
    brief = cv2.xfeatures2d.BriefDescriptorExtractor_create()  # type: ignore[attr-defined]
    for index in (0, len(found) // 2, len(found) - 1):
        x, y = (float(value) for value in found.positions[index])
        _, alone = brief.compute(frame, [cv2.KeyPoint(x, y, 31.0)])
        np.testing.assert_array_equal(alone[0], found.descriptors[index])


def test_frame_descriptors_are_those_of_every_frame_with_place_shot_and_age() -> None:
    frames = grey(list(shots([5, 4], pan=0)))
    rows = rows_of(frames, tracks_recipe(layer="frame_descriptors"))
    described = [Describer().describe(frame) for frame in frames]
    np.testing.assert_array_equal(rows.values, np.concatenate([item.descriptors for item in described]))
    places = np.stack([rows.extras["x"], rows.extras["y"]], axis=1)
    np.testing.assert_array_equal(places, np.concatenate([item.positions for item in described]))
    number = np.repeat(np.arange(9), [len(item) for item in described])
    np.testing.assert_allclose(rows.start_seconds, number * FRAME_SECONDS)
    np.testing.assert_array_equal(rows.extras["shot"], (number >= 5).astype(np.int32))
    distinct = [np.unique(described[frame].descriptors, axis=0, return_index=True)[1] for frame in (0, 5)]
    starts = np.searchsorted(number, np.arange(9))
    for frame in range(9):
        age = rows.extras["track_frames"][starts[frame] + distinct[frame >= 5]]
        assert (age == (frame + 1 if frame < 5 else frame - 4)).all()
    assert rows.values.dtype == np.uint8
    assert rows.mask.all()


def test_options_reach_the_rows() -> None:
    frames = grey(list(shots([12], pan=2)))
    few = rows_of(frames, tracks_recipe(options={"num_keypoints": 50}))
    assert 0 < len(few) < len(rows_of(frames)) / 3
    everything = rows_of(frames, tracks_recipe(options={"min_track_frames": 1}))
    assert len(everything) > len(rows_of(frames))
    assert int(everything.extras["track_frames"].sum()) == sum(len(Describer().describe(frame)) for frame in frames)
    two = rows_of(frames, tracks_recipe(options={"vote": "two_members"}))
    num_bits = [int(np.bitwise_count(rows.values.astype(np.uint8)).sum()) for rows in (two, rows_of(frames))]
    assert num_bits[0] > num_bits[1]


def test_the_defaults_are_the_references() -> None:
    recipe = tracks_recipe()
    assert (recipe.layer, recipe.dim, recipe.dtype, recipe.weights.source) == ("key_features", 32, "uint8", "none")
    assert (recipe.preprocess.resize, recipe.preprocess.size, recipe.preprocess.colour) == ("width", (720,), "grey")
    assert recipe.sampling == Sampling(frames=1)
    assert recipe.options == {
        "num_keypoints": 500,
        "fast_threshold": 20,
        "max_distance": 20,
        "max_displacement": 100.0,
        "max_shared_tracks": 1,
        "min_track_frames": 8,
        "vote": "majority",
        "ties": "zero",
    }
    assert tracks_recipe(weights=None).fingerprint == recipe.fingerprint
    assert isinstance(registry.build(recipe, "cpu"), TracksExtractor)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"sampling": Sampling(random_frames=3)}, UsageError, "random_frames: expected none .tracks need a sequence"),
        ({"sampling": Sampling(frames=16)}, UsageError, "frames: expected 1 .tracks takes no other"),
        ({"pooling": "mean"}, UsageError, "pooling: expected none for binary descriptors, got pooling: mean"),
        ({"dtype": "float32"}, UsageError, "dtype: expected uint8 for layer key_features, got float32"),
        ({"layer": "key_feature"}, UsageError, "did you mean 'key_features'"),
        ({"options": {"votes": "majority"}}, ConfigError, "options votes: unknown key; did you mean 'vote'"),
        ({"options": {"vote": "most"}}, ConfigError, "vote: Input should be 'majority' or 'two_members'"),
        ({"options": {"max_distance": 0}}, ConfigError, "max_distance: Input should be greater than or equal to 1"),
        ({"weights": WeightsConfig(file="a.pth")}, UsageError, "expected none .tracks reads no file., got a.pth"),
        ({"preprocess": {"colour": "rgb"}}, UsageError, "colour: expected grey, got rgb"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tracks_recipe(**changes)
