"""Trials: what the two verbs give, kept under what decides it, and never run twice."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from clipmill.jobs.evaluate import run_evaluate
from clipmill.jobs.train import run_train
from clipmill.models import registry
from clipmill.models.checkpoints import find_checkpoint, load
from clipmill.models.embedding import embed
from clipmill.pipelines.datasets.items import read_items
from clipmill.pipelines.sweeps.planning import Planner
from clipmill.pipelines.sweeps.points import points_of
from clipmill.pipelines.sweeps.summary import spread_of
from clipmill.pipelines.sweeps.sweep import SweepResult, best_train_keys, sweep
from clipmill.pipelines.sweeps.trials import Trial, TrialResult, run_all, run_here
from clipmill.schemas.config import DataConfig
from clipmill.schemas.config_sweep import SweepConfig
from clipmill.schemas.errors import ConfigError, UsageError
from clipmill.schemas.model import validate
from clipmill.schemas.registry import Registry
from tests.jobs.retrieval_store import retrieval_config
from tests.outside_packages import install
from tests.pipelines.datasets.moment_stores import LINES, SECONDS, write_moment_store
from tests.pipelines.training.video_runs import make_videos

SMALL = {"appearance_dim": 8, "motion_dim": 8, "latent_dim": 4, "video_hidden": [8], "image_hidden": [8]}


def sweep_config(folder: Path, **keys: Any) -> SweepConfig:
    data = retrieval_config(folder / "store")["data"]
    train = {
        "data": data,
        "model": {"name": "map_ivr", "options": {**SMALL, "decoder_hidden": [8]}},
        "loop": {"epochs": 2, "batch": 4, "device": "cpu", "threads": 1},
    }
    defaults = {
        "train": train,
        "evaluate": {"cutoffs": [1, 2]},
        "grid": {"model.options.lambda_v": [0.0, 1.0]},
        "seeds": [0, 1],
        "out": str(folder / "sweep"),
    }
    return validate(SweepConfig, {**defaults, **keys}, "sweep.yaml")


class _Runs:
    """Runs trials here and remembers which."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def __call__(self, trials: Sequence[Trial], root: Path) -> Iterator[TrialResult]:
        self.keys += [trial.key for trial in trials]
        yield from run_here(trials, root)


def swept(config: SweepConfig, run: Any = run_here) -> SweepResult:
    train = config.train
    assert isinstance(train, dict)
    return sweep(config, train, run, lambda done, of, result: None)


def test_a_trial_is_what_train_and_evaluate_give(tmp_path: Path) -> None:
    result = swept(sweep_config(tmp_path, grid={"model.options.lambda_v": [0.5]}, seeds=[3]))
    [point] = result.points
    train = {
        **result.train_keys,
        "model": {"name": "map_ivr", "options": {**SMALL, "decoder_hidden": [8], "lambda_v": 0.5}},
        "loop": {**result.train_keys["loop"], "seed": 3},
        "out": str(tmp_path / "run"),
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(train))
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump({"run": train["out"], "cutoffs": [1, 2]}))
    run_train(str(tmp_path / "train.yaml"), [])
    runs = run_evaluate(str(tmp_path / "evaluate.yaml"), ["report=false"]).data["runs"]
    given = {name: item.mean for name, item in point.metrics.items() if not name.startswith("loss/")}
    assert given == pytest.approx(
        {f"{name}/{metric}": value for name, run in runs.items() for metric, value in run["metrics"].items()}, abs=1e-9
    )
    assert point.baselines["cosine/map@1"].mean == pytest.approx(
        runs["combined"]["baselines"]["cosine"]["map@1"], abs=1e-9
    )
    assert result.metric == "combined/map@1"


def test_what_is_finished_is_not_run_again_and_a_longer_grid_runs_what_is_new(tmp_path: Path) -> None:
    first, second, third = _Runs(), _Runs(), _Runs()
    one = swept(sweep_config(tmp_path), first)
    two = swept(sweep_config(tmp_path), second)
    assert len(set(first.keys)) == 4
    assert second.keys == []
    assert [point.to_plain() for point in one.points] == [point.to_plain() for point in two.points]
    longer = swept(sweep_config(tmp_path, grid={"model.options.lambda_v": [1.0, 0.25, 0.0]}), third)
    assert len(third.keys) == 2
    assert longer.points[0].to_plain() == one.points[1].to_plain()
    # A half-written or foreign file is no result.
    path = tmp_path / "sweep" / "trials" / first.keys[0] / "trial.json"
    path.write_text(path.read_text()[:40])
    fourth = _Runs()
    swept(sweep_config(tmp_path), fourth)
    assert fourth.keys == [first.keys[0]]


