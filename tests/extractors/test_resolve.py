"""From what a user writes to a recipe: defaults, and one clear line for each mistake."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from clipmill.extractors import registry
from clipmill.extractors.resolve import resolve_recipe
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.errors import EXIT_USAGE, UsageError, WeightsError
from clipmill.schemas.recipe import ClipRule, Recipe, Sampling

REAL = "weights/squeezenet1_0_imagenet_decoded.pt"


def resolve(name: str = "c3d", **written: Any) -> Recipe:
    written.setdefault("weights", {"random": 0})
    return resolve_recipe(name, FeatureConfig.model_validate(written), ClipRule(), DecodeConfig())


def test_defaults() -> None:
    c3d = resolve("c3d")
    assert (c3d.layer, c3d.dim, c3d.dtype) == ("fc6", 4096, "float32")
    assert (c3d.sampling.frames, c3d.sampling.step, c3d.sampling.fps) == (16, 16, None)
    assert (c3d.weights.source, c3d.weights.seed, c3d.weights.card) == ("random(0)", 0, "sports1m-caffe")
    vgg16 = resolve("vgg16")
    assert (vgg16.layer, vgg16.dim, vgg16.sampling.fps, vgg16.sampling.frames) == ("fc7", 4096, 1.0, 1)
    squeezenet = resolve("squeezenet")
    assert (squeezenet.layer, squeezenet.dim, squeezenet.sampling.fps) == ("features", 512, 1.0)


CPNET = Sampling(fps=24, rounding="ffmpeg_r", frames=12, every=2, step=24, tail="overlap")


def test_a_name_of_ones_own() -> None:
    found = resolve("query", extractor="vgg16", sampling={"random_frames": 1}, layer="pool5")
    assert (found.name, found.extractor, found.dim, found.sampling.frames) == ("query", "vgg16", 25088, 1)
    assert found.key.startswith("query-")


@pytest.mark.parametrize(
    ("name", "written", "expected"),
    [
        # What is left out stays the extractor's: the rate and stride that its weights were trained with.
        ("i3d", {"tail": "drop"}, Sampling(fps=25, frames=64, step=64, tail="drop")),
        ("i3d", {"step": 8}, Sampling(fps=25, frames=64, step=8, tail="repeat")),
        ("rc3d", {"tail": "repeat"}, Sampling(fps=25, frames=768, every=8, step=1536, tail="repeat")),
        ("cpnet", {"tail": "repeat"}, CPNET.model_copy(update={"tail": "repeat"})),
        ("vgg16", {"fps": 2}, Sampling(fps=2, frames=1)),
        # A step belongs to its windows.
        ("i3d", {"frames": 32}, Sampling(fps=25, frames=32, tail="repeat")),
        ("cpnet", {"every": 1}, CPNET.model_copy(update={"every": 1, "step": None})),
        ("cpnet", {"frames": 24, "step": 48}, CPNET.model_copy(update={"frames": 24, "step": 48})),
        # Every frame, and no grid. A rule of rounding goes with the rate.
        ("cpnet", {"fps": None}, Sampling(frames=12, every=2, step=24, tail="overlap")),
        ("i3d", {"uniform_windows": 3}, Sampling(fps=25, frames=64, uniform_windows=3, tail="repeat")),
        ("i3d", {"centred": True}, Sampling(fps=25, frames=64, step=1, centred=True, tail="repeat")),
        ("i3d", {"centred": True, "frames": 16}, Sampling(fps=25, frames=16, step=1, centred=True, tail="repeat")),
        ("i3d", {"fps": None}, Sampling(frames=64, step=64, tail="repeat")),
        ("i3d", {"random_frames": 2}, Sampling(frames=64, random_frames=2, tail="repeat")),
        ("vgg16", {"random_frames": 1, "seed": 5}, Sampling(frames=1, random_frames=1, seed=5)),
    ],
)
def test_sampling_that_is_left_out_is_the_extractors(name: str, written: dict[str, Any], expected: Sampling) -> None:
    assert resolve(name, sampling=written).sampling == expected


def test_what_changes_a_number_changes_the_fingerprint() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"layer": "fc7"},
        {"weights": {"random": 1}},
        {"sampling": {"step": 8}},
        {"options": {"pool5": "port"}},
        {"preprocess": {"crop_offset": [8, 30]}},
        {"precision": "bfloat16"},
        {"dtype": "float16"},
        {"pooling": "mean_l2"},
    ]
    assert len({resolve("c3d", **change).fingerprint for change in changes}) == len(changes)
    assert resolve("c3d", options={"pool5": "caffe"}).fingerprint == resolve("c3d").fingerprint


def test_a_real_file_is_recognised(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / REAL
    found = resolve("squeezenet", weights={"file": str(path)}, layer="logits")
    weights = found.weights
    assert weights.sha256 == "2a5bc28f584eedf223a0e662d7391f4b88e51b569d00395f3387956e44b97802"
    assert (weights.source, weights.layout, weights.card) == ("file", "squeezenet1_0", "imagenet-caffe")
    assert found.dim == 1000
    copied = tmp_path / "elsewhere.pt"
    copied.write_bytes(path.read_bytes())
    elsewhere = resolve("squeezenet", weights={"file": str(copied)}, layer="logits")
    assert elsewhere.fingerprint == found.fingerprint, "where a file lies changes no number"


def test_a_digest_tells_files_of_one_layout_apart(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision's SqueezeNet has the keys of Caffe's, and another preprocessing."""
    card = registry.card("squeezenet").weights[1]
    assert (card.name, card.files[0].sha256) == ("imagenet-torchvision", "b66bff10")
    monkeypatch.setattr("clipmill.extractors.resolve.digest", lambda path: "b66bff10" + 56 * "0")
    written = {"file": str(shared_data / REAL)}
    assert resolve("squeezenet", weights=written).weights.card == "imagenet-torchvision"
    assert resolve("squeezenet", weights=written | {"card": "imagenet-caffe"}).weights.card == "imagenet-caffe"
    monkeypatch.undo()
    assert resolve("squeezenet", weights=written).weights.card == "imagenet-caffe"


