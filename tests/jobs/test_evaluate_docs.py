"""The documented configs are configs, and every key of the models is documented."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from clipmill.pipelines.evaluation.tasks.registry import names, parse_task_config, task
from clipmill.schemas.config_evaluate import PredictionsConfig, TruthConfig
from clipmill.schemas.errors import ConfigError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluation_tasks.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES, ids=[yaml.safe_load(text)["task"] for text in EXAMPLES])
def test_a_documented_config_is_accepted_by_its_task(text: str) -> None:
    found, config = parse_task_config(text)
    assert found.name == yaml.safe_load(text)["task"]
    assert isinstance(config, found.config)
    with pytest.raises(ConfigError, match="unknown key"):
        parse_task_config(text + "\nno_such_key: 1\n")


def test_all_tasks_but_retrieval_have_an_example() -> None:
    without = {"retrieval", "proposals", "highlights"}
    assert {yaml.safe_load(text)["task"] for text in EXAMPLES} >= set(names()) - without


MODELS = [task(name).config for name in names() if name != "retrieval"]


@pytest.mark.parametrize("model", [*MODELS, PredictionsConfig, TruthConfig], ids=lambda model: model.__name__)
def test_every_key_is_documented(model: type[BaseModel]) -> None:
    words = set(re.findall(r"\w+", PAGE.read_text(encoding="utf-8")))
    assert set(model.model_fields) <= words
