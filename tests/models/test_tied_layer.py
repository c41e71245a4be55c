"""Layers in place of restricted Boltzmann machines: by hand, by enumeration, and by scikit-learn's machine."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.neural_network import BernoulliRBM

from clipmill.models.tied_layer import BimodalAutoencoder, TiedLayer


def logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def layer(dims: tuple[int, ...] = (2, 1), hidden: int = 1) -> TiedLayer:
    torch.manual_seed(0)
    return TiedLayer(dims, hidden, (False, *[True] * (len(dims) - 1))).double()


def set_to(parameter: torch.Tensor, values: list) -> None:
    with torch.no_grad():
        parameter.copy_(torch.tensor(values, dtype=torch.float64))


def by_hand() -> TiedLayer:
    """h = s(v_0 + 2 v_1 - 3 w + 0.5), back: v = h (1, 2) + (0.1, 0.2), w = s(-3 h + 0.3)."""
    made = layer()
    set_to(made.weights[0], [[1.0, 2.0]])
    set_to(made.weights[1], [[-3.0]])
    set_to(made.hidden_bias, [0.5])
    set_to(made.visible_biases[0], [0.1, 0.2])
    set_to(made.visible_biases[1], [0.3])
    return made


V, W = torch.tensor([[0.4, -0.2]], dtype=torch.float64), torch.tensor([[0.9]], dtype=torch.float64)


def test_hidden_units_and_reconstruction_by_hand() -> None:
    made = by_hand()
    both, alone = made([V, W]), made([V, None])
    assert both.item() == pytest.approx(logistic(0.4 - 0.4 - 2.7 + 0.5))
    assert alone.item() == pytest.approx(logistic(0.5))
    assert made.reconstruct(alone, 0).tolist() == [pytest.approx([logistic(0.5) + 0.1, 2 * logistic(0.5) + 0.2])]
    assert made.reconstruct(alone, 1).item() == pytest.approx(logistic(-3 * logistic(0.5) + 0.3))


def test_reconstruction_loss_by_hand() -> None:
    made = by_hand()
    h = logistic(-2.2)
    expected = ((h + 0.1 - 0.4) ** 2 + (2 * h + 0.2 + 0.2) ** 2) / 2 + (logistic(-3 * h + 0.3) - 0.9) ** 2
    assert made.reconstruction_loss([V, W]).item() == pytest.approx(expected)
    h = logistic(0.5)
    expected = ((h + 0.1 - 0.4) ** 2 + (2 * h + 0.2 + 0.2) ** 2) / 2 + (logistic(-3 * h + 0.3) - 0.9) ** 2
    assert made.reconstruction_loss([V, W], [V, None]).item() == pytest.approx(expected)


def test_mean_field_by_hand() -> None:
    missing = logistic(-3 * logistic(0.5) + 0.3)
    once = logistic(0.5 - 3 * missing)
    twice = logistic(0.5 - 3 * logistic(-3 * once + 0.3))
    assert by_hand().completed(V, 0, 1).item() == pytest.approx(once)
    assert by_hand().completed(V, 0, 2).item() == pytest.approx(twice)


def test_hidden_units_are_a_boltzmann_machines_probabilities() -> None:
    """By enumeration of the joint distribution exp(h' W v + b' h + c' v), all units binary."""
    torch.manual_seed(1)
    made = TiedLayer((3,), 2, (True,)).double()
    set_to(made.hidden_bias, [0.3, -0.7])
    weight, bias = made.weights[0].detach().numpy(), made.hidden_bias.detach().numpy()
    for visible in itertools.product((0.0, 1.0), repeat=3):
        states = list(itertools.product((0.0, 1.0), repeat=2))
        mass = [math.exp(np.array(state) @ weight @ np.array(visible) + bias @ np.array(state)) for state in states]
        expected = [sum(m for m, s in zip(mass, states, strict=True) if s[unit]) / sum(mass) for unit in range(2)]
        found = made([torch.tensor([visible], dtype=torch.float64)])
        assert found[0].tolist() == pytest.approx(expected)


def test_hidden_units_agree_with_scikit_learns_machine() -> None:
    values = np.random.default_rng(0).random((20, 5))
    machine = BernoulliRBM(4, n_iter=3, random_state=0).fit(values)
    made = TiedLayer((5,), 4, (True,)).double()
    set_to(made.weights[0], machine.components_.tolist())
    set_to(made.hidden_bias, machine.intercept_hidden_.tolist())
    np.testing.assert_allclose(made([torch.from_numpy(values)]).detach().numpy(), machine.transform(values))


@pytest.mark.parametrize("given", ["both", "one"])
def test_the_loss_has_the_slope_of_finite_differences(given: str) -> None:
    made = layer((3, 2), 4)
    one, other = torch.rand(3, 3, dtype=torch.float64), torch.rand(3, 2, dtype=torch.float64)

    def loss(weight: torch.Tensor, other_weight: torch.Tensor, *biases: torch.Tensor) -> torch.Tensor:
        parameters = {"weights.0": weight, "weights.1": other_weight, "hidden_bias": biases[0]}
        parameters |= {"visible_biases.0": biases[1], "visible_biases.1": biases[2]}
        seen = [one, other if given == "both" else None]
        return torch.func.functional_call(
            _Loss(made), {f"layer.{k}": v for k, v in parameters.items()}, (one, other, seen)
        )

    values = [*made.weights, made.hidden_bias, *made.visible_biases]
    assert torch.autograd.gradcheck(loss, [value.detach().clone().requires_grad_() for value in values])


class _Loss(torch.nn.Module):
    def __init__(self, made: TiedLayer) -> None:
        super().__init__()
        self.layer = made

    def forward(self, one: torch.Tensor, other: torch.Tensor, given: list) -> torch.Tensor:
        return self.layer.reconstruction_loss([one, other], given)


def test_a_trained_layer_infers_the_missing_group() -> None:
    torch.manual_seed(0)
    made = TiedLayer((4, 4), 16, (True, True))
    patterns = torch.eye(4)
    adam = torch.optim.Adam(made.parameters(), lr=0.05)
    for _ in range(300):
        adam.zero_grad()
        given = ([patterns, patterns], [patterns, None], [None, patterns])
        sum(made.reconstruction_loss([patterns, patterns], seen).sum() for seen in given).backward()
        adam.step()
    inferred = made.reconstruct(made.completed(patterns, 0, 10), 1)
    assert torch.equal(inferred.argmax(dim=1), torch.arange(4))
    assert inferred.diagonal().min() > 0.8


@pytest.mark.parametrize("is_logistic", [True, False])
def test_the_bimodal_loss_agrees_with_a_second_reading(is_logistic: bool) -> None:
    torch.manual_seed(0)
    made = BimodalAutoencoder(3, 2, 4, is_logistic).double()
    image, video = torch.rand(2, 3, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64)
    found = made.loss(image, video, torch.tensor([3, 0]))
    weights = {name: value.detach().numpy() for name, value in made.named_parameters()}
    for item, label in enumerate((3, 0)):
        vectors = (image[item].numpy(), video[item].numpy())
        expected = 0.0
        for shown in ((0,), (1,), (0, 1)):
            sums = weights["bias"] + sum(weights[f"encoders.{side}.weight"] @ vectors[side] for side in shown)
            units = np.array([logistic(value) for value in sums])
            logits = weights["classifier.weight"] @ units + weights["classifier.bias"]
            expected += math.log(sum(math.exp(value - logits[label]) for value in logits)) / 3
            for side in (0, 1):
                decoded = weights[f"decoders.{side}.weight"] @ units + weights[f"decoders.{side}.bias"]
                decoded = [logistic(value) for value in decoded] if is_logistic else decoded
                expected += sum((a - b) ** 2 for a, b in zip(decoded, vectors[side], strict=True)) / 3 / 3
        assert found[item].item() == pytest.approx(expected)
