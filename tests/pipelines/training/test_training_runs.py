"""A run's folder: what is written, going on after a stop, and what it refuses."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from clipmill.models.checkpoints import checkpoint_path, checkpoints, find_checkpoint, load
from clipmill.pipelines.datasets.items import Items
from clipmill.pipelines.training.train import resolve, resolve_device, train, train_items
from clipmill.pipelines.training.worker import EpochDone
from clipmill.schemas.config import TrainConfig
from clipmill.schemas.errors import ClipmillError, ConfigError, StorageUnavailableError, UsageError
from clipmill.schemas.model import validate
from clipmill.stores import Store
from tests.pipelines.conftest import WriteFeature, rows_of, stored_video
from tests.pipelines.training.conftest import MakeConfig, MakePairs, with_values


def training_state(out: str | Path) -> dict[str, Any]:
    """Weights and optimiser state of the newest checkpoint, flat."""
    trained = load(find_checkpoint(out))
    flat = dict(trained.model.state_dict())
    for number, state in trained.training["optimiser"]["state"].items():
        flat |= {f"optimiser {number} {name}": value for name, value in state.items()}
    return flat


def assert_same_bits(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def test_a_run_leaves_its_documented_files(make_pairs: MakePairs, make_config: MakeConfig) -> None:
    config, pairs, seen = make_config(epochs=5, checkpoint_every_epochs=2, keep_checkpoints=9), make_pairs(), []
    report = train_items(config, pairs, [seen.append])
    out = Path(config.out)
    assert sorted(path.name for path in out.iterdir()) == ["checkpoints", "config.yaml", "metrics.jsonl", "report.json"]
    assert [path.name for path in checkpoints(out).values()] == ["epoch-0002.pt", "epoch-0004.pt", "epoch-0005.pt"]
    assert validate(TrainConfig, yaml.safe_load((out / "config.yaml").read_text()), "saved") == resolve(config)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    assert tuple(line["losses"] for line in lines) == report.losses
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(report.to_plain()))
    assert (report.epoch, report.start_epoch, report.num_train, report.num_test) == (5, 0, 28, 12)
    assert [(done.epoch, done.num_epochs, done.num_items) for done in seen] == [(n, 5, 28) for n in range(1, 6)]
    assert [done.losses for done in seen] == list(report.losses)


def test_a_checkpoint_says_what_it_was_trained_on(make_pairs: MakePairs, make_config: MakeConfig) -> None:
    config, pairs = make_config(epochs=1), make_pairs()
    trained = load(Path(train_items(config, pairs).checkpoint))
    assert trained.origin.test_clip_ids == pairs.test_clip_ids
    assert trained.origin.label_names == pairs.label_names
    assert trained.origin.inputs == pairs.sources
    assert trained.origin.config == resolve(config).model_dump(mode="json", by_alias=True)
    # Options are stored with their defaults filled in: a later default does not change an old model.
    assert trained.options["lambda_v"] == 0.5
    training = pairs.of("train").inputs["video"].values
    assert trained.scalings["video"].span == pytest.approx(float(training.max() - training.min()))


def test_only_the_newest_checkpoints_are_kept(make_pairs: MakePairs, make_config: MakeConfig) -> None:
    config = make_config(epochs=7, checkpoint_every_epochs=1, keep_checkpoints=3)
    train_items(config, make_pairs())
    assert list(checkpoints(config.out)) == [5, 6, 7]


@pytest.mark.parametrize("stop_at", [1, 3, 6])
def test_a_resumed_run_ends_with_the_same_bits(make_pairs: MakePairs, make_config: MakeConfig, stop_at: int) -> None:
    pairs = make_pairs()
    whole = train_items(make_config("whole", epochs=7), pairs)
    train_items(make_config("parts", epochs=stop_at), pairs)
    torch.rand(3)  # What else the process draws is no part of a run.
    resumed = train_items(make_config("parts", epochs=7), pairs)
    assert resumed.start_epoch == stop_at
    assert resumed.losses == whole.losses
    assert_same_bits(training_state(resumed.out), training_state(whole.out))


def test_epochs_after_the_last_checkpoint_are_trained_again(make_pairs: MakePairs, make_config: MakeConfig) -> None:
    pairs, config = make_pairs(), make_config("killed", epochs=6, checkpoint_every_epochs=2, keep_checkpoints=9)
    whole = train_items(make_config("whole", epochs=6), pairs)
    train_items(config, pairs)
    # As if killed in epoch 6: its checkpoint was not finished, its line half written.
    checkpoint_path(config.out, 6).rename(checkpoint_path(config.out, 6).with_name(".epoch-0006.pt.77"))
    metrics = Path(config.out) / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-20])
    resumed = train_items(config, pairs)
    assert resumed.start_epoch == 4
    assert resumed.losses == whole.losses
    assert_same_bits(training_state(resumed.out), training_state(whole.out))
    assert not list((Path(config.out) / "checkpoints").glob(".*"))


def test_a_finished_run_trains_nothing_again(make_pairs: MakePairs, make_config: MakeConfig) -> None:
    pairs, config, seen = make_pairs(), make_config(), []
    first = train_items(config, pairs)
    written = find_checkpoint(config.out).stat().st_mtime_ns
    second = train_items(config, pairs, [seen.append])
    assert (seen, second.start_epoch, second.losses) == ([], 4, first.losses)
    assert find_checkpoint(config.out).stat().st_mtime_ns == written


def test_resume_false_starts_again(make_pairs: MakePairs, make_config: MakeConfig) -> None:
    pairs = make_pairs()
    first = train_items(make_config(epochs=6), pairs)
    second = train_items(make_config(epochs=3, resume=False), pairs)
    assert second.losses == first.losses[:3]
    assert list(checkpoints(second.out)) == [3]


class _StopAt:
    def __init__(self, epoch: int, times: int = 1) -> None:
        self.epoch, self.times = epoch, times

    def __call__(self, done: EpochDone) -> None:
        if done.epoch == self.epoch:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


def test_ctrl_c_keeps_the_epoch_in_progress_and_the_run_goes_on(make_pairs: MakePairs, make_config: MakeConfig) -> None:
    pairs, config, before = make_pairs(), make_config("stopped", epochs=8), signal.getsignal(signal.SIGINT)
    whole = train_items(make_config("whole", epochs=8), pairs)
    with pytest.raises(
        KeyboardInterrupt, match="stopped after epoch 4 of 8, which is kept; run the same command again"
    ):
        train_items(config, pairs, [_StopAt(3)])
    assert signal.getsignal(signal.SIGINT) is before
    assert list(checkpoints(config.out)) == [4]
    assert json.loads((Path(config.out) / "report.json").read_text())["epoch"] == 4
    resumed = train_items(config, pairs)
    assert resumed.start_epoch == 4
    assert_same_bits(training_state(resumed.out), training_state(whole.out))


def test_a_second_ctrl_c_abandons_the_epoch_and_the_last_checkpoint_stands(
    make_pairs: MakePairs, make_config: MakeConfig
) -> None:
    pairs, config = make_pairs(), make_config(epochs=8, checkpoint_every_epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train_items(config, pairs, [_StopAt(5, times=2)])
    assert list(checkpoints(config.out)) == [2, 4]
    assert train_items(config, pairs).start_epoch == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 2e-3}, r"another loop.learning_rate \(0.001 there, 0.002 now\)"),
        ({"options": {"lambda_v": 0.25}}, r"model.options.lambda_v \(0.5 there, 0.25 now\)"),
        ({"batch": 7, "seed": 3}, r"loop.batch \(9 there, 7 now\), loop.seed \(0 there, 3 now\)"),
    ],
)
def test_another_config_is_refused_with_what_differs(
    make_pairs: MakePairs, make_config: MakeConfig, changes: dict[str, Any], message: str
) -> None:
    pairs = make_pairs()
    train_items(make_config(), pairs)
    before = training_state(make_config().out)
    with pytest.raises(UsageError, match=message + r".*; give another out folder, or resume: false"):
        train_items(make_config(epochs=9, **changes), pairs)
    assert_same_bits(training_state(make_config().out), before)


def test_other_features_are_refused_with_what_differs(make_pairs: MakePairs, make_config: MakeConfig) -> None:
    pairs = make_pairs()
    train_items(make_config(), pairs)
    rebuilt = replace(
        pairs, sources={**pairs.sources, "video": replace(pairs.sources["video"], recipe_fingerprint="9" * 32)}
    )
    with pytest.raises(UsageError, match=r"another video feature \(clip-22222222 there, clip-99999999 now\);"):
        train_items(make_config(), rebuilt)
    with pytest.raises(UsageError, match=r"number of clips \(40 there, 30 now\)"):
        train_items(make_config(), pairs.take(np.arange(30)))
    with pytest.raises(UsageError, match=r"got another values of the features"):
        train_items(make_config(), with_values(pairs, image=pairs.inputs["image"].values + np.float32(1)))


def test_what_decides_nothing_may_change(make_pairs: MakePairs, make_config: MakeConfig) -> None:
    pairs = make_pairs()
    train_items(make_config(), pairs)
    moved = make_config(epochs=5, checkpoint_every_epochs=1, keep_checkpoints=5)
    data = moved.model_dump(mode="json", by_alias=True)
    data["data"]["store"] = "elsewhere"
    assert train_items(validate(TrainConfig, data, "test"), pairs).start_epoch == 4


def test_fewer_epochs_than_the_run_has_are_refused(make_pairs: MakePairs, make_config: MakeConfig) -> None:
    pairs = make_pairs()
    train_items(make_config(epochs=4), pairs)
    with pytest.raises(UsageError, match="loop.epochs 2: expected at least the 4 epochs that run"):
        train_items(make_config(epochs=2), pairs)


def test_losses_that_are_not_finite_end_the_run_before_a_checkpoint(
    make_pairs: MakePairs, make_config: MakeConfig
) -> None:
    pairs, config = make_pairs(), make_config(options={"scaling": "none"}, checkpoint_every_epochs=1)
    broken = with_values(pairs, video=np.full_like(pairs.inputs["video"].values, np.inf))
    with pytest.raises(UsageError, match=r"loss .*: expected a finite number, got (nan|inf) in epoch 1; lower"):
        train_items(config, broken)
    assert not checkpoints(config.out)


def test_a_folder_that_cannot_be_written_is_retryable(make_pairs: MakePairs, make_config: MakeConfig) -> None:
    config = make_config()
    Path(config.out).write_text("a file where the folder should be")
    with pytest.raises(StorageUnavailableError, match="run .*: expected a folder that can be written") as caught:
        train_items(config, make_pairs())
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_here_is_refused(device: str) -> None:
    with pytest.raises(UsageError, match=f"loop.device {device}: expected auto, cpu or a GPU here"):
        resolve_device(device)


def test_an_unknown_option_is_refused_before_anything_is_written(
    make_pairs: MakePairs, make_config: MakeConfig
) -> None:
    config = make_config(options={"lamda_v": 0.5})
    with pytest.raises(ConfigError, match="did you mean 'lambda_v'"):
        train_items(config, make_pairs())
    assert not Path(config.out).exists()


def test_from_a_store_to_a_checkpoint(
    store: Store, write_feature: WriteFeature, make_config: MakeConfig, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    videos = [stored_video(f"{label}/{i}.mp4", label) for label in ("a", "b") for i in range(4)]
    write_feature("frame", {video: rows_of(random.random((1, 6))) for video in videos})
    write_feature("clip", {video: rows_of(random.random((3, 10))) for video in videos})
    data = make_config(batch=6).model_dump(mode="json", by_alias=True)
    data["data"] = {"store": store.url, "image": "frame", "video": "clip", "split": {"test_fraction": 0.25}}
    report = train(validate(TrainConfig, data, "test"))
    trained = load(Path(report.checkpoint))
    assert (report.num_train, report.num_test, *trained.sizes.dims.values()) == (6, 2, 6, 10)
    assert trained.origin.store_url == store.url


def test_domain_errors_are_one_line(make_pairs: MakePairs, make_config: MakeConfig) -> None:
    train_items(make_config(), make_pairs())
    with pytest.raises(ClipmillError) as caught:
        train_items(make_config(batch=1, seed=1, learning_rate=1.0, options={"orth": "squared_cosine"}), make_pairs())
    assert "\n" not in str(caught.value)


def with_validation(pairs: Items) -> Items:
    """The same pairs, of which every fourth that is trained on validates."""
    part = np.where((pairs.part == "train") & (np.arange(len(pairs)) % 4 == 0), "validation", pairs.part)
    return replace(pairs, part=part)


EARLY: dict[str, Any] = {"select": "total", "patience": 2, "learning_rate": 0.05, "epochs": 40, "keep_checkpoints": 1}


def test_early_stopping_waits_for_its_patience_and_keeps_the_best_epoch(
    make_pairs: MakePairs, make_config: MakeConfig
) -> None:
    pairs = with_validation(make_pairs())
    report = train_items(make_config(**EARLY), pairs)
    lines = [json.loads(line) for line in (Path(report.out) / "metrics.jsonl").read_text().splitlines()]
    values = [line["validation"]["total"] for line in lines]
    # The first epoch after which two went by without a smaller loss.
    ends = [n for n in range(1, 41) if n - 1 - int(np.argmin(values[:n])) >= 2]
    assert report.stopped_early
    assert report.notes == ("stopped early: 2 epochs without a smaller total in validation",)
    assert report.epoch == len(lines) == ends[0] < 40
    assert report.selected_epoch == 1 + int(np.argmin(values)) == report.epoch - 2
    assert load(find_checkpoint(report.out)).epoch == report.selected_epoch
    # The same command has nothing to do; more patience goes on from where it stopped.
    again = train_items(make_config(**EARLY), pairs)
    assert (again.start_epoch, again.epoch, again.stopped_early) == (report.epoch, report.epoch, True)
    more = train_items(make_config(**EARLY | {"patience": 4}), pairs)
    assert more.start_epoch == report.epoch < more.epoch
    assert more.losses[: report.epoch] == report.losses


def test_a_selection_that_was_not_written_is_written_when_the_run_is_asked_for_again(
    make_pairs: MakePairs, make_config: MakeConfig
) -> None:
    pairs = with_validation(make_pairs())
    report = train_items(make_config(**EARLY), pairs)
    # As if killed between the last checkpoint and what follows it.
    (Path(report.out) / "checkpoints" / "selected.json").unlink()
    train_items(make_config(**EARLY), pairs)
    assert load(find_checkpoint(report.out)).epoch == report.selected_epoch


def test_a_batch_larger_than_the_data_is_refused_unless_it_is_the_publications(
    make_pairs: MakePairs, make_config: MakeConfig
) -> None:
    pairs = make_pairs()
    with pytest.raises(UsageError, match=r"loop batch: expected at most the 28 clips there are to train on, got 29; "):
        train_items(make_config("larger", batch=29), pairs)
    assert not (Path(make_config("larger").out)).exists()
    assert train_items(make_config("equal", batch=28, epochs=1), pairs).notes == ()
    published = make_config("published", epochs=1).model_dump(mode="json", by_alias=True)
    del published["loop"]["batch"]
    report = train_items(validate(TrainConfig, published, "test"), pairs)
    assert report.notes == ("all 28 clips were one batch: there are fewer than the 70 of map_ivr",)


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        ({"patience": 3}, "patience waits for a smaller loss on the validation split: set select"),
        ({"schedule": "cosine", "milestones": [3]}, "schedule cosine has no milestones"),
        ({"precision": "float8"}, "loop.precision: Input should be 'float32', 'bfloat16' or 'float16'"),
    ],
)
def test_keys_of_the_loop_that_do_not_fit_are_refused(
    make_config: MakeConfig, loop: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(**loop)


def test_another_number_of_epochs_is_refused_where_it_moves_what_is_done(
    make_pairs: MakePairs, make_config: MakeConfig
) -> None:
    pairs = make_pairs()
    train_items(make_config("cosine", epochs=4, schedule="cosine"), pairs)
    with pytest.raises(UsageError, match="the 4 that the run began with, over which the cosine is laid"):
        train_items(make_config("cosine", epochs=6, schedule="cosine"), pairs)
    sizes = {"layer_dims": [8, 8], "correlated_dim": 8, "category_dims": [8], "common_dim": 8}
    with_phases = make_config("phases", epochs=8).model_dump(mode="json", by_alias=True)
    with_phases["model"] = {"name": "ccl", "options": sizes}
    train_items(validate(TrainConfig, with_phases, "test"), pairs)
    with_phases["loop"]["epochs"] = 16
    with pytest.raises(UsageError, match="the 8 that the run began with, over which the phases of ccl are laid"):
        train_items(validate(TrainConfig, with_phases, "test"), pairs)


def test_event_files_hold_what_metrics_do_after_a_stop_too(make_pairs: MakePairs, make_config: MakeConfig) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pairs = with_validation(make_pairs())
    given: dict[str, Any] = {"epochs": 6, "checkpoint_every_epochs": 3, "select": "total", "milestones": [2]}
    data = make_config("run", **given).model_dump(mode="json", by_alias=True) | {"tensorboard": True}
    config = validate(TrainConfig, data, "test")
    with pytest.raises(KeyboardInterrupt):
        train_items(config, pairs, [_StopAt(4, times=2)])
    report = train_items(config, pairs)
    lines = [json.loads(line) for line in (Path(report.out) / "metrics.jsonl").read_text().splitlines()]
    events = accumulators.EventAccumulator(str(Path(report.out) / "tensorboard")).Reload()
    names = {f"loss/{name}" for name in lines[0]["losses"]} | {f"validation/{name}" for name in lines[0]["validation"]}
    assert set(events.Tags()["scalars"]) == names | {"learning_rate", "seconds"}
    for name in names:
        kind, _, loss = name.partition("/")
        key = "losses" if kind == "loss" else "validation"
        found = {event.step: event.value for event in events.Scalars(name)}
        assert found == {line["epoch"]: pytest.approx(line[key][loss], rel=1e-6) for line in lines}
    rates = [event.value for event in events.Scalars("learning_rate")]
    assert rates == pytest.approx([1e-3] * 2 + [1e-4] * 4)
    # Starting again leaves none of the old ones.
    train_items(validate(TrainConfig, data | {"resume": False}, "test"), pairs)
    assert len(list((Path(report.out) / "tensorboard").iterdir())) == 1


def test_tensorboard_that_is_not_installed_is_told_before_training(
    make_pairs: MakePairs, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = make_config().model_copy(update={"tensorboard": True})
    with pytest.raises(UsageError, match=r"the package tensorboard, got none; pip install \"clipmill\[tensorboard\]\""):
        train_items(config, make_pairs())
    assert not Path(config.out).exists()
