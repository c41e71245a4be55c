"""A page of every evaluation task, made of small data with hostile names: what the tests of pages look at."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np

from clipmill.pipelines.evaluation.tasks.classification.report import items_report, videos_report
from clipmill.pipelines.evaluation.tasks.classification.score import evaluate_items, evaluate_video_classes
from clipmill.pipelines.evaluation.tasks.detection.report import detection_report
from clipmill.pipelines.evaluation.tasks.detection.score import (
    DetectionEvaluation,
    DetectionProtocol,
    detection_baseline_scores,
    evaluate_detection,
    ordered_truth,
)
from clipmill.pipelines.evaluation.tasks.highlights.report import highlights_report
from clipmill.pipelines.evaluation.tasks.highlights.score import evaluate_highlights, highlight_baseline_scores
from clipmill.pipelines.evaluation.tasks.landmarks.report import landmarks_report
from clipmill.pipelines.evaluation.tasks.landmarks.score import evaluate_landmarks
from clipmill.pipelines.evaluation.tasks.moments.report import moments_report
from clipmill.pipelines.evaluation.tasks.moments.score import (
    MomentsProtocol,
    MomentTruth,
    evaluate_moments,
    moment_baseline_scores,
)
from clipmill.pipelines.evaluation.tasks.page import FileLine, Lineage, TaskReport
from clipmill.pipelines.evaluation.tasks.proposals.report import proposals_report
from clipmill.pipelines.evaluation.tasks.proposals.score import (
    ProposalsProtocol,
    evaluate_proposals,
    proposal_baseline_scores,
    proposals_truth,
)
from clipmill.pipelines.evaluation.tasks.published import PublishedScore
from clipmill.pipelines.evaluation.tasks.ranking.report import ranking_report
from clipmill.pipelines.evaluation.tasks.ranking.score import evaluate_ranking, ranking_protocol
from clipmill.pipelines.evaluation.tasks.result import TaskScore
from clipmill.pipelines.evaluation.tasks.retrieval.report import retrieval_report
from clipmill.pipelines.evaluation.tasks.retrieval.score import retrieval_score
from clipmill.pipelines.evaluation.tasks.scene_retrieval.report import scenes_report
from clipmill.pipelines.evaluation.tasks.scene_retrieval.score import evaluate_scenes, scene_protocol
from clipmill.pipelines.evaluation.tasks.segment_truth import SegmentTruth
from clipmill.schemas.config_detection import DetectionConfig, ProposalsConfig
from clipmill.schemas.config_moments import HighlightsConfig, MomentsConfig
from clipmill.schemas.config_ranking import LandmarksConfig, RankingConfig
from clipmill.schemas.config_scene_retrieval import SceneRetrievalConfig
from clipmill.schemas.segments import Segments, segments_from_columns
from clipmill.stores.formats.records import ClassScoreTable, LandmarkTruth, ShownIn, ShownScenes
from tests.pipelines.evaluation.retrieval_page import retrieval_result, shown

HOSTILE = "<script>alert(1)</script>" + "x" * 70
FILES = {"ground_truth": "gt", "predictions": "p", "resamples": 20}
LINEAGE = Lineage(
    (FileLine("ground truth", "/a/very/long/path/" + "folder/" * 20 + "gt.json", 1234567, "ab" * 32),),
    (("clipmill", "1.2.3"),),
    None,
    "task: detection\nnote: <b>not bold</b>\n",
)
PUBLISHED = (
    PublishedScore("detection", "elsewhere", "Method <P>", {"map@0.5": 0.123}, "A. Nother, 2019", "NMS at 0.4"),
)


def detections(
    num_videos: int = 30, num_labels: int = 6, per_video: int = 25, seed: int = 0
) -> tuple[Segments, Segments]:
    """Ground truth, and predictions that are it moved, mislabelled or invented, the better the higher their score."""
    random = np.random.default_rng(seed)
    names = [HOSTILE, *(f"class {n}" for n in range(1, num_labels))]
    videos = [f"video <{n:03d}> & więcej" for n in range(num_videos)]
    truth, answers = [], []
    for n, video in enumerate(videos):
        own = [(float(s), float(s + w), names[(n + k) % num_labels]) for k, (s, w) in enumerate(zip(
            np.sort(random.uniform(0, 90, 4)), random.uniform(1, 20, 4), strict=True))]  # fmt: skip
        truth += [(video, *item) for item in own]
        for _ in range(per_video):
            start, stop, label = own[random.integers(4)]
            noise = random.exponential(0.2) * (stop - start)
            start, stop = start + noise * random.normal(), stop + noise * random.normal()
            right = random.random() < 0.7
            label = label if right else names[random.integers(num_labels)]
            score = random.random() * (1.0 if right else 0.6) / (1 + noise)
            answers.append((video, min(start, stop), max(start, stop), label, score))
    video, start, stop, label = zip(*truth, strict=True)
    ground_truth = segments_from_columns(video, start, stop, label, video_ids=videos)
    video, start, stop, label, score = zip(*answers, strict=True)
    return ground_truth, segments_from_columns(video, start, stop, label, score)


@cache
def evaluated_detections(name: str = "ours", protocol: str = "activitynet", **drawn: int) -> DetectionEvaluation:
    """The detections, scored with baselines."""
    truth, answers = detections(**drawn)
    settings = DetectionProtocol.of(DetectionConfig.model_validate(FILES | {"protocol": protocol}))
    durations = dict.fromkeys(truth.video_ids, 120.0)
    given = ordered_truth(SegmentTruth(truth, None, durations), settings)
    baselines = detection_baseline_scores(given, settings, 20, 0)
    return evaluate_detection(name, given, answers, settings, baselines, resamples=20)


def detection_page(evaluation: DetectionEvaluation | None = None) -> TaskReport:
    """The report of detections, with published rows and lineage."""
    found = evaluation or evaluated_detections()
    score = TaskScore("detection", found.protocol.to_plain(), {"fingerprint": "f" * 32, "num_videos": 30}, (found.run,))
    return detection_report(score, (found,), PUBLISHED, LINEAGE)


def proposals_page() -> TaskReport:
    truth, answers = detections()
    protocol = ProposalsProtocol.of(ProposalsConfig.model_validate(FILES))
    given = proposals_truth(SegmentTruth(truth, None, dict.fromkeys(truth.video_ids, 120.0)), protocol)
    found = evaluate_proposals("ours", given, answers, protocol, proposal_baseline_scores(given, protocol, 20, 0), 20)
    return proposals_report(TaskScore("proposals", protocol.to_plain(), {}, (found.run,)), (found,), (), LINEAGE)


def moments_page() -> TaskReport:
    random = np.random.default_rng(0)
    queries = [f"q{n:02d}" for n in range(30)]
    start = random.uniform(0, 60, 30)
    stop = start + random.uniform(3, 40, 30)
    windows = segments_from_columns(queries, start, stop)
    moved = np.abs(np.tile(start, 6) + random.normal(0, 8, 180))
    answers = segments_from_columns(queries * 6, moved, moved + random.uniform(3, 40, 180), score=random.random(180))
    sentences = tuple(f"A person <b>{n}</b> does {'something ' * 10}{HOSTILE}" for n in range(30))
    truth = MomentTruth(windows, np.full(30, 120.0), sentences, tuple(f"video {n}" for n in range(30)))
    protocol = MomentsProtocol.of(MomentsConfig.model_validate(FILES | {"lengths": True}), "charades")
    found = evaluate_moments("ours", truth, answers, protocol, moment_baseline_scores(truth, protocol), 20)
    return moments_report(TaskScore("moments", protocol.to_plain(), {}, (found.run,)), (found,), (), LINEAGE)


def highlights_page() -> TaskReport:
    random = np.random.default_rng(0)
    saliency = {f"q{n:02d}": random.integers(0, 5, (30, 3)).astype(np.float64) for n in range(20)}
    predicted = {name: scores.mean(axis=1) + random.normal(0, 1, 30) for name, scores in list(saliency.items())[1:]}
    config = HighlightsConfig.model_validate(FILES)
    baselines = highlight_baseline_scores(saliency, config.levels, 0)
    found = evaluate_highlights("ours", saliency, predicted, config, baselines)
    score = TaskScore("highlights", {"levels": [2, 3, 4]}, {}, (found.run,))
    return highlights_report(score, (found,), (), LINEAGE, sentences={"q03": HOSTILE})


def items_page(num_classes: int = 40) -> TaskReport:
    random = np.random.default_rng(0)
    names = (HOSTILE, *(f"class {n:03d}" for n in range(1, num_classes)))
    label = random.integers(0, num_classes, 300)
    values = random.normal(size=(300, num_classes))
    values[np.arange(300), label] += 3
    ids = tuple(f"clip_{n:04d}" for n in range(300))
    labels = {name: names[code] for name, code in zip(ids, label.tolist(), strict=True)} | {"left out": names[0]}
    found = evaluate_items("ours", labels, ClassScoreTable(ids, names, values), resamples=20)
    return items_report(TaskScore("classification", {"cutoffs": [1, 5]}, {}, (found.run,)), (found,), (), LINEAGE)


def videos_page() -> TaskReport:
    truth, answers = detections()
    found = evaluate_video_classes("ours", truth, answers, resamples=20)
    return videos_report(TaskScore("classification", {"cutoffs": [1, 3]}, {}, (found.run,)), (found,), (), LINEAGE)


def ranking_page() -> TaskReport:
    random = np.random.default_rng(0)
    qrels = {f"q{q}": {f"d{d}": int(random.random() < 0.2) for d in range(0, 100, 2)} for q in range(15)}
    documents = {
        query: {f"d{d}": float(random.random() + judged.get(f"d{d}", 0)) for d in range(60)}
        for query, judged in qrels.items()
    }
    config = RankingConfig.model_validate(FILES)
    found = evaluate_ranking("ours", qrels, documents, config)
    score = TaskScore("ranking", ranking_protocol(config), {}, (found.run,))
    return ranking_report(score, (found,), (), LINEAGE)


def landmarks_page() -> TaskReport:
    random = np.random.default_rng(0)
    images = tuple(f"image_{n:03d}" for n in range(80))
    names = {f"place_{n}": images[n] for n in range(10)}
    positives = {query: frozenset(random.choice(images, 8, replace=False).tolist()) for query in names}
    junk = {
        query: frozenset(set(random.choice(images, 8, replace=False).tolist()) - positives[query]) for query in names
    }
    truth = LandmarkTruth(images, names, {"medium": positives, "hard": positives}, {"medium": junk, "hard": junk})
    rankings = {query: tuple(random.permutation(np.array(images)).tolist()) for query in names}
    found = evaluate_landmarks("ours", truth, rankings, LandmarksConfig.model_validate(FILES))
    return landmarks_report(TaskScore("landmarks", {"ap": "trapezoid"}, {}, (found.run,)), (found,), (), LINEAGE)


def retrieval_page() -> TaskReport:
    result = retrieval_result()
    return retrieval_report(retrieval_score(result, baselines=("cosine",)), result, shown(), LINEAGE)


def scenes_page() -> TaskReport:
    random = np.random.default_rng(0)
    clips = [HOSTILE, *(f"day/clip <{n:02d}>.mp4" for n in range(40))]
    truth = ShownScenes(
        {
            str(query): tuple(ShownIn(clip, 3, 9) for clip in random.choice(clips, 4, replace=False).tolist())
            for query in range(20)
        }
    )
    ranked = {query: random.permutation(np.array(clips)).tolist() for query in truth.ids[1:]}
    config = SceneRetrievalConfig.model_validate(FILES | {"num_scenes": 41})
    found = evaluate_scenes("ours", truth, ranked, config)
    report = scenes_report(TaskScore("scene_retrieval", scene_protocol(config), {}, (found.run,)), (found,))
    return replace(report, lineage=LINEAGE)


PAGES: dict[str, Callable[[], TaskReport]] = {
    "detection": detection_page,
    "proposals": proposals_page,
    "moments": moments_page,
    "highlights": highlights_page,
    "items": items_page,
    "videos": videos_page,
    "ranking": ranking_page,
    "landmarks": landmarks_page,
    "retrieval": retrieval_page,
    "scenes": scenes_page,
}
