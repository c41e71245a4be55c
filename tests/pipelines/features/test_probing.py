from pathlib import Path

import pytest

from clipmill.pipelines.features import probing
from clipmill.schemas.errors import VideoError
from clipmill.schemas.records import Video
from tests.encoded_videos import encode_video


def test_a_file_that_could_not_be_read_is_probed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = Video("v", str(encode_video(tmp_path / "v.mp4", num_frames=5)))

    def refuse(path: str, stream: str | None) -> str:
        raise VideoError("probe", "unreadable", f"video {path}: permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(probing, "video_fingerprint", refuse)
        (first,), learnt = probing.probe_videos([video], {})
    assert first.error is not None
    (second,), _ = probing.probe_videos([video], learnt)
    assert second.error is None
    assert second.video.fingerprint
