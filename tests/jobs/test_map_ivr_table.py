"""``clipmill reproduce map-ivr-table`` as a user runs it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from clipmill.jobs.reproduce import run_reproduce
from clipmill.models import registry
from clipmill.pipelines.reproductions.map_ivr_table.experiment import undone
from clipmill.pipelines.reproductions.map_ivr_table.rows import ROWS
from clipmill.schemas.errors import UsageError
from tests.command_line import Done, invoke
from tests.jobs.retrieval_store import retrieval_config


def written(folder: Path, **keys: Any) -> Path:
    data = retrieval_config(folder / "store")["data"]
    small = {"video_hidden": [8], "image_hidden": [8], "decoder_hidden": [8]}
    config = {
        "data": data,
        "evaluate": {"cutoffs": [1, 2]},
        "systems": ["ridge", "procrustes", "map_ivr", "apivr"],
        "seeds": [0, 1],
        "set": {
            "all": {"loop.epochs": 2, "loop.batch": 4},
            "map_ivr": {f"model.options.{name}": value for name, value in small.items()},
        },
        "published": "activitynet",
        "out": str(folder / "table"),
    }
    (folder / "table.yaml").write_text(yaml.safe_dump({**config, **keys}))
    return folder / "table.yaml"


def ran(*arguments: str) -> Done:
    return invoke("reproduce", "map-ivr-table", *arguments)


def test_the_table_beside_the_published_one_and_again_without_training(tmp_path: Path) -> None:
    path = written(tmp_path)
    done = ran("--config", str(path), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    rows = {row["title"]: row for row in result["rows"]}
    assert list(rows) == [
        "chance",
        "own_clip_first",
        "cosine",
        "Procrustes",
        "ridge regression",
        "APIVR",
        "MAP-IVR appearance",
        "MAP-IVR video",
        "MAP-IVR combined",
    ]
    assert rows["MAP-IVR combined"]["published"] == {
        "map@10": 0.357,
        "map@20": 0.346,
        "map@50": 0.329,
        "map@100": 0.314,
    }
    for title in ("Procrustes", "ridge regression", "MAP-IVR video"):
        given = rows[title]["ours"]["map@1"]
        assert len(given["values"]) == 2
        assert given["mean"] == pytest.approx(np.mean(given["values"]), abs=1e-9)
        assert given["std"] == pytest.approx(np.std(given["values"], ddof=1), abs=1e-9)
    # The store has a row for each clip, and so no bags.
    assert rows["APIVR"]["ours"] == {}
    assert result["cannot_run"] == {"apivr": rows["APIVR"]["note"]}
    assert (
        "feature gallery: expected several rows a clip, which make a bag, got one row for each of"
        in rows["APIVR"]["note"]
    )
    saved = json.loads((tmp_path / "table" / "results.json").read_text())
    assert saved.items() <= result.items()
    page = (tmp_path / "table" / "report.html").read_text()
    assert "never clears its list of average precisions" in page
    assert "MAP-IVR slides, AAAI 2021" in page

    again = ran("--config", str(path))
    assert again.returncode == 0, again.stderr
    assert '"event": "trial"' not in again.stderr
    assert "MAP-IVR combined" in again.stdout
    assert ".357 0.346 0.329 0.314" in again.stdout
    assert "apivr: cannot be run on these clips: " in again.stdout
    assert json.loads((tmp_path / "table" / "results.json").read_text()) == saved


def test_a_row_that_fails_is_told_and_ends_with_3(tmp_path: Path) -> None:
    """A rate at which nothing stays finite: the floors are there all the same."""
    keys = {"map_ivr": {"loop.learning_rate": 1e30, "loop.epochs": 30}}
    outcome = run_reproduce("map-ivr-table", str(written(tmp_path, set=keys, systems=["ridge", "map_ivr"])), [])
    assert outcome.exit_code == 3
    assert set(outcome.data["failed"]) == {"map_ivr"}
    rows = {row["title"]: row for row in outcome.data["rows"]}
    assert rows["ridge regression"]["ours"]
    assert rows["MAP-IVR combined"]["note"].startswith("2 of 2 seeds failed: ")
    assert rows["MAP-IVR combined"]["ours"] == {}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"systems": ["map-ivr"]}, "systems: expected rows of the table, got map-ivr; did you mean 'map_ivr'"),
        ({"set": {"dscm": {}}}, "set: expected a row of the table, got dscm; .*did you mean 'dscmr'"),
        ({"published": "kinetics"}, "published: Input should be 'activitynet' or 'thumos14'"),
        ({"data": {"store": "nowhere", "image": "query", "video": "gallery"}}, "store nowhere: expected a clipmill st"),
    ],
)
def test_what_makes_no_table_is_one_line(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        run_reproduce("map-ivr-table", str(written(tmp_path, **keys)), [])
    assert len(str(caught.value).splitlines()) == 1


def test_without_a_config_it_says_so() -> None:
    with pytest.raises(UsageError, match="reproduce map-ivr-table: expected a config that names the clips, got none"):
        run_reproduce("map-ivr-table", None, [])


def test_published_values_undone_are_those_worked_by_hand() -> None:
    """MAP-IVR combined and APIVR on ActivityNet, as worked in the notes on the released evaluator."""
    names = ("map@10", "map@20", "map@50", "map@100")
    combined = undone(dict(zip(names, (0.357, 0.346, 0.329, 0.314), strict=True)))
    assert [round(value, 3) for value in combined.values()] == [0.357, 0.335, 0.295, 0.269]
    apivr = undone(dict(zip(names, (0.308, 0.298, 0.283, 0.269), strict=True)))
    assert [round(value, 3) for value in apivr.values()] == [0.308, 0.288, 0.253, 0.227]


def test_every_registered_system_has_a_row() -> None:
    retrieving = {name for name in registry.BUILT_IN if registry.registration(name).card.task == "retrieval"}
    # Those of other publications, on other inputs.
    others = {"semart", "semart_cca", "shot_embedding", "similarity_network"}
    assert {row.model for row in ROWS} == retrieving - others
