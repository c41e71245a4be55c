"""Where results go: a URL is refused before anything is read, by every verb that writes a folder here."""

from pathlib import Path

import pytest

from clipmill.schemas.config import TrainConfig
from clipmill.schemas.config_search import SearchConfig
from clipmill.schemas.config_sweep import SweepConfig
from clipmill.schemas.config_table import MapIvrTableConfig
from clipmill.schemas.config_whiten import WhitenConfig
from clipmill.schemas.errors import ConfigError
from clipmill.schemas.model import validate
from tests.command_line import clipmill, refused


@pytest.mark.parametrize("model", [TrainConfig, SearchConfig, WhitenConfig, SweepConfig, MapIvrTableConfig])
@pytest.mark.parametrize("out", ["s3://bucket/run", "memory://x", "file:///x"])
def test_a_url_is_refused(model: type, out: str) -> None:
    with pytest.raises(ConfigError, match=r"out.*expected a local path, got the URL"):
        validate(model, {"out": out}, "config")


def test_evaluate_refuses_a_url_and_leaves_no_folder_of_that_name(tmp_path: Path) -> None:
    config = tmp_path / "evaluate.yaml"
    config.write_text("task: detection\nground_truth: a.json\npredictions: b.json\nout: s3://bucket/scores\n")
    refused(clipmill("evaluate", "--config", str(config)), "out", "s3://bucket/scores")
    assert not Path("s3:").exists()
