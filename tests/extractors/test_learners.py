"""What C3D, CPNet and R-C3D begin their training with, and what of them learns."""

from typing import Any

import numpy as np
import pytest
import torch

from clipmill.extractors import registry
from clipmill.extractors.c3d.layouts import PORT_NAMES
from clipmill.extractors.c3d.network import C3D
from clipmill.extractors.cpnet.correspondence import CorrespondenceProposal
from clipmill.extractors.learner import kept_by_dropout
from clipmill.extractors.torch_extractor import seeded
from clipmill.pipelines.training.videos.train import recipe_of, resolve
from clipmill.schemas.config_videos import VideoLoopConfig, VideoTrainConfig
from clipmill.schemas.errors import UsageError
from clipmill.schemas.model import validate

CLASSES = ("fall", "run", "walk")


def started(model: dict[str, Any]) -> Any:
    """Returns the network of `model` as its training begins, for three classes."""
    given = {"data": {"videos": {"folder": "videos"}}, "model": model, "out": "out"}
    config = resolve(validate(VideoTrainConfig, given, "test"))
    learner = registry.learner(config.model.name)
    options = validate(learner.options, config.model.training, "training")
    return learner.start(recipe_of(config, learner), options, CLASSES, torch.device("cpu"))


@pytest.fixture(scope="module")
def c3d_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, torch.Tensor]]:
    """A Sports-1M file of the PyTorch port, and its tensors by our keys."""
    state = seeded(7, lambda: C3D("logits")).state_dict()
    path = tmp_path_factory.mktemp("c3d") / "c3d.pickle"
    torch.save({PORT_NAMES[key]: value for key, value in state.items()}, path)
    return str(path), dict(state)


def assert_taken_back(learning: Any) -> None:
    """Makes sure that what a learner publishes is all there is to its network."""
    before, published = ({key: value.clone() for key, value in state.items()} for state in states_of(learning))
    for parameter in learning.network.parameters():
        parameter.data.zero_()
    learning.load(published)
    assert all(torch.equal(value, before[key]) for key, value in learning.network.state_dict().items())


def states_of(learning: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Returns a network's tensors, and what is published of them."""
    return learning.network.state_dict(), learning.published()


def test_c3d_begins_with_a_file_of_other_classes(c3d_file: tuple[str, dict[str, torch.Tensor]]) -> None:
    path, state = c3d_file
    learning = started({"name": "c3d", "weights": {"file": path}, "training": {"head_rate": 10}})
    own = learning.network.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items() if not key.startswith("fc8."))
    assert own["fc8.weight"].shape == (3, 4096)
    assert own["fc8.weight"].std().item() == pytest.approx(0.01, rel=0.05)
    assert [group.rate for group in learning.groups()] == [1.0, 10]
    # Under the names of the port, bit by bit.
    assert_taken_back(learning)


def test_rc3d_begins_with_a_c3d_file_whose_first_layers_stand_still(
    c3d_file: tuple[str, dict[str, torch.Tensor]],
) -> None:
    path, state = c3d_file
    learning = started({"name": "rc3d", "training": {"c3d": path}, "options": {"form": "pytorch-thumos14"}})
    network = learning.network
    own = network.state_dict()
    kept = [key for key in own if key.startswith(("conv", "fc6"))]
    assert len(kept) == 18
    assert all(torch.equal(own[key], state[key]) for key in kept)
    assert own["cls_score.weight"].shape == (4, 4096)
    learns = {id(parameter) for group in learning.groups() for parameter in group.parameters}
    still = {name for name, parameter in network.named_parameters() if id(parameter) not in learns}
    assert still == {"conv1a.weight", "conv1a.bias", "conv2a.weight", "conv2a.bias"}
    assert [(group.rate, group.decays) for group in learning.groups()] == [(1.0, True), (2.0, False)]


def test_layers_of_random_weights_learn_unless_it_is_asked_otherwise() -> None:
    small = {"name": "rc3d", "options": {"form": "pytorch-thumos14-resnet18"}}
    sizes = []
    for training in ({}, {"freeze": True}):
        learning = started(small | {"training": training})
        sizes.append(sum(len(list(group.parameters)) for group in learning.groups()))
    assert sizes[0] == sizes[1] + 1
    with pytest.raises(UsageError, match="c3d: expected a release whose trunk is C3D"):
        started(small | {"training": {"c3d": "c3d.pth"}})


def test_cpnet_begins_without_its_modules_and_remembers_longer_after_each_step() -> None:
    learning = started({"name": "cpnet", "options": {"input_size": 112}})
    modules = [module for module in learning.network.modules() if isinstance(module, CorrespondenceProposal)]
    assert len(modules) == 4
    assert all(not module.conv_final.bn.weight.any() for module in modules)
    norms = [module for module in learning.network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    loop = VideoLoopConfig(milestones=(2, 4, 5, 6, 7, 8, 9))
    momenta = []
    for epoch in (0, 2, 4, 9):
        learning.begin_epoch(epoch, loop)
        assert learning.network.training
        momenta.append(norms[0].momentum)
    assert momenta == pytest.approx([0.5, 0.25, 0.125, 0.01])
    assert_taken_back(learning)


def test_options_that_weights_files_do_not_hold_are_refused() -> None:
    with pytest.raises(UsageError, match="cp_blocks: expected as published"):
        started({"name": "cpnet", "options": {"cp_blocks": [0, 0, 1]}})
    with pytest.raises(UsageError, match=r"model name: expected an extractor that can be trained \(c3d, cpnet, rc3d\)"):
        registry.learner("vgg16")


def test_what_dropout_leaves_out_of_an_item_is_its_own() -> None:
    def drawn(*seeds: int) -> Any:
        return kept_by_dropout((1000,), 0.25, [np.random.default_rng(seed) for seed in seeds])

    both = drawn(1, 2)
    assert np.array_equal(both[1:], drawn(2))
    np.testing.assert_allclose(np.unique(both), [0.0, 4 / 3])
    assert (both == 0).mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(("form", "flip"), [("pytorch-thumos14", "copies"), ("caffe-thumos14", "never")])
def test_buffers_are_mirrored_as_the_release_mirrors_them(form: str, flip: str) -> None:
    model = {"name": "rc3d", "options": {"form": form}}
    config = resolve(
        validate(VideoTrainConfig, {"data": {"videos": {"folder": "videos"}}, "model": model, "out": "out"}, "test")
    )
    learner = registry.learner("rc3d")
    options = validate(learner.options, config.model.training, "training")
    assert learner.augmentation(recipe_of(config, learner), options).flip == flip
