"""Parts of a retrieval's page by themselves: the map's layouts and confusions."""

import numpy as np
import pytest

from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery, Queries, RetrievalResult, evaluate_retrieval
from clipmill.pipelines.evaluation.retrieval.scorers import Cosine
from clipmill.pipelines.evaluation.tasks.retrieval.confusion import LABELS_SHOWN, OTHERS, confusion
from clipmill.pipelines.evaluation.tasks.retrieval.embedding_map import FEWEST, label_styles, lay_out, sample_items

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
    reference = PCA(2, svd_solver="full").fit(unit)
    layouts, explained = lay_out(vectors)
    assert explained == pytest.approx(reference.explained_variance_ratio_.sum())
    for column, other in zip(layouts["PCA"].T, reference.transform(unit).T, strict=True):
        assert abs(np.corrcoef(column, other)[0, 1]) > 0.99999


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
    assert (found.num_queries, found.num_correct, found.num_labels_hidden) == (5, 2, 0)


def test_of_many_labels_the_most_confused_are_shown_and_nothing_is_lost() -> None:
    labels = [f"label {i // 2:02d}" for i in range(60)]
    nearest = [(i ^ 1) if i >= 10 else (i + 2) % 60 for i in range(60)]
    found = confusion(_ranked(labels, nearest), "s")
    assert len(found.labels) == LABELS_SHOWN
    assert found.columns == (*found.labels, OTHERS)
    assert {f"label {i:02d}" for i in range(6)} <= set(found.labels)
    assert all(sum(row) == 2 for row in found.counts)
    assert (found.num_queries, found.num_correct, found.num_labels_hidden) == (60, 50, 10)
