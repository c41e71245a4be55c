"""Training on images from the command line: trained, built, evaluated and searched with, as any other system."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from clipmill.models.checkpoints import find_checkpoint, load
from clipmill.models.embedding import embed
from clipmill.schemas.inputs import InputRows
from clipmill.stores import FeatureStore
from tests.command_line import invoke, invoked_result, refused
from tests.pipelines.training.image_runs import CML, SIMILARITY, config_of, make_images


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images") / "images")


def test_a_network_and_its_head_are_used_like_any_others(images: Path, tmp_path: Path) -> None:
    run, path = tmp_path / "run", tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config_of(images, run, SIMILARITY, epochs=2).model_dump(mode="json", by_alias=True)))
    report = invoked_result("train", "--config", str(path))
    assert (report["num_train"], report["num_validation"], report["num_test"]) == (10, 4, 4)
    invoked_result("build", "--config", str(run / "held_out" / "build.yaml"))
    store = FeatureStore(str(run / "held_out" / "store"))
    assert len(store["trained"].clips()) == 4
    found = invoked_result("evaluate", "--config", str(run / "held_out" / "evaluate.yaml"))
    assert set(found["runs"]) == {"reranked", "similarity"}
    # By hand: each image asks for the other one of its kind among the three others, by both orders of the head's score.
    trained = load(find_checkpoint(str(run)))
    clips = store["trained"].clips()
    rows = InputRows(np.stack([store["trained"][clip.video_id].values[0] for clip in clips]))
    query = {"vector": torch.from_numpy(embed(trained, "query", {"image": rows})["vector"])}
    with torch.no_grad():
        score = trained.model.score(query, query).fill_diagonal_(-np.inf)
    same = np.array([[one.label == two.label and one is not two for two in clips] for one in clips])
    rank = [(score[number] >= score[number][same[number]]).sum().item() for number in range(4)]
    expected = np.mean([1 / place for place in rank])
    assert found["runs"]["similarity"]["metrics"]["map@10"] == pytest.approx(expected, abs=1e-6)
    before = invoked_result("evaluate", "--config", str(run / "held_out" / "evaluate_initial.yaml"))
    assert set(before["runs"]) == {"cosine"}
    search = {"run": str(run), "k": 4, "spaces": ["cosine", "reranked"], "out": str(tmp_path / "found")}
    search["queries"] = {"files": [str(images / "cross test 1.png")]}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(search))
    (asked,) = invoked_result("search", "--config", str(tmp_path / "search.yaml"))["queries"]
    # A query is read as a build reads it: its own row is as near as can be.
    first = asked["spaces"]["cosine"][0]
    assert (first["video"], first["score"]) == ("cross test 1", pytest.approx(1, abs=1e-5))


def test_paintings_are_built_and_found_by_their_texts(images: Path, tmp_path: Path) -> None:
    run, path = tmp_path / "run", tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config_of(images, run, CML, epochs=2).model_dump(mode="json", by_alias=True)))
    report = invoked_result("train", "--config", str(path))
    assert report["selected_epoch"] in (1, 2)
    invoked_result("build", "--config", str(run / "held_out" / "build.yaml"))
    found = invoked_result("evaluate", "--config", str(run / "held_out" / "evaluate.yaml"))
    assert found["protocol"]["relevance"] == "the own clip"
    assert 1 <= found["runs"]["common"]["metrics"]["median_rank"] <= 4


def test_an_image_that_is_damaged_or_not_labelled_is_one_line(images: Path, tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text(
        "path,label,split\n" + f"{images}/circle test 0.png,circle,test\ncut.png,cross,train\n"
    )
    (tmp_path / "cut.png").write_bytes((images / "cross train 0.png").read_bytes()[:2000])
    config = config_of(tmp_path, tmp_path / "run", SIMILARITY).model_dump(mode="json", by_alias=True)
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    refused(invoke("train", "--config", str(path)), "data videos: expected 2 that can be read, got 1 that cannot")
    lines = (tmp_path / "images.csv").read_text().replace(",cross,", ",,")
    (tmp_path / "images.csv").write_text(lines)
    refused(invoke("train", "--config", str(path)), "data labels: expected one for every image, got none for 1 of 2")
