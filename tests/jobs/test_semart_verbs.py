"""SemArt from the command line, on paintings of the toy corpus: imported, trained, evaluated, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from examples.semart.corpus import drawn, seen
from tests.command_line import clipmill, refused, result

NUM = 24


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of the vectors of paintings, and their texts as SemArt writes them."""
    folder, random = tmp_path_factory.mktemp("semart"), np.random.default_rng(1)
    paintings = [drawn(random) for _ in range(NUM)]
    np.save(folder / "image.npy", np.array([seen(picture) for picture, *_ in paintings]))
    lines = ["IMAGE_FILE\tDESCRIPTION\tTITLE"]
    # A letter that UTF-8 would have written otherwise.
    lines += [f"p{place:02d}\t{comment} \xc9t\xe9\t{title}" for place, (_, comment, title, _) in enumerate(paintings)]
    (folder / "texts.csv").write_bytes("\n".join(lines).encode("cp1252"))
    manifest = [f"p{place:02d},{'test' if place < 6 else 'train'}" for place in range(NUM)]
    (folder / "manifest.csv").write_text("\n".join(["id,split", *manifest]))
    config = {
        "store": {"url": str(folder / "store"), "dataset": "toy"},
        "manifest": str(folder / "manifest.csv"),
        "features": {"image": {"file": str(folder / "image.npy")}},
    }
    (folder / "import.yaml").write_text(yaml.safe_dump(config))
    result("import", "--config", str(folder / "import.yaml"))
    return folder


@pytest.fixture
def config_of(corpus: Path, tmp_path: Path) -> Callable[..., str]:
    """Returns what writes the config of a training, of the texts of a file."""

    def write(texts: Path, **options: Any) -> str:
        source = {"file": str(texts), "id": "IMAGE_FILE"}
        config = {
            "data": {
                "store": str(corpus / "store"),
                "image": "image",
                "inputs": {"comment": source | {"text": "DESCRIPTION"}, "title": source | {"text": "TITLE"}},
                "split": {"from": "manifest"},
            },
            "model": {"name": "semart", "options": {"min_comment_count": 1, "embedding_dim": 16} | options},
            "loop": {"epochs": 3, "batch": 9, "device": "cpu", "threads": 1},
            "out": str(tmp_path / "run"),
        }
        path = tmp_path / "train.yaml"
        path.write_text(yaml.safe_dump(config))
        return str(path)

    return write


def test_each_text_has_one_painting_to_find(corpus: Path, config_of: Callable[..., str], tmp_path: Path) -> None:
    assert result("train", "--config", config_of(corpus / "texts.csv"))["epoch"] == 3
    path = tmp_path / "evaluate.yaml"
    evaluation = {"run": str(tmp_path / "run"), "cutoffs": [1, 6], "out": str(tmp_path / "out")}
    path.write_text(yaml.safe_dump(evaluation | {"relevant": "own_clip"}))
    found = result("evaluate", "--config", str(path))
    metrics = found["runs"]["common"]["metrics"]
    assert found["protocol"]["relevance"] == "the own clip"
    assert metrics["hit@6"] == 1
    assert 1 <= metrics["median_rank"] <= 6
    assert metrics["recall@1"] == metrics["p@1"]
    # Paintings without labels cannot be found by them.
    path.write_text(yaml.safe_dump(evaluation))
    refused(clipmill("evaluate", "--config", str(path)), "labels of the clips: expected one for every clip")


def test_a_painting_without_a_comment_is_one_line(corpus: Path, config_of: Callable[..., str], tmp_path: Path) -> None:
    lines = (corpus / "texts.csv").read_bytes().split(b"\n")
    name, _, title = lines[4].split(b"\t")
    texts = tmp_path / "texts.csv"
    texts.write_bytes(b"\n".join([*lines[:4], name + b"\t\t" + title, *lines[5:]]))
    done = clipmill("train", "--config", config_of(texts))
    refused(done, "expected words for every clip", f"none for 1 of {NUM}, such as 'p03#0'", "complete the file")


def test_amd_needs_the_attribute(corpus: Path, config_of: Callable[..., str]) -> None:
    done = clipmill("train", "--config", config_of(corpus / "texts.csv", form="amd"))
    refused(done, "labels of the clips: expected one for every clip", f"none for {NUM} of {NUM}")