def test_the_path_of_the_weights_does_not_depend_on_where_a_worker_runs(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shared_data)
    found = resolve("squeezenet", weights={"file": REAL})
    assert found.weights.file is not None
    assert Path(found.weights.file).resolve() == (shared_data / REAL).resolve()


def test_a_file_that_changed_since_planning_is_refused(shared_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes((shared_data / REAL).read_bytes())
    recipe = resolve("squeezenet", weights={"file": str(path)})
    state = torch.load(path, weights_only=True)
    torch.save({key: value + 1 for key, value in state.items()}, path)
    with pytest.raises(WeightsError, match="expected SHA-256 2a5bc28f584e"):
        registry.build(recipe, "cpu")


MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("c3dd", {}, "extractor c3dd: expected a registered name, got an unknown one; did you mean 'c3d'"),
    (
        "mine",
        {"extractor": "vgg"},
        "extractor vgg: expected a registered name, got an unknown one; did you mean 'vgg16'?",
    ),
    ("c3d", {"layer": "fc5"}, "features.c3d.layer: expected one of fc6, fc7, pool5, logits, probabilities, fc6_before"),
    ("c3d", {"options": {"pool": "caffe"}}, "features.c3d.options pool: unknown key; did you mean 'pool5'?"),
    (
        "c3d",
        {"options": {"pool5": "cafe"}},
        "features.c3d.options pool5: Input should be 'caffe' or 'port'; got 'cafe'",
    ),
    ("vgg16", {"options": {"pool5": "caffe"}}, "features.vgg16.options pool5: unknown key"),
    (
        "c3d",
        {"sampling": {"frames": 32}},
        "features.c3d.sampling frames: expected 16 (c3d takes no other), got 32; leave it out",
    ),
    ("vgg16", {"sampling": {"frames": 2}}, "features.vgg16.sampling frames: expected 1 (vgg16 takes no other), got 2"),
    (
        "i3d",
        {"sampling": {"frames": 8}},
        "features.i3d.sampling frames: expected at least 9 for i3d, got 8; raise it",
    ),
    (
        "c3d",
        {"weights": None},
        "features.c3d weights: expected {file: PATH} or {random: SEED}, got none; write weights",
    ),
    (
        "c3d",
        {"weights": {"file": "nothing.pth"}},
        "nothing.pth: expected a readable file, got No such file or directory",
    ),
    (
        "c3d",
        {"weights": {"random": 0, "card": "imagenet"}},
        "features.c3d.weights.card: expected one of sports1m-caffe, ucf101-jfzhang95, mmaction2, got imagenet",
    ),
    ("c3d", {"preprocess": {"meen": [1]}}, "features.c3d.preprocess meen: unknown key; did you mean 'mean'"),
    (
        "c3d",
        {"preprocess": {"mean": [1, 2]}},
        "features.c3d.preprocess mean: expected 3 numbers for colour bgr, or none",
    ),
    ("c3d", {"preprocess": {"std": [1, 0, 1]}}, "features.c3d.preprocess std: expected numbers other than zero, got 0"),
    ("c3d", {"preprocess": {"crop": [100, 100]}}, "expected 112 x 112 (fc6 takes no other), got 100 x 100"),
    ("c3d", {"preprocess": {"crop": None}}, "expected 112 x 112 (fc6 takes no other), got 128 x 171"),
    (
        "c3d",
        {"preprocess": {"colour": "grey", "mean": [1]}},
        "features.c3d.preprocess colour: expected rgb or bgr, got grey",
    ),
    ("c3d", {"preprocess": {"mean_cube": "ab"}}, "features.c3d.preprocess mean_cube: expected no value here, got 'ab'"),
    (
        "squeezenet",
        {"preprocess": {"crop": [8, 8]}},
        "features.squeezenet.preprocess crop: expected at least 21 x 21 for layer features, got 8 x 8; enlarge it",
    ),
    ("vgg16", {"preprocess": {"crop": [16, 16]}}, "at least 32 x 32 for layer fc7, got 16 x 16"),
    ("rc3d", {"preprocess": {"crop": [10, 10]}}, "at least 16 x 16 for layer fc6, got 10 x 10"),
    ("rmac", {"preprocess": {"size": [20]}}, "at least 32 x 32 for layer descriptor, got long_side 20"),
    ("tracks", {"weights": None, "precision": "bfloat16"}, "features.tracks precision: expected float32"),
    ("c3d", {"dtype": "uint8"}, "features.c3d dtype: expected float32 for layer fc6, got uint8"),
    ("c3d", {"options": {"mean_cube": "nothing"}}, "nothing: expected a readable file, got No such file or directory"),
]


