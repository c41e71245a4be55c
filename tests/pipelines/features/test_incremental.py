"""A nightly build does what is due and no more: decodes, loaded models and files read, counted.

Runs that have nothing to do are fresh processes, which says what they import, too.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipmill.stores import FeatureStore
from tests.command_line import python
from tests.encoded_videos import encode_video
from tests.pipelines.features import counted_build
from tests.pipelines.features.counted_build import counted


class Dataset:
    """Videos with annotated segments in a manifest, and a build of two features of their clips."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.segments: dict[str, tuple[float, float]] = {}
        self.seeds = {"slow": 0, "fast": 0}
        (root / "videos").mkdir()

    def put(self, name: str, num_frames: int, segment: tuple[float, float] = (0, 1)) -> None:
        """Encodes a video of 10 frames a second, over one that is there."""
        encode_video(self._root / "videos" / name, num_frames=num_frames, fps=10)
        self.segments[name] = segment

    def build(self, fresh: bool = False) -> dict[str, Any]:
        """Builds, in a process of its own if `fresh`, and returns what was counted."""
        lines = [f"{name},{start},{stop}" for name, (start, stop) in self.segments.items()]
        (self._root / "videos" / "list.csv").write_text("\n".join(["path,start_seconds,stop_seconds", *lines]))
        features = {
            "slow": {"extractor": "squeezenet", "sampling": {"fps": 2}, "weights": {"random": self.seeds["slow"]}},
            "fast": {"extractor": "squeezenet", "sampling": {"fps": 5}, "weights": {"random": self.seeds["fast"]}},
        }
        config = {
            "store": {"url": str(self._root / "store")},
            "videos": {"manifest": str(self._root / "videos" / "list.csv")},
            "clips": {"from": "annotations"},
            "features": features,
            "engine": {"device": "cpu", "threads": 1},
        }
        (self._root / "build.yaml").write_text(yaml.safe_dump(config))
        if not fresh:
            return counted(str(self._root / "build.yaml"))
        done = python(counted_build.__file__, str(self._root / "build.yaml"))
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def rows(self, feature: str, name: str) -> int:
        """Returns how many rows a reader finds of a video."""
        return len(FeatureStore(str(self._root / "store"))[feature][name].values)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    found = Dataset(tmp_path)
    for name in ("a.mp4", "b.mp4"):
        found.put(name, 20)
    return found


NOTHING = {"decoded": {}, "loaded": [], "read": {}, "num_rows": 0, "exit_code": 0, "torch": False, "decoders": []}


def test_each_night_decodes_what_is_due_once_and_loads_what_it_needs(dataset: Dataset) -> None:
    first = dataset.build()
    assert first["decoded"] == {"a.mp4": 1, "b.mp4": 1}
    assert first["loaded"] == ["fast", "slow"]
    assert first["num_rows"] == 2 * (2 + 5)

    # Unchanged: no decode, no model, no file read, not even the libraries.
    assert dataset.build(fresh=True) == NOTHING

    # A new video.
    dataset.put("c.mp4", 30)
    new = dataset.build()
    assert (new["decoded"], new["read"], new["num_rows"]) == ({"c.mp4": 1}, {"c.mp4": 1}, 7)

    # Other bytes.
    dataset.put("a.mp4", 25)
    changed = dataset.build()
    assert (changed["decoded"], changed["read"]) == ({"a.mp4": 1}, {"a.mp4": 1})

    # Other times: nothing is read, the one video is decoded.
    dataset.segments["b.mp4"] = (0, 2)
    reannotated = dataset.build()
    assert (reannotated["decoded"], reannotated["read"]) == ({"b.mp4": 1}, {})
    assert (dataset.rows("slow", "b.mp4"), dataset.rows("fast", "b.mp4")) == (4, 10)

    # A video less.
    removed = dataset.segments.pop("c.mp4")
    assert dataset.build(fresh=True) == NOTHING
    dataset.segments["c.mp4"] = removed

    # New weights of one feature: that model alone is loaded, all videos are decoded for it.
    dataset.seeds["slow"] = 1
    weights = dataset.build()
    assert weights["decoded"] == {"a.mp4": 1, "b.mp4": 1, "c.mp4": 1}
    assert (weights["loaded"], weights["read"]) == (["slow"], {})

    # All at once: each video once, whatever of it is due.
    dataset.put("d.mp4", 20)
    dataset.put("a.mp4", 30)
    dataset.segments["b.mp4"] = (0.5, 1.5)
    dataset.seeds["fast"] = 1
    everything = dataset.build()
    assert everything["decoded"] == dict.fromkeys(("a.mp4", "b.mp4", "c.mp4", "d.mp4"), 1)
    assert everything["read"] == {"a.mp4": 1, "d.mp4": 1}
    assert everything["loaded"] == ["fast", "slow"]
    # Of a, b and d both features are due, of c the one with new weights.
    assert everything["num_rows"] == 3 * (2 + 5) + 5
    assert dataset.build(fresh=True) == NOTHING
