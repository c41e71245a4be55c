"""CI-MHA and its parts: against PyTorch's own attention and packed LSTM, brute force, and sums worked out by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clipmill.models.attention import Attention
from clipmill.models.base import Batch, Sizes, Values
from clipmill.models.ci_mha import in_sequence
from clipmill.models.masked_lstm import MaskedBiLstm
from clipmill.models.query_words import WordTable, shared_dropout
from clipmill.models.registry import build, resolve_options
from clipmill.models.span_prediction import best_spans, boundary_losses, inside_loss

LENGTHS = torch.tensor([5, 1, 3])
MASK = torch.arange(5) < LENGTHS[:, None]


def model_of(name: str = "ci_mha", **options: Any) -> Any:
    small = {"dim": 8, "max_steps": 6, "word_dim": 6, "max_words": 4} | options
    return build(name, resolve_options(name, small), Sizes({"video": 5, "query": 9}), seed=1)


def inputs(seed: int = 0) -> dict[str, Values]:
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(3, 5, 5, generator=generator) * MASK[..., None]
    word_mask = torch.arange(4) < torch.tensor([4, 2, 1])[:, None]
    return {
        "video": Values(steps, MASK),
        "query": Values(torch.randint(1, 9, (3, 4), generator=generator) * word_mask, word_mask),
    }


def test_the_lstm_is_pytorchs_on_packed_sequences() -> None:
    own = MaskedBiLstm(4, 6)
    packed = nn.LSTM(4, 3, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for name, weight in own.forwards.named_parameters():
            getattr(packed, name).copy_(weight)
        for name, weight in own.backwards.named_parameters():
            getattr(packed, f"{name}_reverse").copy_(weight)
    values = torch.randn(3, 5, 4)
    given = nn.utils.rnn.pack_padded_sequence(values, LENGTHS, batch_first=True, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(packed(given)[0], batch_first=True)
    torch.testing.assert_close(own(values, MASK), expected)


def test_attention_is_pytorchs() -> None:
    own, theirs = Attention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([own.query.weight, own.key.weight, own.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([own.query.bias, own.key.bias, own.value.bias]))
        theirs.out_proj.weight.copy_(own.output.weight)
        theirs.out_proj.bias.copy_(own.output.bias)
    queries, keys = torch.randn(3, 2, 8), torch.randn(3, 5, 8)
    expected, _ = theirs(queries, keys, keys, key_padding_mask=~MASK)
    torch.testing.assert_close(own(queries, torch.ones(3, 2, dtype=torch.bool), keys, MASK), expected)


def test_the_best_spans_are_those_of_all_pairs() -> None:
    begin, end = torch.randn(3, 5), torch.randn(3, 5)
    found = best_spans(begin, end, MASK, 4)
    for item, length in enumerate(LENGTHS.tolist()):
        first, last = (torch.softmax(side[item, :length], dim=0) for side in (begin, end))
        pairs = [(float(first[i] * last[j]), i, j + 1) for i in range(length) for j in range(i, length)]
        expected = sorted(pairs, reverse=True)[:4]
        for place, (score, start, stop) in enumerate(expected):
            assert found.score[item, place] == pytest.approx(score, rel=1e-5)
            assert found.steps[item, place].tolist() == [start, stop]
        assert torch.isinf(found.score[item, len(expected) :]).all()


def test_losses_by_hand() -> None:
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0, 9.0]]))
    mask = torch.tensor([[True, True, True, False]])
    span = torch.tensor([[1, 2]])
    first, last = boundary_losses(logits, logits, mask, span)
    np.testing.assert_allclose([first.item(), last.item()], [-np.log(2 / 8), -np.log(5 / 8)], rtol=1e-5)
    # Probabilities of being inside 1/2, 2/3, 5/6; the moment is steps 1 and 2, and step 3 only fills up.
    expected = -(np.log(1 / 2) + np.log(2 / 3) + np.log(5 / 6)) / 3
    assert inside_loss(logits, mask, span).item() == pytest.approx(expected, rel=1e-5)


def test_words_and_steps_stand_one_after_the_other_without_a_gap() -> None:
    words = torch.arange(1.0, 9.0).view(1, 4, 2).repeat(3, 1, 1)
    steps = -torch.arange(1.0, 11.0).view(1, 5, 2).repeat(3, 1, 1)
    word_mask = torch.arange(4) < torch.tensor([4, 2, 1])[:, None]
    joined, mask, places = in_sequence(words, word_mask, steps, MASK)
    for item, (num_words, num_steps) in enumerate(zip((4, 2, 1), LENGTHS.tolist(), strict=True)):
        expected = torch.cat([words[item, :num_words], steps[item, :num_steps]])
        torch.testing.assert_close(joined[item, : len(expected)], expected)
        assert mask[item].sum() == len(expected)
        assert not joined[item, len(expected) :].any()
        torch.testing.assert_close(joined[item].gather(0, places[item])[:num_steps], steps[item, :num_steps])


@pytest.mark.parametrize("fusion", ["pool", "pad", "back", "seq"])
def test_every_reading_depends_on_each_input_and_lowers_its_loss(fusion: str) -> None:
    model = model_of(fusion=fusion).eval()
    given, span = inputs(), torch.tensor([[1, 3], [0, 0], [2, 2]])
    before = model.losses(Batch(given, targets={"span": span}))["total"]
    for name in ("video", "query"):
        changed = {**given, name: inputs(seed=5)[name]}
        changed = {key: Values(value.values, given[key].mask) for key, value in changed.items()}
        assert not torch.equal(model.losses(Batch(changed, targets={"span": span}))["total"], before)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        loss = model.losses(Batch(given, targets={"span": span}))["total"].sum()
        loss.backward()
        optimiser.step()
    assert loss < 0.3 * before.sum()
    found = model.localise(given, 1)
    assert found.steps[:, 0].tolist() == [[1, 4], [0, 1], [2, 3]]


def test_pad_puts_word_t_beside_step_t() -> None:
    """Only the words below the number of steps reach the scores, and each of them its own step first of all."""
    model = model_of(fusion="pad", cross_attention="both").eval()
    fused, _, _, mask = model._states(inputs(), {})
    beside = fused[..., :8]
    # Item 0 has four words and five steps, item 1 two words and one step, item 2 one word and three steps.
    assert [[bool(row.any()) for row in rows] for rows in beside] == [
        [True, True, True, True, False],
        [True, False, False, False, False],
        [True, False, False, False, False],
    ]
    assert torch.equal(mask, MASK)


def test_the_baselines_have_fewer_parts() -> None:
    given = Batch(inputs(), targets={"span": torch.zeros(3, 2, dtype=torch.int64)})
    assert "inside" not in model_of(segmentation_weight=0.0).losses(given)
    one_way = {name.split(".")[0] for name, _ in model_of(cross_attention="one_way").named_parameters()}
    assert "to_words" in one_way
    assert "to_steps" not in one_way


@pytest.mark.parametrize(("blind", "kept"), [("video", {"query"}), ("query", {"video"}), ("both", set())])
def test_a_blind_model_does_not_see_what_is_kept_from_it(blind: str, kept: set[str]) -> None:
    for name in ("ci_mha", "excl"):
        model = model_of(name, blind=blind).eval()
        one, two = inputs(), inputs(seed=7)
        two = {key: Values(value.values, one[key].mask) for key, value in two.items()}
        for key in ("video", "query"):
            scores = [model.localise({**one, key: given[key]}, 3).score for given in (one, two)]
            assert torch.equal(*scores) == (key not in kept), (name, key)


def test_frozen_words_stay_and_others_are_trained() -> None:
    table = WordTable(5, 3, frozen=True)
    vectors = torch.arange(15.0).view(5, 3)
    known = torch.tensor([False, False, True, False, True])
    table.begin_with(vectors, known)
    assert table(torch.tensor([[0, 2, 4]]))[0].tolist() == [[0, 0, 0], [6, 7, 8], [12, 13, 14]]
    table(torch.arange(5)[None]).sum().backward()
    moved = table.vectors.grad.abs().sum(dim=1) > 0
    assert moved.tolist() == [False, True, False, True, False]
    trained = WordTable(5, 3, frozen=False)
    trained.begin_with(vectors, known)
    trained(torch.arange(5)[None]).sum().backward()
    assert (trained.vectors.grad.abs().sum(dim=1) > 0).tolist() == [False, True, True, True, True]


def test_dropout_drops_the_same_elements_of_all_steps() -> None:
    noise = torch.randn(2, 400)
    found = shared_dropout(torch.ones(2, 3, 400), noise, 0.25)
    assert torch.equal(found[:, 0], found[:, 2])
    assert found.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float((found == 0).float().mean()) == pytest.approx(0.25, abs=0.06)
    assert shared_dropout(torch.ones(1, 1, 2), None, 0.5).tolist() == [[[1, 1]]]


@pytest.mark.parametrize("predictor", ["mlp", "tied", "conditioned"])
def test_excl_learns_a_few_items_by_heart(predictor: str) -> None:
    model = model_of("excl", predictor=predictor).eval()
    given, span = inputs(), torch.tensor([[1, 3], [0, 0], [2, 2]])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(80):
        optimiser.zero_grad()
        model.losses(Batch(given, targets={"span": span}))["total"].sum().backward()
        optimiser.step()
    assert model.localise(given, 1).steps[:, 0].tolist() == [[1, 4], [0, 1], [2, 3]]