def test_other_rows_in_the_store_make_other_trials(tmp_path: Path) -> None:
    config = sweep_config(tmp_path)
    planner = Planner()
    assert isinstance(config.train, dict)
    before = planner.trials(config.train, points_of(config), config, "sweep")
    name = next(iter(planner._items))
    items = planner._items[name]
    items.inputs["image"].values[0, 0] += 1
    after = planner.trials(config.train, points_of(config), config, "sweep")
    assert {trial.key for trial in before}.isdisjoint(trial.key for trial in after)


def test_mean_and_spread_are_those_of_numpy(tmp_path: Path) -> None:
    result = swept(sweep_config(tmp_path, seeds=[0, 1, 2], seed_keys=["loop.seed", "data.split.seed"]))
    for point in result.points:
        for name, item in point.metrics.items():
            given = [trial.metrics[name] for trial in result.results if trial.point == point.point.name]
            assert item.mean == pytest.approx(np.mean(given))
            assert item.std == pytest.approx(np.std(given, ddof=1))
    assert spread_of([0.25]).text == "0.250"
    assert spread_of([0.25, 0.35]).text == "0.300 ±0.071"


def test_the_best_point_is_a_config_that_gives_its_first_seed_again(tmp_path: Path) -> None:
    result = swept(sweep_config(tmp_path, metric="video/map@1", goal="min"))
    means = [point.metrics["video/map@1"].mean for point in result.points]
    assert result.best == int(np.argmin(means))
    best = best_train_keys(result)
    assert best is not None
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(best))
    report = run_train(str(tmp_path / "best.yaml"), [])
    assert report.data["options"]["lambda_v"] == result.points[result.best].point.settings["model.options.lambda_v"]
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump({"run": best["out"], "cutoffs": [1, 2], "report": False}))
    again = run_evaluate(str(tmp_path / "evaluate.yaml"), []).data["runs"]["video"]["metrics"]["map@1"]
    assert again == pytest.approx(result.points[result.best].metrics["video/map@1"].values[0], abs=1e-9)


def test_checkpoints_are_deleted_unless_they_are_wanted(tmp_path: Path) -> None:
    config = sweep_config(tmp_path, grid={"model.options.lambda_v": [0.5]}, seeds=[0])
    swept(config)
    assert list((tmp_path / "sweep" / "trials").rglob("*.pt")) == []
    swept(config.model_copy(update={"out": str(tmp_path / "kept"), "keep_checkpoints": True}))
    assert len(list((tmp_path / "kept" / "trials").rglob("*.pt"))) == 1


def test_both_ways_round_are_the_arrays_ranked_the_other_way(tmp_path: Path) -> None:
    config = sweep_config(tmp_path, grid={"loop.seed": [0]}, seed_keys=["data.split.seed"], seeds=[0], backwards=True)
    train = {**config.train, "model": {"name": "procrustes"}, "loop": {}}  # type: ignore[dict-item]
    result = sweep(config.model_copy(update={"keep_checkpoints": True}), train, run_here, lambda *_: None)
    [point] = result.points
    trained = load(find_checkpoint(tmp_path / "sweep" / "trials" / result.results[0].key))
    items = read_items(validate(DataConfig, trained.origin.config["data"], "data"), trained.card.inputs).of("test")
    space = next(iter(trained.model.spaces()))
    [query], [gallery] = (list(embed(trained, side, items.inputs).values()) for side in ("query", "gallery"))
    scores = (gallery / np.linalg.norm(gallery, axis=1, keepdims=True)) @ (
        query / np.linalg.norm(query, axis=1, keepdims=True)
    ).T
    hits = items.label[np.argsort(-scores, axis=1, kind="stable")[:, 0]] == items.label
    assert point.metrics[f"backwards {space}/map@1"].mean == pytest.approx(hits.mean())
    assert f"{space}/map@1" in point.metrics


