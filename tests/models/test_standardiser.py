"""Statistics that are learned batch by batch, against those of all rows at once."""

import pytest
import torch
from torch import Tensor

from clipmill.models.standardiser import Standardiser


def rows(num: int, dim: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, dim, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.2]) + 4


def test_statistics_are_those_of_all_rows_whatever_the_batches() -> None:
    values, learned = rows(50), Standardiser(3, decay=1.0).double()
    for part in values.split([1, 20, 0, 7, 22]):
        learned(part)
    torch.testing.assert_close(learned.mean, values.mean(dim=0))
    torch.testing.assert_close(learned.variance, values.var(dim=0, correction=0))
    assert learned.count == 50
    standardised = learned.eval()(values)
    torch.testing.assert_close(standardised.mean(dim=0), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(standardised.std(dim=0, correction=0), torch.ones(3, dtype=torch.float64))


def test_old_batches_fade() -> None:
    learned = Standardiser(1, decay=0.5).double()
    for value in (0.0, 2.0):
        learned.learn(torch.full((4, 1), value, dtype=torch.float64))
    # The first counts half: of weights 2 and 4 the mean is 4/3, the variance 2/6 * (4/3)^2 + 4/6 * (2/3)^2.
    torch.testing.assert_close(learned.mean, torch.tensor([4 / 3], dtype=torch.float64))
    torch.testing.assert_close(learned.variance, torch.tensor([8 / 9], dtype=torch.float64))
    for _ in range(60):
        learned.learn(rows(9, seed=1)[:, :1])
    torch.testing.assert_close(learned.mean, rows(9, seed=1)[:, 0].mean()[None])


def test_a_column_that_stands_still_is_only_centred() -> None:
    learned = Standardiser(2)
    found = learned(torch.tensor([[7.0, 1.0], [7.0, 3.0]]))
    assert found.tolist() == [[0.0, -1.0], [0.0, 1.0]]


def test_it_learns_in_training_alone_and_takes_rows_as_they_are_before() -> None:
    learned, values = Standardiser(3).double(), rows(9)
    torch.testing.assert_close(learned.eval()(values), values)
    with torch.no_grad():
        learned.train()(values)
    assert learned.count == 0
    learned(values)
    assert learned.count == 9


def test_no_gradient_goes_into_the_statistics() -> None:
    values = rows(6).requires_grad_()
    learned = Standardiser(3).double()
    learned(values).sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, (1 / learned.variance.sqrt()).expand(6, 3))
    assert not learned.mean.requires_grad


@pytest.mark.parametrize("decay", [1.0, 0.9])
def test_its_state_is_in_the_checkpoint(decay: float) -> None:
    learned, again = Standardiser(3, decay).double(), Standardiser(3, decay).double()
    learned(rows(5))
    again.load_state_dict(learned.state_dict())
    learned(rows(5, seed=2))
    again(rows(5, seed=2))
    torch.testing.assert_close(again(rows(4)), learned(rows(4)), rtol=0, atol=0)
