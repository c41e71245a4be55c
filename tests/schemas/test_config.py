"""Config files: what is valid, and one clear line for what is not."""

from pathlib import Path
from typing import Any

import pytest

from clipmill.schemas.config import BuildConfig, TrainConfig, TrainerConfig, dump_config, parse_config
from clipmill.schemas.config_retrieval import RetrievalConfig
from clipmill.schemas.errors import EXIT_USAGE, ConfigError, RenamedKeyWarning
from clipmill.schemas.model import validate

CONTRACT = """
store:    {url: out/topics70, format: zarr}
videos:   {folder: clips/topics70, label: parent_folder}
clips:    {from: whole}
features:
  vgg16:  {layer: fc7, sampling: {fps: 1}, weights: {random: 0}}
  c3d:    {layer: fc6, sampling: {frames: 16, step: 8}, weights: {file: c3d.pth}}
engine:   {name: local}
"""

MINIMAL = "store: {url: s}\nvideos: {folder: v}\nfeatures: {c3d: {}}\n"


def test_the_file_of_the_contract_is_valid() -> None:
    config = parse_config(BuildConfig, CONTRACT)
    assert config.features["c3d"].weights is not None
    assert config.features["c3d"].weights.file == "c3d.pth"
    assert config.clips.from_ == "whole"


def test_what_is_printed_can_be_read_again() -> None:
    config = parse_config(BuildConfig, CONTRACT + "decode: {decoder: pyav}\n")
    text = dump_config(config)
    assert "from: whole" in text
    assert parse_config(BuildConfig, text) == config


def test_a_name_in_another_script_is_printed_readably() -> None:
    config = parse_config(BuildConfig, "store: {url: s}\nvideos: {folder: видео}\nfeatures: {c3d: {}}\n")
    assert "видео" in dump_config(config)


def test_a_saved_config_says_of_sampling_what_was_written() -> None:
    text = "store: {url: out}\nvideos: {folder: in}\nfeatures: {i3d: {sampling: {fps: null, step: 8}}, c3d: {}}\n"
    saved = dump_config(parse_config(BuildConfig, text))
    again = parse_config(BuildConfig, saved).features
    assert again["i3d"].sampling is not None
    assert again["i3d"].sampling.model_fields_set == {"fps", "step"}
    assert again["c3d"].sampling is None
    assert dump_config(parse_config(BuildConfig, saved)) == saved


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("engine.name=ray", ("engine", "name"), "ray"),
        ("engine.max_attempts=3", ("engine", "max_attempts"), 3),
        ("store.url=a=b", ("store", "url"), "a=b"),
        ("decode.memory_gib=1.5", ("decode", "memory_gib"), 1.5),
        ("videos={manifest: m.csv}", ("videos", "manifest"), "m.csv"),
        ("store.dataset=", ("store", "dataset"), None),
    ],
)
def test_set_overrides_one_key(override: str, path: tuple[str, str], value: Any) -> None:
    config = parse_config(BuildConfig, MINIMAL, [override])
    assert getattr(getattr(config, path[0]), path[1]) == value


def test_set_reaches_into_a_feature_and_the_last_one_wins() -> None:
    overrides = ["features.c3d.sampling.step=4", "features.c3d.weights={random: 7}", "features.c3d.sampling.step=5"]
    feature = parse_config(BuildConfig, MINIMAL, overrides).features["c3d"]
    assert feature.sampling is not None
    assert feature.sampling.step == 5
    assert feature.weights is not None
    assert feature.weights.random == 7


BAD_BUILD = [
    ("engin: {}", [], "build.yaml engin: unknown key; did you mean 'engine'?"),
    ("engine: {nam: ray}", [], "build.yaml engine.nam: unknown key; did you mean 'name'"),
    ("zzz: 1", [], "build.yaml zzz: unknown key; known: annotations, clips, decode, engine, features, store, videos"),
    ("features: {c3d: {sampling: {stepp: 8}}}", [], "features.c3d.sampling.stepp: unknown key; did you mean 'step'?"),
    ("features: {c3d: {weight: {random: 0}}}", [], "features.c3d.weight: unknown key; did you mean 'weights'?"),
    ("clips: {form: whole}", [], "clips.form: unknown key; did you mean 'from'?"),
    ("store: s", [], "build.yaml store: expected keys, as url, format, "),
    ("features: {c3d: 3}", [], "build.yaml features.c3d: expected keys, as preset, extractor, layer, "),
    ("features: {}", [], "features: Dictionary should have at least 1 item"),
    ("engine: {max_attempts: many}", [], "engine.max_attempts: Input should be a valid integer"),
    ("engine: {max_attempts: 0}", [], "engine.max_attempts: Input should be greater than or equal to 1; got 0"),
    ("videos: {folder: v, manifest: m.csv}", [], "videos: expected exactly one of folder and manifest"),
    ("videos: {}", [], "videos: expected exactly one of folder and manifest"),
    ("videos: {manifest: m.csv, label: parent_folder}", [], "videos: label: parent_folder belongs to folder"),
    ("features: {c3d: {weights: {}}}", [], "weights: expected exactly one of random and file"),
    ("clips: {from: windows}", [], "clips: clips from windows: expected length_seconds, got none"),
    ("decode: {memory_gib: .inf}", [], "decode.memory_gib: Input should be a finite number"),
    ("store: [1", [], "build.yaml line 3: expected YAML"),
    ("", ["engine.name"], "--set engine.name: expected a.b=value, got no '='"),
    ("", ["=ray"], "--set =ray: expected a.b=value"),
    ("features: {c3d: {}, c3d: {}}", [], "build.yaml line 3: expected YAML, got the key 'c3d' twice"),
    ("", ["store.url.x=1"], "--set store.url.x=1: expected a mapping at 'url', got 's'"),
    ("", ["engine.name=[1"], "--set engine.name=[1: expected a YAML value"),
    ("", ["engine.nme=ray"], "engine.nme: unknown key; did you mean 'name'?"),
]