@pytest.fixture
def brittle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A site folder with a model that fails as its option says."""
    site = install(Path(__file__).parent / "outside", tmp_path / "site")
    monkeypatch.syspath_prepend(str(site))
    fresh = Registry("model", "clipmill.models", registry.Registration, registry.BUILT_IN)
    monkeypatch.setattr(registry, "_REGISTRY", fresh)
    yield site
    sys.modules.pop("brittle_ridge", None)


def test_a_trial_that_fails_is_told_and_the_others_go_on(tmp_path: Path, brittle: Path) -> None:
    config = sweep_config(tmp_path, grid={"model.options.fails": ["raises", "never"]})
    train = {**config.train, "model": {"name": "brittle_ridge"}, "loop": {}}  # type: ignore[dict-item]
    result = sweep(config, train, run_here, lambda *_: None)
    assert result.num_failed == 2
    assert result.points[0].errors == dict.fromkeys((0, 1), "RuntimeError: the factorisation could not be completed")
    assert result.best == 1
    again = _Runs()
    sweep(config, train, again, lambda *_: None)
    assert set(again.keys) == {trial.key for trial in result.results if trial.point == "fails raises"}


def test_a_point_that_is_none_is_one_line_before_anything_is_trained(tmp_path: Path) -> None:
    runs = _Runs()
    config = sweep_config(tmp_path, grid={"model.options.lambda": [0.5]})
    with pytest.raises(ConfigError, match="model.options lambda: unknown key; did you mean 'lambda_v'"):
        swept(config, runs)
    with pytest.raises(ConfigError, match=r"sweep \(epochs many\) loop.epochs: .*got 'many'"):
        swept(sweep_config(tmp_path, grid={"loop.epochs": ["many"]}), runs)
    with pytest.raises(ConfigError, match="sweep evaluate cutoff: unknown key; did you mean 'cutoffs'"):
        swept(sweep_config(tmp_path, evaluate={"cutoff": [1]}), runs)
    assert runs.keys == []
    assert not (tmp_path / "sweep").exists()


def test_a_metric_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sweep metric: expected one that the trials have, got combined/map@3; "):
        swept(sweep_config(tmp_path, metric="combined/map@3", grid={"model.options.lambda_v": [0.5]}, seeds=[0]))


def test_results_are_kept_as_plain_json(tmp_path: Path) -> None:
    result = swept(sweep_config(tmp_path, grid={"model.options.lambda_v": [0.5]}, seeds=[0]))
    kept = json.loads((tmp_path / "sweep" / "trials" / result.results[0].key / "trial.json").read_text())
    assert kept["metrics"] == result.results[0].metrics
    assert (tmp_path / "sweep" / "trials" / result.results[0].key / "evaluation" / "results.json").is_file()


def test_two_points_that_are_one_training_are_trained_once(tmp_path: Path) -> None:
    runs = _Runs()
    points = [{"name": "as it is"}, {"name": "the same", "set": {"loop.epochs": 2}}]
    result = swept(sweep_config(tmp_path, grid={}, points=points, seeds=[0]), runs)
    assert len(runs.keys) == 1
    assert result.points[0].metrics == result.points[1].metrics
    assert [trial.point for trial in run_all_again(result, tmp_path)] == ["as it is", "the same"]


def run_all_again(result: SweepResult, folder: Path) -> list[TrialResult]:
    config = result.config
    trials = Planner().trials(result.train_keys, points_of(config), config, "sweep")
    return run_all(trials, Path(config.out), run_here, lambda *_: None)


def moments_sweep(folder: Path, **keys: Any) -> SweepConfig:
    """A sweep of CI-MHA over a store of three videos, which trains on four sentences and is scored on them."""
    write_moment_store(folder)
    (folder / "lines.txt").write_text(LINES)
    (folder / "seconds.json").write_text(json.dumps(SECONDS))
    train = {
        "data": {"store": str(folder / "store"), "video": "steps", "queries": {"train": str(folder / "lines.txt")}},
        "model": {"name": "ci_mha", "options": {"dim": 8, "word_dim": 8, "max_words": 8, "num_heads": 2}},
        "loop": {"epochs": 1, "batch": 4, "device": "cpu", "threads": 1},
    }
    truth = {"file": str(folder / "lines.txt"), "durations": str(folder / "seconds.json")}
    defaults = {
        "train": train,
        "evaluate": {"task": "moments", "ground_truth": truth, "iou_thresholds": [0.3, 0.5]},
        "grid": {"model.options.fusion": ["pool", "pad"]},
        "seeds": [1],
        "out": str(folder / "sweep"),
    }
    return validate(SweepConfig, {**defaults, **keys}, "sweep.yaml")


def test_a_model_of_moments_is_swept_by_its_own_score(tmp_path: Path) -> None:
    config, runs = moments_sweep(tmp_path), _Runs()
    result = swept(config, runs)
    assert result.metric == "moments/r1@0.5"
    assert (len(runs.keys), result.num_failed, result.goal) == (2, 0, "max")
    [first, second] = result.points
    assert {"moments/r5@0.5", "moments/miou", "loss/total"} <= first.metrics.keys()
    assert first.metrics["loss/total"].mean != second.metrics["loss/total"].mean
    assert "chance/r1@0.5" in result.baselines
    # What the two verbs give of the same config.
    train = {**result.train_keys, "loop": {**result.train_keys["loop"], "seed": 1}, "out": str(tmp_path / "run")}
    train["model"] = {**train["model"], "options": {**train["model"]["options"], "fusion": "pad"}}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(train))
    evaluate = {**config.evaluate, "predictions": {"run": train["out"]}, "out": str(tmp_path / "evaluation")}
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(evaluate))
    run_train(str(tmp_path / "train.yaml"), [])
    [alone] = run_evaluate(str(tmp_path / "evaluate.yaml"), ["report=false"]).data["runs"].values()
    assert alone["metrics"]["miou"] == second.metrics["moments/miou"].mean
    # Nothing is run again, until the annotations are others.
    assert swept(config, runs).results == result.results
    assert len(runs.keys) == 2
    (tmp_path / "lines.txt").write_text(LINES.replace("c 0.0 6.5", "c 1.0 6.5"))
    swept(config, runs)
    assert len(runs.keys) == 4


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"evaluate": {}}, r"sweep evaluate task: expected moments, .* got retrieval; write evaluate: {task: moments"),
        ({"evaluate": {"task": "moments"}}, "ground_truth"),
        ({"backwards": True}, "sweep backwards: expected none: moments do not search"),
    ],
)
def test_a_sweep_of_moments_that_cannot_be_scored_is_refused(
    tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        swept(moments_sweep(tmp_path, **keys))
    with pytest.raises(ConfigError, match="predictions is each training's own"):
        moments_sweep(tmp_path, evaluate={"task": "moments", "predictions": "found.csv"})


def test_a_model_of_retrieval_is_not_scored_as_moments(tmp_path: Path) -> None:
    evaluate = {"task": "moments", "ground_truth": "lines.txt"}
    with pytest.raises(UsageError, match="sweep evaluate task: expected retrieval, .* got moments"):
        swept(sweep_config(tmp_path, evaluate=evaluate))


def videos_sweep(folder: Path, **keys: Any) -> SweepConfig:
    """A sweep of CPNet over three small videos, one of which validates."""
    videos = folder / "videos" if (folder / "videos").exists() else make_videos(folder / "videos")
    train = {
        "data": {"videos": {"manifest": str(videos / "parts.csv")}, "split": {"from": "manifest"}},
        "model": {"name": "cpnet", "sampling": {"frames": 2, "every": 2, "step": 4}, "options": {"input_size": 112}},
        "loop": {"epochs": 1, "batch": 2, "select": "total", "threads": 1},
    }
    defaults = {"train": train, "grid": {"loop.learning_rate": [0.001, 0.1]}, "out": str(folder / "sweep")}
    return validate(SweepConfig, {**defaults, **keys}, "sweep.yaml")


@pytest.mark.slow
def test_a_training_on_videos_is_swept_by_its_validation_loss(tmp_path: Path) -> None:
    config, runs = videos_sweep(tmp_path), _Runs()
    result = swept(config, runs)
    assert (result.metric, result.goal, result.num_failed) == ("validation/total", "min", 0)
    assert {"validation/error", "loss/total", "loss/error"} <= result.points[0].metrics.keys()
    means = [point.metrics["validation/total"].mean for point in result.points]
    assert result.best == int(np.argmin(means))
    # A trial is what the command gives, and its weights go once they are scored.
    best = best_train_keys(result)
    assert best is not None
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(best))
    alone = run_train(str(tmp_path / "best.yaml"), []).data
    assert alone["losses"][0]["total"] == result.points[result.best].metrics["loss/total"].mean
    assert not list((tmp_path / "sweep").glob("trials/*/checkpoints"))
    swept(config, runs)
    assert len(runs.keys) == 2


def test_a_sweep_on_videos_is_compared_by_what_validates(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"sweep loop.select: expected a loss on the validation split.* got last"):
        swept(videos_sweep(tmp_path, set={"loop.select": "last"}))
    with pytest.raises(UsageError, match=r"sweep evaluate: expected none: .* got cutoffs; leave it out"):
        swept(videos_sweep(tmp_path, evaluate={"cutoffs": [1]}))
    with pytest.raises(UsageError, match=r"trainer.name: expected local for each of many trials, got ray"):
        swept(videos_sweep(tmp_path, set={"trainer": {"name": "ray", "workers": 2}}))
