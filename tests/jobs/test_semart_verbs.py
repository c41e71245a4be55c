"""SemArt from the command line, on paintings of the toy corpus: imported, trained, evaluated, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from clipmill.models.checkpoints import find_checkpoint, load
from clipmill.models.embedding import embed
from clipmill.pipelines.datasets.text import Vocabulary
from clipmill.pipelines.datasets.tokenisers import TOKENISERS
from clipmill.schemas.inputs import InputRows
from examples.semart.corpus import drawn, seen
from tests.command_line import invoke, invoked_result, refused

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
    invoked_result("import", "--config", str(folder / "import.yaml"))
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
    assert invoked_result("train", "--config", config_of(corpus / "texts.csv"))["epoch"] == 3
    path = tmp_path / "evaluate.yaml"
    evaluation = {"run": str(tmp_path / "run"), "cutoffs": [1, 6], "out": str(tmp_path / "out")}
    path.write_text(yaml.safe_dump(evaluation | {"relevant": "own_clip"}))
    found = invoked_result("evaluate", "--config", str(path))
    metrics = found["runs"]["common"]["metrics"]
    assert found["protocol"]["relevance"] == "the own clip"
    assert metrics["hit@6"] == 1
    assert 1 <= metrics["median_rank"] <= 6
    assert metrics["recall@1"] == metrics["p@1"]
    # Paintings without labels cannot be found by them.
    path.write_text(yaml.safe_dump(evaluation))
    refused(invoke("evaluate", "--config", str(path)), "labels of the clips: expected one for every clip")


def test_a_painting_without_a_comment_is_one_line(corpus: Path, config_of: Callable[..., str], tmp_path: Path) -> None:
    lines = (corpus / "texts.csv").read_bytes().split(b"\n")
    name, _, title = lines[4].split(b"\t")
    texts = tmp_path / "texts.csv"
    texts.write_bytes(b"\n".join([*lines[:4], name + b"\t\t" + title, *lines[5:]]))
    done = invoke("train", "--config", config_of(texts))
    refused(done, "expected words for every clip", f"none for 1 of {NUM}, such as 'p03#0'", "complete the file")


def test_amd_needs_the_attribute(corpus: Path, config_of: Callable[..., str]) -> None:
    done = invoke("train", "--config", config_of(corpus / "texts.csv", form="amd"))
    refused(done, "labels of the clips: expected one for every clip", f"none for {NUM} of {NUM}")


def test_a_sentence_finds_paintings(corpus: Path, config_of: Callable[..., str], tmp_path: Path) -> None:
    invoked_result("train", "--config", config_of(corpus / "texts.csv"))
    texts = [line.split("\t")[1] for line in (corpus / "texts.csv").read_text("cp1252").splitlines()[7:10]]
    search = {"run": str(tmp_path / "run"), "k": NUM, "out": str(tmp_path / "found")}
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(search | {"queries": {"texts": [*texts, "xyzzy", f"{texts[0]} xyzzy"]}}))
    found = invoked_result("search", "--config", str(path), code=3)
    assert [query["query"] for query in found["failed"]] == ["xyzzy"]
    assert [query["unknown_words"] for query in found["queries"]] == [[], [], [], ["xyzzy"]]
    # By hand: the cosine of what the model makes of the sentence, read as comment and as title, and of each painting.
    trained = load(find_checkpoint(str(tmp_path / "run")))
    paintings = embed(trained, "gallery", {"image": InputRows(np.load(corpus / "image.npy").astype(np.float32))})
    for query, text in zip(found["queries"], texts, strict=False):
        rows = {
            name: Vocabulary(trained.origin.vocabularies[name]).rows([TOKENISERS["words"](text)], 10_000)
            for name in ("comment", "title")
        }
        score = (paintings["common"] @ embed(trained, "query", rows)["common"].T)[:, 0]
        hits = query["spaces"]["common"]
        assert [hit["score"] for hit in hits] == pytest.approx(np.sort(score)[::-1].tolist(), abs=1e-5)
        assert hits[0]["video"] == f"p{int(score.argmax()):02d}"
    page = (tmp_path / "found" / "report.html").read_text("utf-8")
    assert f"<blockquote>{texts[0]}</blockquote>" in page
    # A picture is none of its queries, and it finds whole clips.
    picture = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(picture)
    path.write_text(yaml.safe_dump(search | {"queries": {"files": [str(picture)]}}))
    refused(invoke("search", "--config", str(path)), "give queries: {texts: [...]}")
    path.write_text(yaml.safe_dump(search | {"queries": {"texts": texts}, "videos": ["p01"]}))
    refused(invoke("search", "--config", str(path)), "leave videos out")
    # The same feature, named for the search.
    there = {"store": str(corpus / "store"), "video": "image"}
    path.write_text(yaml.safe_dump(search | {"queries": {"texts": texts}, "data": there}))
    again = invoked_result("search", "--config", str(path))
    assert again["queries"] == found["queries"][:3]