@pytest.mark.parametrize(("extra", "overrides", "message"), BAD_BUILD, ids=[f"{e}{o}" for e, o, _ in BAD_BUILD])
def test_a_bad_build_file_meets_its_line(extra: str, overrides: list[str], message: str) -> None:
    kept = [line for line in MINIMAL.splitlines() if not extra or line.split(":")[0] != extra.split(":")[0]]
    with pytest.raises(ConfigError) as raised:
        parse_config(BuildConfig, "\n".join([*kept, extra]), overrides, "build.yaml")
    assert message in str(raised.value)
    assert "Traceback" not in str(raised.value)
    assert raised.value.exit_code == EXIT_USAGE


def test_every_problem_of_a_file_is_listed_once() -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(BuildConfig, "videos: {folder: v}\nfeatures: {c3d: {laier: fc6}}\n", (), "b.yaml")
    assert str(raised.value).splitlines() == [
        "b.yaml store: expected a value, got none; add the key",
        "b.yaml features.c3d.laier: unknown key; did you mean 'layer'?",
    ]


@pytest.mark.parametrize(("text", "kind"), [("- a\n- b\n", "list"), ("just words", "str"), ("7", "int")])
def test_a_file_that_is_no_mapping_is_refused(text: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"expected a mapping of keys, got {kind}"):
        parse_config(BuildConfig, text)


def test_an_empty_file_names_the_missing_keys() -> None:
    with pytest.raises(ConfigError, match="store: expected a value, got none") as raised:
        parse_config(BuildConfig, "")
    assert len(str(raised.value).splitlines()) == 3


def test_a_long_wrong_value_is_shortened() -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(BuildConfig, MINIMAL, [f"engine.max_attempts={'x' * 500}"])
    assert len(str(raised.value)) < 250


def test_yaml_that_would_make_objects_is_refused() -> None:
    with pytest.raises(ConfigError, match="line 1: expected YAML"):
        parse_config(BuildConfig, "store: !!python/object/apply:os.getcwd []\n")


def test_train_and_evaluate_files() -> None:
    train = parse_config(
        TrainConfig,
        "data: {store: s, image: vgg16, video: c3d, split: {from: manifest}}\nmodel: {name: map_ivr}\nout: run\n",
    )
    assert train.data.split.from_ == "manifest"
    assert parse_config(TrainConfig, dump_config(train)) == train
    with pytest.raises(ConfigError, match="keeps everything for the test"):
        parse_config(TrainConfig, dump_config(train), ["data.split.from=none"])
    evaluate = parse_config(RetrievalConfig, "run: run\ncutoffs: [5, 1]\n")
    assert (evaluate.cutoffs, evaluate.out) == ((1, 5), "run/evaluation")
    assert parse_config(RetrievalConfig, dump_config(evaluate)) == evaluate
    with pytest.warns(RenamedKeyWarning, match="'at' is now 'cutoffs'"):
        assert parse_config(RetrievalConfig, "run: run\nat: [1, 5]\n") == evaluate
    with pytest.raises(ConfigError, match="expected run .* or data"):
        parse_config(RetrievalConfig, "cutoffs: [10]")
    with pytest.raises(ConfigError, match="cutoffs: expected cut-offs from 1 up"):
        parse_config(RetrievalConfig, "{run: run, cutoffs: [0, 10]}")
    with pytest.raises(ConfigError, match=r"data.split.test_fraction: Input should be less than 1"):
        parse_config(TrainConfig, dump_config(train), ["data.split.test_fraction=1"])


def test_a_folder_may_be_any_text(tmp_path: Path) -> None:
    text = f"store: {{url: '{tmp_path}/a b/ж'}}\nvideos: {{folder: '{tmp_path}/x=y'}}\nfeatures: {{c3d: {{}}}}\n"
    config = parse_config(BuildConfig, text)
    assert config.store.url.endswith("a b/ж")


@pytest.mark.parametrize(
    ("trainer", "key"),
    [({"workers": 4}, "workers"), ({"name": "local", "address": "auto"}, "address"), ({"max_failures": 1}, "max_fail")],
)
def test_keys_of_ray_are_refused_for_the_local_trainer(trainer: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}[a-z]* belongs to trainer ray"):
        validate(TrainerConfig, trainer, "trainer")
    assert validate(TrainerConfig, {"name": "ray", "workers": 4}, "trainer").workers == 4
