"""BPBC's products with matrices that it never makes, against those matrices; its alternation; its codes in an index."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clipmill.models import registry
from clipmill.models.base import Batch, Sizes, Values
from clipmill.models.bpbc import Bpbc, BpbcOptions, packed, polar, project, shared_codes, subspaces, summed
from clipmill.pipelines.evaluation.retrieval.approximate import Approximate
from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery, Queries, evaluate_retrieval
from clipmill.pipelines.evaluation.retrieval.scorers import Hamming
from clipmill.schemas.errors import ConfigError, UsageError

DIM, ROWS = 12, 5


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(num: int, num_labels: int, seed: int = 0, dim: int = 24, turned: bool = False) -> Batch:
    """Videos whose rows lie about a plane of their label, images near a vector of it: in another space if turned."""
    planes = torch.linalg.qr(noise(num_labels, dim, 2, seed=7)).Q
    label = torch.arange(num) % num_labels
    lengths = 2 + torch.arange(num) % (ROWS - 1)
    mask = torch.arange(ROWS) < lengths[:, None]
    inside = noise(num, ROWS + 1, 2, seed=seed) @ planes[label].transpose(1, 2)
    vectors = (inside + 0.05 * noise(num, ROWS + 1, dim, seed=seed + 1)).float()
    rows = vectors[:, 1:] * mask[..., None]
    if turned:
        rows = rows @ torch.linalg.qr(noise(dim, dim, seed=77)).Q.float()
    return Batch({"image": Values(vectors[:, 0]), "video": Values(rows, mask)}, label)


def solved(items: Batch, seed: int = 0, **options: Any) -> tuple[Bpbc, list[dict[str, float]]]:
    dim = items["image"].shape[1]
    found = registry.resolve_options("bpbc", {"rows": 8, "columns": 8} | options)
    model: Any = registry.build("bpbc", found, Sizes({"image": dim, "video": dim}), seed)
    return model, [dict(line) for line in model.solve(items)]


def codes(model: Bpbc, items: Batch) -> tuple[np.ndarray, np.ndarray]:
    query, gallery = model.embed("query", items.inputs), model.embed("gallery", items.inputs)
    return query["codes"].numpy(), gallery["codes"].numpy()


def agreeing(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    left, right = (np.unpackbits(side, axis=1) for side in (query, gallery))
    return np.asarray((left[:, None] == right[None]).sum(axis=2))


def precision_at_5(scores: np.ndarray, query_label: np.ndarray, gallery_label: np.ndarray) -> float:
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    return float((gallery_label[best] == query_label[:, None]).mean())


def test_a_subspace_is_that_of_numpys_svd() -> None:
    rows = noise(3, ROWS, DIM)
    rows[1, 3:] = 0  # filled up
    rows[2, 1:] = rows[2, :1]  # one direction
    for dims in (2, 4):
        found = subspaces(rows, dims).numpy()
        for item, rank in zip(range(3), (min(dims, 5), min(dims, 3), 1), strict=True):
            basis = np.linalg.svd(rows[item].numpy(), full_matrices=False)[2][:rank]
            np.testing.assert_allclose(found[item].T @ found[item], basis.T @ basis / np.sqrt(rank), atol=1e-9)
            assert np.linalg.norm(found[item].T @ found[item]) == pytest.approx(1)


def test_the_inner_product_of_matrices_tells_the_distance_from_the_subspace() -> None:
    """What makes retrieval a search for the greatest inner product."""
    image = torch.nn.functional.normalize(noise(1, DIM), dim=1)
    basis = torch.linalg.qr(noise(DIM, 3, seed=1)).Q
    matrices = [(image.T @ image), basis @ basis.T]
    distance = (image - image @ basis @ basis.T).square().sum()
    torch.testing.assert_close(distance, 1 - (matrices[0] * matrices[1]).sum())
    found = subspaces(basis.T[None], 3)
    torch.testing.assert_close(found[0].T @ found[0] * 3**0.5, matrices[1])


def test_products_with_matrices_are_those_of_the_matrices_themselves() -> None:
    bases, left, right = subspaces(noise(6, ROWS, DIM), 3), noise(DIM, 4, seed=1), noise(DIM, 2, seed=2)
    whole = bases.transpose(1, 2) @ bases
    torch.testing.assert_close(project(bases, left, right), left.T @ whole @ right)
    signs = noise(6, 4, 2, seed=3).sign()
    centred = whole - whole.mean(dim=0)
    expected = sum(matrix @ right @ code.T for matrix, code in zip(centred, signs, strict=True))
    torch.testing.assert_close(summed(bases, signs, right), expected)


def test_the_polar_factor_is_the_best_matrix_with_orthonormal_columns() -> None:
    matrix = noise(DIM, 4)
    best = polar(matrix)
    torch.testing.assert_close(best.T @ best, torch.eye(4, dtype=torch.float64))
    for seed in range(50):
        other = torch.linalg.qr(best + 0.3 * noise(DIM, 4, seed=seed)).Q
        assert (other * matrix).sum() < (best * matrix).sum()


def test_every_step_raises_the_sum() -> None:
    """Codes, then each of the four projections, by the matrices themselves."""
    bases = [subspaces(noise(20, rows, DIM, seed=rows), dims) for rows, dims in ((1, 1), (ROWS, 3))]
    centred = [whole - whole.mean(dim=0) for whole in (basis.transpose(1, 2) @ basis for basis in bases)]
    left, right = [noise(DIM, 4, seed=n) for n in (1, 2)], [noise(DIM, 3, seed=n) for n in (3, 4)]
    left, right = [polar(side) for side in left], [polar(side) for side in right]

    def projected() -> Tensor:
        parts = [w.T @ whole @ z for w, whole, z in zip(left, centred, right, strict=True)]
        return parts[0] + parts[1]

    signs = noise(20, 4, 3, seed=9).sign()
    sums = [float((signs * projected()).sum())]
    for _ in range(8):
        signs = shared_codes(projected(), torch.arange(20))
        sums.append(float((signs * projected()).sum()))
        for side in range(2):
            left[side] = polar(summed(bases[side], signs, right[side]))
            sums.append(float((signs * projected()).sum()))
            right[side] = polar(summed(bases[side], signs.transpose(1, 2), left[side]))
            sums.append(float((signs * projected()).sum()))
    assert np.diff(sums).min() >= -1e-12 * sums[-1]
    assert sums[-1] > 1.5 * sums[1]


@pytest.mark.parametrize("share", ["pair", "label"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_total_falls_in_every_iteration(share: str, seed: int) -> None:
    _, lines = solved(planted(60, 4, seed), seed, share=share)
    totals = [line["total"] for line in lines]
    assert len(totals) > 3
    assert all(after <= before for before, after in zip(totals, totals[1:], strict=False))
    assert all(0 < total < 1 for total in totals)


def test_items_that_share_have_one_code_and_a_tie_is_no_bit() -> None:
    projected = torch.tensor([[[1.0, -3.0]], [[-2.0, 1.0]], [[0.0, 5.0]]])
    assert shared_codes(projected, torch.tensor([0, 0, 1])).tolist() == [[[-1, -1]], [[-1, -1]], [[-1, 1]]]


def test_bits_are_packed_as_numpy_packs_them() -> None:
    bits = noise(7, 24) > 0
    np.testing.assert_array_equal(packed(bits), np.packbits(bits.numpy(), axis=1))


@pytest.mark.parametrize("share", ["pair", "label"])
def test_it_learns_which_subspaces_of_another_space_an_image_is_near_to(share: str) -> None:
    """Videos are turned by a rotation that nothing but the training pairs tells. Chance is 1 / 6."""
    items, tested = planted(240, 6, turned=True), planted(60, 6, seed=50, turned=True)
    label = tested.labels.numpy()
    start, _ = solved(items, rows=16, columns=16, share="pair", iterations=1)
    assert precision_at_5(agreeing(*codes(start, tested)), label, label) < 0.4
    model, lines = solved(items, rows=16, columns=16, share=share)
    assert precision_at_5(agreeing(*codes(model, tested)), label, label) > 0.9
    assert lines[-1]["differing_bits"] < 0.4


def test_a_code_says_no_more_of_a_vector_than_of_its_negative() -> None:
    """Both lie in the same subspaces: what cosine tells apart here is the same."""
    items = planted(60, 6)
    model, _ = solved(items)
    model.image_mean.zero_()
    turned_round = {"image": Values(-items["image"])}
    np.testing.assert_array_equal(
        model.embed("query", turned_round)["codes"], model.embed("query", {"image": Values(items["image"])})["codes"]
    )


def test_codes_depend_on_what_fills_up_no_more_than_on_the_batch() -> None:
    items = planted(40, 4)
    model, _ = solved(items)
    values, mask = items["video"], items.inputs["video"].mask
    assert mask is not None
    longer = Values(torch.cat([values, torch.zeros(40, 3, 24)], dim=1), torch.nn.functional.pad(mask, (0, 3)))
    whole = model.embed("gallery", items.inputs)["codes"]
    np.testing.assert_array_equal(model.embed("gallery", {"video": longer})["codes"], whole)
    alone = model.embed(
        "gallery", {"video": Values(values[5:6, : int(mask[5].sum())], mask[5:6, : int(mask[5].sum())])}
    )
    np.testing.assert_array_equal(alone["codes"], whole[5:6])


def test_its_codes_are_searched_exactly_through_the_binary_index() -> None:
    items = planted(120, 6)
    model, _ = solved(items)
    space = model.spaces()["codes"]
    query, gallery = codes(model, items)
    ids = tuple(f"{number:03d}" for number in range(120))
    labels = tuple(str(label) for label in items.labels.tolist())
    sides = Queries(ids, labels, {"codes": query}), Gallery(ids, labels, {"codes": gallery})
    scorers = {"codes": Hamming(space.query, space.gallery)}  # type: ignore[union-attr]
    exact = evaluate_retrieval(*sides, scorers, cutoffs=(10,))
    indexed = evaluate_retrieval(*sides, scorers, cutoffs=(10,), approximate=Approximate("binary", candidates=120))
    assert indexed.approximate is not None
    assert indexed.approximate.recall["codes"]["recall_of_exact@10"] == 1
    assert indexed.space("codes").metrics["map@10"] == exact.space("codes").metrics["map@10"] > 0.6


def test_labels_are_needed_where_clips_of_one_label_share_a_code() -> None:
    for share, needed in (("pair", False), ("label", True)):
        options = registry.resolve_options("bpbc", {"share": share, "max_rows": 9, "choose": "score"})
        card = registry.card("bpbc", options)
        assert card.needs_labels is needed
        assert (card.inputs["video"].max_rows, card.inputs["video"].choose) == (9, "score")  # type: ignore[union-attr]


def test_codes_that_are_no_whole_bytes_or_longer_than_the_vectors_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected rows times columns to be a multiple of 8, since codes are whole"):
        registry.resolve_options("bpbc", {"rows": 3, "columns": 4})
    with pytest.raises(UsageError, match="model.options rows and columns: expected at most 9, .* got 16; lower them"):
        Bpbc(BpbcOptions(), Sizes({"image": 30, "video": 9}))
