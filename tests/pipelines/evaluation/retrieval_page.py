"""A retrieval's page made of small data with hostile names: what the tests of pages look at."""

from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image

from clipmill.pipelines.evaluation.retrieval.evaluate import Gallery, Queries, RetrievalResult, evaluate_retrieval
from clipmill.pipelines.evaluation.retrieval.scorers import Combined, Cosine
from clipmill.pipelines.evaluation.tasks.page import Lineage, TaskReport
from clipmill.pipelines.evaluation.tasks.retrieval.dataset import Dataset, DatasetCounts, FeatureLine
from clipmill.pipelines.evaluation.tasks.retrieval.embedding_map import EmbeddingMap, lay_out
from clipmill.pipelines.evaluation.tasks.retrieval.examples import ClipImages, choose_examples, thumbnails_needed
from clipmill.pipelines.evaluation.tasks.retrieval.report import Shown, retrieval_report
from clipmill.pipelines.evaluation.tasks.retrieval.score import retrieval_score
from clipmill.pipelines.reports.lineage import ClipLineage, FeatureLineage
from clipmill.pipelines.reports.runs import SpeedOfLight, StageTime
from clipmill.pipelines.reports.thumbnails import Thumbnail, moving_thumbnail

SPACES = ("appearance", "video", "combined")
LONG_LABEL = "a label without any break " + "x" * 60


def jpeg(seed: int) -> bytes:
    """A small image of one colour."""
    colour = tuple(int(c) for c in np.random.default_rng(seed).integers(0, 255, 3))
    buffer = BytesIO()
    Image.new("RGB", (32, 20), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def moving(seed: int) -> Thumbnail:
    """Three frames."""
    return moving_thumbnail([jpeg(10 * seed + i) for i in range(3)])


@cache
def retrieval_result(num: int = 30, num_labels: int = 5) -> RetrievalResult:
    """Three spaces of a model and plain cosine."""
    rng = np.random.default_rng(0)
    labels = [f"label {i % num_labels}" if i % num_labels else LONG_LABEL for i in range(num)]
    ids = [f"{label[:9]}/clip <{i:03d}> & więcej.mp4" for i, label in enumerate(labels)]
    centres = rng.standard_normal((num_labels, 8))
    codes = np.arange(num) % num_labels
    vectors = {name: centres[codes] + rng.standard_normal((num, 8)) for name in ("a", "b")}
    queries = {name: centres[codes] + rng.standard_normal((num, 8)) for name in ("a", "b")}
    scorers = {
        "cosine": Cosine("a", "b"),
        "appearance": Cosine("a", "a"),
        "video": Cosine("b", "b"),
        "combined": Combined({"appearance": 0.5, "video": 0.5}),
    }
    return evaluate_retrieval(Queries(ids, labels, queries), Gallery(ids, labels, vectors), scorers)


@cache
def shown(num: int = 30, num_labels: int = 5, num_examples: int = 6) -> Shown:
    """Everything a page can show beside the scores."""
    result = retrieval_result(num, num_labels)
    examples = choose_examples(result, "combined", num_examples)
    queries, items = thumbnails_needed(result, examples, SPACES)
    layouts, explained = lay_out(np.random.default_rng(1).standard_normal((len(result.gallery_ids), 8)))
    feature = FeatureLineage(
        "frames", "gallery", "frames-12345678", "1" * 32, "3 of this clip", "2 frames: 0, 5 at 0.00, 0.20 s",
        "squeezenet1_0, SHA-256 abc", {"decoded by": "pyav 18.1.0"},
    )  # fmt: skip
    dataset = Dataset(
        DatasetCounts("test set", 31, 30, 5, 24, 6, "Split by video."),
        (
            FeatureLine("squeezenet", "squeezenet", "pool10", "query", 400, 1000, "squeezenet1_0", "abcdef0123456789"),
            FeatureLine("c3d", "c3d", "fc6", "gallery", 1234567, 4096, "random(7)", "", "decord 0.6.0"),
        ),
        {"truncated": 2, "no_video_stream": 1},
        (StageTime("build", 184.2, "70 videos"), StageTime("decode", 90.0, "", True), StageTime("train", 12.0)),
        SpeedOfLight("412 frames/s, limited by the model", (("achieved", 412.0), ("model", 452.0))),
    )
    return Shown(
        title="MAP-IVR on a test set",
        dataset=dataset,
        examples=examples,
        images=ClipImages(
            queries={name: Thumbnail(jpeg(i)) for i, name in enumerate(queries)},
            gallery={name: moving(100 + i % 3) for i, name in enumerate(items[1:])},
            spans=dict.fromkeys(items, (0.0, 61.25)),
        ),
        embedding=EmbeddingMap(
            result.gallery_ids,
            result.gallery_labels,
            layouts,
            explained,
            "vectors",
            99,
            {name: Thumbnail(jpeg(i % 4)) for i, name in enumerate(result.gallery_ids)},
        ),
        lineage={
            clip: ClipLineage(
                clip, f"{clip}-video", f"videos/{clip}", "f" * 32, 12345, 0.0, 61.25, "same bytes", (feature,)
            )
            for clip in dict.fromkeys([*queries, *items])
        },
    )


LINEAGE = Lineage(
    (),
    (("Run", "20261104-map-ivr"),),
    None,
    "cutoffs: [10, 20]\nnote: <b>not bold</b>\n",
    ("clipmill build --config mine.yaml --set " + "a" * 80,),
)


def retrieval_page(
    beside: Shown | None = None, result: RetrievalResult | None = None, primary: str | None = None
) -> TaskReport:
    """The report of a result with everything there is to show."""
    found = result or retrieval_result()
    score = retrieval_score(found, baselines=("cosine",))
    return retrieval_report(score, found, shown() if beside is None else beside, LINEAGE, primary)
