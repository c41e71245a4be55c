"""The example of an exported network, as its first lines say."""

from pathlib import Path

import numpy as np

from clipmill.stores import FeatureStore
from tests.command_line import ROOT, invoked_result, python
from tests.encoded_videos import encode_video


def test_the_example_builds(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    encode_video(tmp_path / "videos" / "a.mp4", 30, 10, width=128, height=96)
    done = python("examples/exported/export.py", str(tmp_path))
    assert done.returncode == 0, done.stderr
    program = tmp_path / "network.pt2"
    changes = [
        f"videos.folder={tmp_path / 'videos'}",
        f"store.url={tmp_path / 'store'}",
        f"features.features.weights.file={program}",
        f"features.maps.weights.file={program}",
        "engine.device=cpu",
    ]
    config = ROOT / "examples" / "exported" / "build.yaml"
    invoked_result("build", "--config", str(config), *(word for change in changes for word in ("--set", change)))
    store = FeatureStore(str(tmp_path / "store"))
    means, largest = store["features"]["a.mp4"].values, store["maps"]["a.mp4"].values
    assert means.shape == largest.shape == (6, 32)
    assert (largest > means).all()
    assert float(np.std(means)) > 0
