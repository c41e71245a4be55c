"""A similarity network from the command line: trained, evaluated with its re-ranked space, and searched with."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from clipmill.models.checkpoints import find_checkpoint, load
from clipmill.models.embedding import embed
from clipmill.schemas.inputs import InputRows
from clipmill.stores import FeatureStore
from tests.command_line import invoke, invoked_result, refused, result


@pytest.fixture(scope="module")
def run(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of all three stages."""
    out = tmp_path_factory.mktemp("similarity") / "run"
    config = {
        "data": {"store": str(blobs / "store"), "image": "query", "video": "frames"},
        "model": {"name": "similarity_network", "options": {"hidden_dims": [16], "initial_deviation": 0.1}},
        "loop": {"epochs": 6, "batch": 4, "device": "cpu", "threads": 1},
        "out": str(out),
    }
    path = out.parent / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    found = invoked_result("train", "--config", str(path))
    assert [("difficult_share" in losses) for losses in found["losses"]] == [False, False, False, False, True, True]
    return out


def test_it_is_evaluated_by_cosine_again_and_by_every_pair(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "evaluate.yaml"
    path.write_text(yaml.safe_dump({"run": str(run), "cutoffs": [1, 2], "out": str(tmp_path / "out"), "rerank": 1}))
    found = invoked_result("evaluate", "--config", str(path))
    runs = found["runs"]
    assert set(runs) == {"reranked", "similarity"}
    # The best alone, scored again, stays the best.
    cosine = runs["reranked"]["baselines"]["cosine"]
    assert runs["reranked"]["metrics"] == cosine | {"coverage": 1.0}
    assert "reranked: the 1 best by cosine, in the order of the model's score." in str(found)


def test_a_search_scores_the_nearest_again(run: Path, blobs: Path, tmp_path: Path) -> None:
    store = FeatureStore(str(blobs / "store"))
    clips = store["frames"].clips()
    video = clips[0].video_id
    time = float(store["query"][video].start_seconds[0])
    path = tmp_path / "search.yaml"
    queries = {"frames": [{"file": str(blobs / "videos" / video), "seconds": [time]}]}
    config = {
        "run": str(run),
        "queries": queries,
        "spaces": ["cosine", "reranked"],
        "rerank": 3,
        "k": 6,
        "out": str(tmp_path / "s"),
    }
    path.write_text(yaml.safe_dump(config))
    spaces = result("search", "--config", str(path))["queries"][0]["spaces"]
    trained = load(find_checkpoint(str(run)))
    left = embed(trained, "query", {"image": InputRows(store["query"][video].values[:1])})["vector"]
    right = embed(trained, "gallery", {"video": InputRows(store["frames"].clip_means(clips))})["vector"]
    nearest = np.argsort(-(right @ left[0]), kind="stable")
    with torch.no_grad():
        pairs = np.concatenate([np.repeat(left, len(right), axis=0), right], axis=1)
        score = trained.model.network(torch.from_numpy(pairs))[:, 0].numpy()  # type: ignore[attr-defined]
    best = nearest[:3]
    expected = [*best[np.argsort(-score[best], kind="stable")], *nearest[3:]]
    assert [item["video"] for item in spaces["cosine"]] == [clips[place].video_id for place in nearest]
    assert [item["video"] for item in spaces["reranked"]] == [clips[place].video_id for place in expected]
    found = [item["score"] for item in spaces["reranked"]]
    assert found[:3] == pytest.approx(score[expected[:3]].tolist(), abs=1e-4)
    assert found == sorted(found, reverse=True)


def test_what_does_not_rerank_is_refused(blobs: Path, tmp_path: Path) -> None:
    path = tmp_path / "evaluate.yaml"
    path.write_text(yaml.safe_dump({"run": str(blobs / "run"), "rerank": 5, "out": str(tmp_path / "out")}))
    refused(invoke("evaluate", "--config", str(path)), "rerank", "a model with a re-ranked space", "leave rerank out")
