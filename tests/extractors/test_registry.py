"""Which extractors there are, and what a wrong name is told."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from clipmill import extractors
from clipmill.extractors import registry
from clipmill.extractors.resolve import resolve_recipe
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.errors import UsageError
from clipmill.schemas.recipe import ClipRule, Recipe


def test_names_are_sorted_and_each_folder_has_a_card_of_its_name() -> None:
    names = registry.names()
    assert list(names) == sorted(set(names))
    for name, folder in registry.BUILT_IN.items():
        assert find_spec(f"{folder}.card") is not None
        assert registry.card(name).name == name


def test_every_folder_of_the_room_is_registered() -> None:
    room = Path(str(extractors.__file__)).parent
    # What the two extractors of exported programs share is a folder that is none itself.
    registered = {package.rpartition(".")[2] for package in registry.BUILT_IN.values()}
    assert {path.parent.name for path in room.glob("*/__init__.py")} == registered | {"exported"}


def test_a_folder_offers_what_its_files_are_there_for() -> None:
    i3d, tracks = registry.registration("i3d"), registry.registration("tracks")
    assert tracks.layouts is tracks.sample is tracks.join is None
    assert i3d.layouts is not None
    assert "i3d_two_stream" in {layout.name for layout in i3d.layouts()}
    assert i3d.sample is not None
    assert "deepmind/kinetics-i3d" in i3d.sample().remedy
    assert i3d.join is not None


@pytest.mark.parametrize("name", sorted(registry.BUILT_IN))
def test_an_extractor_reads_weights_files_where_its_cards_name_layouts(name: str) -> None:
    found = registry.registration(name)
    assert (found.layouts is not None) == any(weights.layouts for weights in found.card.weights)


def recipe(name: str, options: dict[str, str] | None = None, layer: str | None = None) -> Recipe:
    feature = FeatureConfig(weights=WeightsConfig(random=0), options=options or {}, layer=layer)
    return resolve_recipe(name, feature, ClipRule(), DecodeConfig())


def test_class_names_are_those_of_the_weights_without_background() -> None:
    """R-C3D's ``class_index`` counts background as 0: class 1 is the first name (the list file of THUMOS14)."""
    names = registry.class_names(recipe("rc3d", {"form": "caffe-thumos14"}, "detections"))
    assert (len(names), names[0], names[19]) == (20, "BaseballPitch", "VolleyballSpiking")
    assert registry.class_names(recipe("rc3d", {"form": "pytorch-activitynet"}, "detections")) == ()


def test_class_names_that_are_not_known_are_none() -> None:
    assert registry.class_names(recipe("squeezenet", layer="logits")) == ()
    elsewhere = recipe("squeezenet").model_copy(update={"extractor": "not_installed_here"})
    assert registry.class_names(elsewhere) == ()


@pytest.mark.parametrize(
    ("name", "hint"),
    [("squeezenett", "did you mean 'squeezenet'?"), ("vgg-16", "did you mean 'vgg16'?"), ("zzz", "known: c3d, ")],
)
def test_an_unknown_name_is_told_the_near_ones(name: str, hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        registry.card(name)
    message = str(raised.value)
    assert message.startswith(f"extractor {name}: expected a registered name")
    assert hint in message


NAMES_ELSEWHERE = {
    ("extractors/whitening.py", "vgg16"): "the network whose whitening keras_rmac publishes",
    ("extractors/flow.py", "torch"): "PyTorch's folder of downloads",
    ("extractors/resolve.py", "torch"): "the library, as a runtime",
    ("extractors/runtime.py", "torch"): "the library, as a runtime",
    ("extractors/runtime.py", "onnx"): "an extra of the distribution",
    ("schemas/config.py", "torch"): "the library, as a runtime",
    ("schemas/extras.py", "torch"): "the library that an extra brings",
    ("schemas/extras.py", "onnx"): "an extra, and the library it brings",
    ("jobs/doctor.py", "torch"): "the library, asked whether it is there",
    ("pipelines/features/passports.py", "torch"): "the distribution of PyTorch",
    ("pipelines/features/bare_model.py", "torch"): "the distribution of PyTorch",
    **{
        ("jobs/doctor.py", name): "whose ceiling --speed measures"
        for name in ("squeezenet", "resnet50", "vgg16", "c3d", "i3d")
    },
    ("schemas/recipe.py", "tracks"): "a detector of shots",
    ("pipelines/features/shots.py", "tracks"): "a detector of shots",
    ("pipelines/features/plan.py", "tracks"): "a detector of shots",
    ("pipelines/features/device_memory.py", "torch"): "the library, asked whether it is loaded",
    ("pipelines/evaluation/retrieval/key_features.py", "tracks"): "whose layers this search reads",
    ("jobs/search.py", "tracks"): "a key of the search's config",
    ("jobs/search_tracks.py", "tracks"): "whose layers this search reads",
}
"""Generic files that have the name of an extractor in quotes -> what it names there."""


def test_no_generic_code_names_one_extractor() -> None:
    """What is true of one extractor belongs to its card or folder, or the next one is not treated alike."""
    root = Path(str(extractors.__file__)).parents[1]
    rooms = ("extractors", "jobs", "models", "pipelines", "schemas", "stores")
    folders = {package.rpartition(".")[2] for package in registry.BUILT_IN.values()}
    found = set()
    for path in [path for room in rooms for path in (root / room).rglob("*.py")]:
        place = path.relative_to(root).as_posix()
        # Registration, and published feature sets, which are of one extractor each.
        if path.parent.name in folders or place in ("extractors/registry.py", "extractors/presets.py"):
            continue
        constants = [
            node.value for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant)
        ]
        found |= {(place, str(value)) for value in constants if value in registry.BUILT_IN}
    assert found == NAMES_ELSEWHERE.keys()