@pytest.mark.parametrize(("name", "written", "message"), MISTAKES, ids=[item[2][:50] for item in MISTAKES])
def test_a_mistake_meets_one_clear_line(name: str, written: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        resolve(name, **written)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == EXIT_USAGE


def test_without_weights_the_way_out_is_told() -> None:
    with pytest.raises(UsageError, match=re.escape("write weights: {random: 0}")):
        resolve("c3d", weights=None)


def test_another_extractors_file(shared_data: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        resolve("vgg16", weights={"file": str(shared_data / REAL)})
    line = str(caught.value)
    assert "\n" not in line
    assert "expected one of the layouts vgg16_torchvision_imagenet1k, vgg16_caffe" in line
    assert re.search(r"nearest to \w+ with \d+ missing: .*; \d+ unexpected: .*; give the file of this extractor$", line)


def test_a_layer_the_file_does_not_hold(tmp_path: Path) -> None:
    layout = next(item for item in registry.registration("c3d").layouts() if "sports1m_mmaction2" in item.name)  # type: ignore[misc]
    state = {key: torch.zeros(1).expand([*shape]) for key, (_, shape) in layout.keys.items()}
    torch.save(state, tmp_path / "c3d.pth")
    message = (
        "features.c3d layer: expected one of fc6, fc7, pool5, fc6_before_relu, fc7_before_relu: "
        "a c3d_sports1m_mmaction2 file has no other, got logits"
    )
    with pytest.raises(WeightsError, match=re.escape(message)):
        resolve("c3d", weights={"file": str(tmp_path / "c3d.pth")}, layer="logits")
    assert resolve("c3d", weights={"file": str(tmp_path / "c3d.pth")}, layer="fc7").weights.card == "mmaction2"


def test_new_options_at_their_defaults_leave_fingerprints_alone() -> None:
    # Of a recipe written before sampling and pixels had these keys.
    assert resolve("vgg16").fingerprint == "12c58509b041db4052b09fe7b2474de1"
    assert resolve("i3d").fingerprint == "c051a8bbe273f14a8e75714120952979"
    assert resolve("vgg16", sampling={"rounding": "display", "fps": 1}).fingerprint == resolve("vgg16").fingerprint


@pytest.mark.parametrize(
    ("name", "written", "message"),
    [
        ("vgg16", {"sampling": {"rounding": "nearest", "fps": None}}, "sampling rounding: expected an fps to round"),
        ("i3d", {"options": {"steps": True}, "sampling": {"tail": "loop"}}, "tail: expected a plain grid of windows"),
        ("i3d", {"options": {"steps": True}, "sampling": {"first_frame": 3}}, "first_frame: expected a plain grid"),
        ("i3d", {"options": {"steps": True}, "preprocess": {"crops": "ten"}}, "crops: expected none for i3d as its"),
        (
            "i3d",
            {"options": {"stream": "flow"}, "preprocess": {"resize_precision": "float32"}},
            "expected none for i3d",
        ),
        ("rc3d", {"preprocess": {"crops": "ten", "crop_offset": None}}, "crops: expected none for rc3d"),
        ("tracks", {"weights": None, "preprocess": {"resize_precision": "float32"}}, "expected none for tracks"),
        ("vgg16", {"preprocess": {"resize_precision": "float32"}}, "expected an interpolation of OpenCV"),
        ("vgg16", {"preprocess": {"interpolation": "lanczos"}}, "'pillow_lanczos'"),
        ("vgg16", {"preprocess": {"crops": "ten", "crop": None}}, "expected the size of a crop"),
    ],
)
def test_sampling_and_pixels_refuse(name: str, written: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(name, **written)


def test_another_resize_does_not_round_as_the_cards() -> None:
    card = resolve("cpnet").preprocess
    assert (card.stored_side, card.resize_rounding) == (128, "even")
    other = resolve("cpnet", preprocess={"resize": "exact", "size": [112, 112]}).preprocess
    assert (other.stored_side, other.resize_rounding) == (None, None)
