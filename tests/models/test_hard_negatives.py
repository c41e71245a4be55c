"""Hard negatives by hand."""

import torch

from clipmill.models.hard_negatives import nearest_of_other_labels


def test_the_negative_is_the_nearest_by_cosine_among_other_labels() -> None:
    vectors = torch.tensor([[1.0, 0.0], [9.0, 1.0], [1.0, 1.0], [0.0, 5.0]])
    found = nearest_of_other_labels(vectors, torch.tensor([0, 0, 1, 1]))
    # Item 1 is nearer to item 0 than any, but shares its label.
    assert found.index.tolist() == [2, 2, 1, 1]
    assert found.exists.all()


def test_cosines_below_0_do_not_lead_to_an_item_of_the_same_label() -> None:
    """A product of cosines with a 0/1 mask, as in the releases of ACMR and APIVR, would take the item itself."""
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [-1.0, 3.0]])
    found = nearest_of_other_labels(vectors, torch.tensor([0, 0, 1, 1]))
    assert found.index.tolist() == [3, 3, 1, 1]


def test_an_item_among_its_own_alone_has_none() -> None:
    found = nearest_of_other_labels(torch.randn(3, 2), torch.tensor([2, 2, 2]))
    assert not found.exists.any()


def test_the_choice_passes_no_gradient() -> None:
    vectors = torch.randn(4, 3, requires_grad=True)
    assert not nearest_of_other_labels(vectors, torch.tensor([0, 1, 0, 1])).index.requires_grad
