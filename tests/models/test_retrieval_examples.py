"""Each example in examples/retrieval is a training config of the system it is named after, over two features."""

from pathlib import Path

import pytest

from clipmill.models import registry
from clipmill.pipelines.datasets.items import check_inputs
from clipmill.pipelines.training.train import resolve
from clipmill.schemas.config import TrainConfig, parse_config
from clipmill.schemas.config_retrieval import RetrievalConfig

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "retrieval"
COSINE = "cosine.yaml"
"""The one that evaluates, without training."""
EXAMPLES = [path for path in sorted(FOLDER.glob("*.yaml")) if path.name != COSINE]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_a_config_of_the_system_it_is_named_after(path: Path) -> None:
    config = resolve(parse_config(TrainConfig, path.read_text(), source=path.name))
    assert config.model.name in registry.BUILT_IN
    assert path.stem.startswith(config.model.name)
    card = registry.card(config.model.name, registry.resolve_options(config.model.name, config.model.options))
    check_inputs(config.data, card.inputs)
    assert set(config.data.sources.values()) == {"query", "clip"}
    assert (config.loop.select == "last") or config.data.split.validation_fraction > 0
    assert config.out == f"out/retrieval/{path.stem}"


def test_cosine_is_an_evaluation_without_a_run() -> None:
    config = parse_config(RetrievalConfig, (FOLDER / COSINE).read_text(), source=COSINE)
    assert config.run is None
    assert config.exclude == "own_clip"
    assert config.data is not None
    assert config.data.sources == {"image": "query", "video": "clip"}
