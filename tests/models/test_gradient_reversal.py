"""The reversal of a gradient, its schedule, and the classifier of modalities behind it, against finite differences."""

import math

import pytest
import torch

from clipmill.models.gradient_reversal import ModalityClassifier, reversal_factor, reverse_gradient


def test_values_pass_and_their_gradient_comes_back_reversed() -> None:
    values = torch.tensor([1.0, -2.0], requires_grad=True)
    passed = reverse_gradient(values, 0.25)
    assert torch.equal(passed, values)
    (3 * passed).sum().backward()
    assert values.grad.tolist() == [-0.75, -0.75]


def test_a_reversal_by_minus_one_is_the_identity_to_finite_differences() -> None:
    values = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: reverse_gradient(x, -1.0).square(), values)


@pytest.mark.parametrize(
    ("progress", "factor"), [(0.0, 0.0), (0.1, 2 / (1 + math.exp(-1)) - 1), (0.5, math.tanh(2.5)), (1.0, math.tanh(5))]
)
def test_the_factor_grows_from_0_to_nearly_1(progress: float, factor: float) -> None:
    assert reversal_factor(progress) == pytest.approx(factor)


def test_the_loss_of_a_classifier_that_knows_nothing_is_twice_the_logarithm_of_2() -> None:
    classifier = ModalityClassifier((3, 4), "relu")
    for value in classifier.parameters():
        torch.nn.init.zeros_(value)
    assert classifier(torch.randn(5, 3), torch.randn(5, 3), 1.0).item() == pytest.approx(2 * math.log(2))


def test_the_loss_is_minus_the_log_probability_of_each_sides_own_modality() -> None:
    classifier = ModalityClassifier((2,), "none")
    with torch.no_grad():
        classifier.layers[0].weight.copy_(torch.eye(2))
        classifier.layers[0].bias.zero_()
    # Logits are the vectors themselves: (ln 3, 0) gives modality 0 a probability of 3/4.
    image, video = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[math.log(4), 0.0]])
    assert classifier(image, video, 1.0).item() == pytest.approx(-math.log(3 / 4) - math.log(1 / 5))


@pytest.mark.parametrize("factor", [0.0, 0.7])
def test_what_comes_before_moves_against_the_classifier_and_the_classifier_with_it(factor: float) -> None:
    """Gradients against central differences of the loss."""
    torch.manual_seed(0)
    classifier = ModalityClassifier((3, 4), "tanh").double()
    image, video = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    classifier(image, video, factor).backward()
    weight = classifier.layers[0].weight
    for tensor, sign in ((image, -factor), (video, -factor), (weight, 1.0)):
        slopes = torch.empty_like(tensor)
        for place in range(tensor.numel()):
            with torch.no_grad():
                flat = tensor.view(-1)
                original = flat[place].item()
                ends = []
                for step in (1e-6, -1e-6):
                    flat[place] = original + step
                    ends.append(classifier(image, video, factor).item())
                flat[place] = original
                slopes.view(-1)[place] = (ends[0] - ends[1]) / 2e-6
        torch.testing.assert_close(tensor.grad, sign * slopes, rtol=1e-6, atol=1e-8)
        assert slopes.abs().max() > 1e-3
