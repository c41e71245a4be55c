"""Dropout from given noise."""

import pytest
import torch

from clipmill.models.dropout import dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_a_share_is_dropped_and_the_mean_stays(rate: float) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.ones(200, 200)
    kept = dropout(values, torch.randn(200, 200, generator=generator), rate)
    # 40,000 draws: three standard errors of the share are at most 0.0075.
    assert (kept == 0).float().mean().item() == pytest.approx(rate, abs=0.0075)
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)])
    assert kept.mean().item() == pytest.approx(1.0, abs=0.0075 / (1 - rate))


def test_what_is_dropped_depends_on_the_noise_alone_and_gets_no_gradient() -> None:
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    kept = dropout(values, torch.tensor([0.1, -0.1, 5.0]), 0.5)
    assert kept.tolist() == [2.0, 0.0, 6.0]
    kept.sum().backward()
    assert values.grad.tolist() == [2.0, 0.0, 2.0]
