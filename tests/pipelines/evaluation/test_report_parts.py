"""The parts of the report by themselves: animated strips, the map's layouts, confusions, lineage texts."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery, Queries, RetrievalResult, evaluate_retrieval
from clipmill.pipelines.evaluation.retrieval.scorers import Cosine
from clipmill.pipelines.evaluation.tasks.retrieval.confusion import LABELS_SHOWN, OTHERS, confusion
from clipmill.pipelines.evaluation.tasks.retrieval.embedding_map import FEWEST, label_styles, lay_out, sample_items
from clipmill.pipelines.reports.lineage import frames_text
from clipmill.pipelines.reports.page import Pictures, clock_text
from clipmill.pipelines.reports.pictures import clip_seconds, strip, strips


def _jpeg(colour: tuple[int, int, int], size: tuple[int, int] = (192, 108)) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _pixels(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB")).astype(int)


# --- strips ---------------------------------------------------------------------------------------


def test_a_strip_holds_its_frames_side_by_side_in_order() -> None:
    colours = [(200, 20, 20), (20, 200, 20), (20, 20, 200)]
    found = strip([_jpeg(colour) for colour in colours])
    pixels = _pixels(found.data)
    assert (found.num_frames, pixels.shape) == (3, (108, 3 * 192, 3))
    for index, colour in enumerate(colours):
        assert np.abs(pixels[54, 192 * index + 96] - colour).max() < 20


def test_a_tall_frame_is_shown_whole_between_bars() -> None:
    pixels = _pixels(strip([_jpeg((230, 230, 230), (60, 120))]).data)
    assert pixels.shape == (108, 192, 3)
    assert pixels[54, 96].min() > 200  # the frame, 54 wide
    assert pixels[54, 10].max() < 40
    assert pixels[2, 96].min() > 200


def test_a_still_clip_is_one_frame() -> None:
    same = _jpeg((9, 9, 9))
    assert strip([same, same, same]).num_frames == 1


def _middle(frames: list[bytes]) -> list[bytes]:
    return [frames[len(frames) // 2]]


def test_strips_lose_frames_and_then_pictures_before_they_exceed_the_budget() -> None:
    rng = np.random.default_rng(0)

    def noise() -> bytes:
        buffer = BytesIO()
        Image.fromarray(rng.integers(0, 255, (108, 192, 3), dtype=np.uint8)).save(buffer, "JPEG")
        return buffer.getvalue()

    frames = {name: [noise() for _ in range(4)] for name in "ab"}
    whole = strips(frames)
    assert [item.num_frames for item in whole.values()] == [4, 4]
    size = sum(len(item.data) for item in whole.values())
    half = strips(frames, budget_bytes=size * 6 // 10)
    assert [item.num_frames for item in half.values()] == [2, 2]
    assert sum(len(item.data) for item in half.values()) <= size * 6 // 10
    single = strip(_middle(frames["a"]))
    assert list(strips(frames, budget_bytes=len(single.data) + 10)) == ["a"]
    assert strips(frames, budget_bytes=1) == {}


def test_frames_are_taken_in_the_middle_of_equal_parts() -> None:
    assert clip_seconds(10.0, 18.0, 4) == (11.0, 13.0, 15.0, 17.0)


def test_a_picture_is_stored_once_and_knows_its_kind() -> None:
    pictures = Pictures()
    jpeg, webp = _jpeg((1, 2, 3)), strip([_jpeg((1, 2, 3)), _jpeg((200, 2, 3))])
    names = [pictures.name(jpeg), pictures.name(webp.data, webp.num_frames), pictures.name(jpeg), pictures.name(None)]
    assert names == ["t0", "t1", "t0", ""]
    assert pictures.sheets["t0"].startswith("data:image/jpeg;base64,")
    assert pictures.sheets["t1"].startswith("data:image/webp;base64,")
    assert pictures.num_frames == {"t0": 1, "t1": 2}


# --- map ------------------------------------------------------------------------------------------


def _clusters(num: int, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    codes = np.arange(num) % num_labels
    return rng.standard_normal((num_labels, 32))[codes] * 4 + rng.standard_normal((num, 32)), codes


def test_layouts_keep_clusters_together_and_are_the_same_every_time() -> None:
    vectors, codes = _clusters(60, 4)
    layouts, explained = lay_out(vectors, seed=1)
    again, _ = lay_out(vectors, seed=1)
    assert list(layouts) == ["PCA", "t-SNE"]
    assert 0 < explained < 1
    for name, points in layouts.items():
        assert points.tobytes() == again[name].tobytes()
        assert points.min() == 0
        assert points.max() == 1
        far = np.linalg.norm(points[:, None] - points[None], axis=-1)
        np.fill_diagonal(far, np.inf)
        assert (codes[far.argmin(1)] == codes).mean() > 0.9, name


def test_pca_agrees_with_scikit_learn_up_to_sign_and_stretch() -> None:
    from sklearn.decomposition import PCA

    vectors, _ = _clusters(40, 3)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    theirs = PCA(2, svd_solver="full").fit(unit)
    layouts, explained = lay_out(vectors)
    assert explained == pytest.approx(theirs.explained_variance_ratio_.sum())
    for mine, other in zip(layouts["PCA"].T, theirs.transform(unit).T, strict=True):
        assert abs(np.corrcoef(mine, other)[0, 1]) > 0.99999


def test_what_cannot_be_laid_out_has_no_map() -> None:
    assert lay_out(np.eye(FEWEST - 1))[0] == {}
    assert lay_out(np.ones((9, 5)))[0] == {}
    assert lay_out(np.zeros((9, 5)))[0] == {}


def test_few_dimensions_are_laid_out_as_well() -> None:
    layouts, _ = lay_out(np.array([[1.0], [-1.0], [1.0], [-1.0], [1.0]]))
    assert all(np.isfinite(points).all() and points.shape == (5, 2) for points in layouts.values())


def test_a_large_gallery_is_sampled_with_the_seed() -> None:
    assert sample_items(5, 10).tolist() == [0, 1, 2, 3, 4]
    drawn = sample_items(1000, 100, seed=2)
    assert len(set(drawn.tolist())) == 100
    assert (np.diff(drawn) > 0).all()
    assert drawn.tolist() == sample_items(1000, 100, seed=2).tolist() != sample_items(1000, 100, seed=3).tolist()


def test_each_label_of_the_legend_has_a_look_of_its_own_and_the_rest_share_one() -> None:
    labels = [f"label {i:02d}" for i in range(30) for _ in range(30 - i)]
    styles = label_styles(labels)
    assert [style.label for style in styles[:24]] == [f"label {i:02d}" for i in range(24)]
    assert len({(style.colour, style.shape) for style in styles}) == 25
    assert (styles[24].label, styles[24].num_items, styles[24].colour) == ("6 other labels", 21, -1)


# --- confusions -----------------------------------------------------------------------------------


def _ranked(labels: list[str], nearest: list[int]) -> RetrievalResult:
    """Returns a result in which query i finds itself first and then item ``nearest[i]``."""
    num = len(labels)
    vectors = np.eye(num)
    queries = vectors * 2 + vectors[nearest]
    ids = [f"clip {i:03d}" for i in range(num)]
    return evaluate_retrieval(
        Queries(ids, labels, {"q": queries}), Gallery(ids, labels, {"g": vectors}), {"s": Cosine("q", "g")}, (3,)
    )


def test_confusions_pass_over_the_querys_own_clip() -> None:
    labels = ["a", "a", "b", "b", "c"]
    found = confusion(_ranked(labels, [1, 2, 4, 2, 0]), "s")
    assert (found.labels, found.columns) == (("a", "b", "c"), ("a", "b", "c"))
    assert found.counts == ((1, 1, 0), (0, 1, 1), (1, 0, 0))
    assert found.pairs == (("a", "b", 1, 2), ("b", "c", 1, 2), ("c", "a", 1, 1))
    assert (found.num_queries, found.num_right, found.num_labels_hidden) == (5, 2, 0)


def test_of_many_labels_the_most_confused_are_shown_and_nothing_is_lost() -> None:
    labels = [f"label {i // 2:02d}" for i in range(60)]
    nearest = [(i ^ 1) if i >= 10 else (i + 2) % 60 for i in range(60)]
    found = confusion(_ranked(labels, nearest), "s")
    assert len(found.labels) == LABELS_SHOWN
    assert found.columns == (*found.labels, OTHERS)
    assert {f"label {i:02d}" for i in range(6)} <= set(found.labels)
    assert all(sum(row) == 2 for row in found.counts)
    assert (found.num_queries, found.num_right, found.num_labels_hidden) == (60, 50, 10)


# --- texts ----------------------------------------------------------------------------------------


def test_frames_are_named_with_their_times_and_shortened_in_the_middle() -> None:
    times = np.arange(100) / 25
    assert frames_text([5], times) == "1 frame: 5 at 0.20 s"
    assert frames_text([], times) == "no frame"
    assert frames_text(range(0, 100, 10), times) == (
        "10 frames: 0, 10, 20, …, 70, 80, 90 at 0.00, 0.40, 0.80, …, 2.80, 3.20, 3.60 s"
    )


def test_times_within_a_video_read_well() -> None:
    assert [clock_text(t) for t in (0, 7.26, 59.96, 725, 3723)] == [
        "0:00.0",
        "0:07.3",
        "1:00.0",
        "12:05.0",
        "1:02:03.0",
    ]
