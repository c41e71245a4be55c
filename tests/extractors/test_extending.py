"""An extractor from outside the project: the example of docs/extending.md, installed and run as a user would."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from clipmill.stores import FeatureStore
from tests.command_line import invoke
from tests.encoded_videos import encode_video

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "extending"


def install(folder: Path, module: str, entry_points: str) -> Path:
    """Lays out what pip would install: the module and the metadata that names its entry points."""
    (folder / "colour_histogram.py").write_text(module)
    metadata = folder / "clipmill_colour_histogram-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: clipmill-colour-histogram\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points)
    return folder


def entry_points() -> str:
    """Returns the example's entry points as an installed package states them."""
    groups = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in found.items())
        for group, found in groups.items()
    ]
    return "".join(lines)


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    search = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
        timeout=280,
        check=False,
    )


def build_config(folder: Path, name: str = "colour_histogram", **feature: Any) -> str:
    data = {
        "store": {"url": str(folder / "store")},
        "videos": {"folder": str(folder / "videos")},
        "features": {name: {"sampling": {"fps": 5}, **feature}},
        "engine": {"device": "cpu", "threads": 1},
    }
    path = folder / "build.yaml"
    path.write_text(yaml.safe_dump(data))
    return str(path)


def test_the_example_builds_features_from_outside(tmp_path: Path) -> None:
    installed = tmp_path / "site"
    installed.mkdir()
    install(installed, (EXAMPLE / "colour_histogram.py").read_text(), entry_points())
    # Frames of one grey: the whole histogram lies in the middle cell of 3 x 3 x 3.
    encode_video(tmp_path / "videos" / "grey.mp4", 10, fps=5, pattern="plain", width=32, height=32)
    done = run(installed, "-m", "clipmill", "build", "--config", build_config(tmp_path, options={"bins": 3}))
    assert done.returncode == 0, done.stderr
    feature = FeatureStore(str(tmp_path / "store"))["colour_histogram"]
    rows = feature["grey.mp4"]
    assert rows.values.shape == (10, 27)
    np.testing.assert_allclose(rows.values.sum(axis=1), 1, rtol=1e-6)
    # The lower half is plain grey (128), the upper half dark and bright cells.
    assert (rows.values[:, 13] >= 0.45).all()
    assert feature.recipe.options == {"bins": 3, "normalise": "l1"}
    assert (feature.recipe.weights.source, feature.recipe.weights.seed) == ("none", None)


CARD = """
from clipmill.extractors.base import ExtractorCard, Layer, WeightsCard
from clipmill.schemas.recipe import Preprocess, Sampling

FRAMES = WeightsCard("frames", (), "computed", "Apache-2.0", Preprocess(resize="exact", size=(8, 8)))
CARD = ExtractorCard("mean_colour", 1, "mean of a frame", (Layer("mean", 3),), Sampling(frames=1), (FRAMES,))
"""
BUILD = """
from clipmill.extractors.base import EachWindow

class MeanColour:
    def __init__(self, recipe):
        self.dtype = recipe.dtype
    def forward(self, frames):
        return {"values": frames.mean(axis=(1, 2, 3), dtype="float32")}
    def reducer(self, clip):
        return EachWindow(clip, self.dtype)

def build(recipe, device):
    return MeanColour(recipe)
"""


def install_folder(folder: Path, **files: str) -> None:
    package = folder / "mean_colour"
    package.mkdir()
    for name, text in ({"__init__": ""} | files).items():
        (package / f"{name}.py").write_text(text)
    install(folder, "", "[clipmill.extractors]\nmean_colour = mean_colour\n")


def test_a_folder_from_outside_is_laid_out_like_those_of_the_project(tmp_path: Path) -> None:
    installed = tmp_path / "site"
    installed.mkdir()
    install_folder(installed, card=CARD, build=BUILD)
    encode_video(tmp_path / "videos" / "grey.mp4", 10, fps=5, pattern="plain", width=32, height=32)
    done = invoke("build", "--config", build_config(tmp_path, "mean_colour"), site=installed)
    assert done.returncode == 0, done.stderr
    rows = FeatureStore(str(tmp_path / "store"))["mean_colour"]["grey.mp4"]
    assert rows.values.shape == (10, 3)
    np.testing.assert_allclose(rows.values, rows.values[:, :1].repeat(3, axis=1), atol=4)
    code = (
        "import sys\n"
        "from clipmill.extractors import registry\n"
        "print(registry.card('mean_colour').summary, 'mean_colour.build' in sys.modules)\n"
    )
    assert run(installed, "-c", code).stdout == "mean of a frame False\n"


def test_a_folder_without_what_builds_it_is_named(tmp_path: Path) -> None:
    install_folder(tmp_path, card=CARD)
    done = invoke("build", "--config", build_config(tmp_path, "mean_colour"), site=tmp_path)
    assert done.returncode == 2
    assert "extractor mean_colour: expected a package that imports, got ImportError: mean_colour has no" in done.stderr
    assert "Traceback" not in done.stderr


BROKEN = [
    ("import a_library_that_is_not_there\n", "ModuleNotFoundError: No module named 'a_library_that_is_not_there'"),
    ("REGISTRATION = 'a string'\n", "expected a clipmill.extractors.base.Registration, got str"),
    ("", "AttributeError"),
]


@pytest.mark.parametrize(("module", "message"), BROKEN, ids=["import", "type", "name"])
def test_a_broken_package_is_named(module: str, message: str, tmp_path: Path) -> None:
    install(tmp_path, module, entry_points())
    code = (
        "from clipmill.extractors import registry\n"
        "from clipmill.schemas.errors import UsageError\n"
        "assert 'colour_histogram' in registry.names() and 'c3d' in registry.names()\n"
        "try:\n    registry.card('colour_histogram')\n"
        "except UsageError as error:\n    print(error)\n"
    )
    done = run(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("extractor colour_histogram: expected")
    assert message in done.stdout


def test_a_weights_file_for_what_reads_none_is_refused(tmp_path: Path) -> None:
    install(tmp_path, (EXAMPLE / "colour_histogram.py").read_text(), entry_points())
    code = (
        "from clipmill.extractors.resolve import resolve_recipe\n"
        "from clipmill.schemas.config import DecodeConfig, FeatureConfig\n"
        "from clipmill.schemas.errors import WeightsError\n"
        "from clipmill.schemas.recipe import ClipRule\n"
        "def resolve(**written):\n"
        "    feature = FeatureConfig.model_validate(written)\n"
        "    return resolve_recipe('colour_histogram', feature, ClipRule(), DecodeConfig())\n"
        # A seed that draws nothing is no difference.
        "print(resolve().fingerprint == resolve(weights={'random': 5}).fingerprint)\n"
        "try:\n    resolve(weights={'file': 'a.pth'})\n"
        "except WeightsError as error:\n    print(error)\n"
    )
    done = run(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    same, message = done.stdout.splitlines()
    assert same == "True"
    assert message == (
        "features.colour_histogram weights: expected none (colour_histogram reads no file), "
        "got a.pth; leave weights out"
    )


def test_a_built_in_name_cannot_be_taken_from_outside(tmp_path: Path) -> None:
    """A store's recipes say `c3d`: which code that is must not depend on what else is installed."""
    install(tmp_path, "REGISTRATION = None\n", "[clipmill.extractors]\nc3d = colour_histogram:REGISTRATION\n")
    done = run(
        tmp_path, "-c", "from clipmill.extractors import registry; print(registry.registration('c3d').card.summary)"
    )
    assert done.returncode == 0, done.stderr
    assert "3D convolutional" in done.stdout
