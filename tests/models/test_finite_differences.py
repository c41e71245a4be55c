"""Each step of each model that learns: its gradient against finite differences, over the weights that it moves."""

from typing import Any

import pytest
import torch

from clipmill.models import registry
from clipmill.models.base import Sizes, Step, resolved_loop
from clipmill.pipelines.training.optimiser import rate_of
from clipmill.schemas.config import LoopConfig
from tests.models.small_models import SMALL, as_double
from tests.models.synthetic_items import synthetic_items
from tests.pipelines.training.test_training_loop import training_of

FORMS: list[tuple[str, dict[str, Any]]] = [
    # Without the adversary, whose gradient is not the slope of what is added to the total, but turned round.
    ("acmr", {"adversary_weight": 0.0}),
    ("acmr", {"adversary_weight": 0.0, "hinge": "batch"}),
    ("acmr", {}),
    ("apivr", {"adversary_weight": 0.0}),
    ("apivr", {"adversary_weight": 0.0, "form": "released", "num_proposals": 6, "projector_weight": 0.0}),
    ("apivr", {}),
    ("ccl", {}),
    ("ccl", {"parts": True, "max_parts": 4, "joint_dim": 12}),
    ("cmdn", {"greedy": True}),
    ("dscmr", {}),
    ("dspe", {}),
    ("dspe", {"positives": "pair"}),
    ("map_ivr", {}),
    ("map_ivr", {"orth": "squared_cosine", "reconstruction_reduction": "mean"}),
    ("sdml", {}),
    ("sdml", {"decoder_output": "linear"}),
]


def steps_of(phases: Any) -> list[tuple[str, Step]]:
    """The steps of all phases; of a total with an adversary in it the slope is another, see above.

    Of both layers of a grain of CCL, which move at once, the first has no gradient of the second's loss by design.
    """
    found = [(phase.name, step) for phase in phases for step in phase.steps]
    seconds = {f"layers.{name}.second": 1.0 for name in ("image", "video", "image_parts", "video_parts")}
    found = [(phase, Step("layers", seconds) if step.loss == "layers" else step) for phase, step in found]
    has_adversary = any(step.loss == "adversary" for _, step in found)
    return [(phase, step) for phase, step in found if not (has_adversary and step.loss == "total")]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_gradient_of_each_step_is_the_slope_of_its_loss(form: tuple[str, dict[str, Any]]) -> None:
    name, given = form
    options = registry.resolve_options(name, SMALL.get(name, {}) | given)
    card = registry.card(name, options)
    items = synthetic_items(card.inputs).of("train")
    sizes = Sizes({key: source.dim for key, source in items.sources.items()}, len(items.label_names))
    model: Any = registry.build(name, options, sizes, seed=3).double()
    training = training_of(model, items, resolved_loop(card, LoopConfig(epochs=10)))
    some = torch.arange(len(items))
    generator = torch.Generator().manual_seed(0)
    shapes = model.draws() if hasattr(model, "draws") else {}
    draws = {key: torch.randn(len(items), *shape, generator=generator).double() for key, shape in shapes.items()}
    doubled = {key: as_double(rows) for key, rows in items.inputs.items()}
    placed = type(training.items).on_device(doubled, items.label, torch.device("cpu"))
    model.train()
    # What is learned while training goes by is learned once, and then stands still.
    model.losses(placed.batch(some, placed.lengths(some), draws=draws, phase=training.phases[-1].name))
    model.eval()
    for phase, step in steps_of(training.phases):
        batch = placed.batch(some, placed.lengths(some), draws=draws, phase=phase, progress=0.5)
        moved = [value for key, value in model.named_parameters() if rate_of(step, key) is not None]
        gradients = torch.autograd.grad(model.losses(batch)[step.loss].mean(), moved, allow_unused=True)
        for seed in range(3):
            generator.manual_seed(seed)
            ways = [torch.randn(value.shape, generator=generator, dtype=torch.float64) for value in moved]
            pairs = zip(ways, gradients, strict=True)
            expected = sum(float((way * slope).sum()) for way, slope in pairs if slope is not None)
            after, before = (loss_at(model, batch, step, moved, ways, length) for length in (1e-6, -1e-6))
            found = (after - before) / 2e-6
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-7), f"{phase} {step.loss}"


def loss_at(model: Any, batch: Any, step: Step, moved: list[Any], ways: list[torch.Tensor], length: float) -> float:
    """The step's loss where the weights are moved `length` along `ways`."""
    with torch.no_grad():
        for value, way in zip(moved, ways, strict=True):
            value.add_(way, alpha=length)
        found = float(model.losses(batch)[step.loss].mean())
        for value, way in zip(moved, ways, strict=True):
            value.sub_(way, alpha=length)
    return found
