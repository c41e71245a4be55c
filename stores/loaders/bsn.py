"""BSN, github.com/wzmsltw/BSN-boundary-sensitive-network.pytorch at e50d129, which JJBOY's is a copy of.

``dataset.py`` reads ``<feature_path>csv_mean_100/<video>.csv``, a line of names and 100 rows, for every video that
`video_info` lists. The rows are taken to cover ``feature_frame / duration_frame`` of the video, by `video_anno`;
those of an export cover all of it, so both are equal in the files that are written. A row is the mean of three points
of its hundredth, between which rows are interpolated linearly, as ``data/activitynet_feature_cuhk/data_process.py``
does; where that writes zeros, before the first row's centre and after the last one's, the nearest row stands.
"""

import csv
import json
import os

import numpy as np

from clipmill.schemas.arrays import Singles
from clipmill.schemas.rows import Rows
from clipmill.stores.loaders.base import DatasetLoader, Exported, Loader, all_rows, resized
from clipmill.stores.loaders.files import CsvFiles

LENGTH = 100
"""``--temporal_scale``, which the folder is named by."""
_POINTS = 3
"""``num_sample_bin`` of data_process.py."""
_INFO, _ANNOTATIONS = "video_info.csv", "video_anno.json"
_ANY_FPS = 25.0
"""ours: of videos whose frame rate nobody knows; BSN divides numbers of frames by each other alone."""


def _hundredths(rows: Rows, origin: float, duration_seconds: float) -> Singles:
    centres = (rows.start_seconds + rows.stop_seconds) / 2 - origin
    starts = np.arange(LENGTH) * duration_seconds / LENGTH
    points = starts[:, None] + np.linspace(0.0, duration_seconds / LENGTH, _POINTS)
    values = resized(all_rows(rows, origin, duration_seconds), centres, points.reshape(-1))
    means: Singles = values.reshape(LENGTH, _POINTS, -1).mean(axis=1, dtype=np.float64).astype(np.float32)
    return means


def _write_annotations(exported: Exported) -> None:
    written = {video.name: video for video in exported.videos}
    lines: list[list[object]] = []
    annotations = {}
    for video_id, annotated in (exported.annotated or {}).items():
        name = exported.prefix + video_id
        video = written.get(name)
        if video is None:
            continue
        fps = video.fps or _ANY_FPS
        duration = video.duration_seconds or 0.0
        num_frames = max(1, round(duration * fps))
        lines.append([name, num_frames, duration, fps, fps, annotated.subset or "training", num_frames])
        annotations[name] = {
            "duration_second": duration,
            "duration_frame": num_frames,
            "feature_frame": num_frames,
            "annotations": [
                {"segment": [segment.start_seconds, segment.stop_seconds], "label": segment.label or ""}
                for segment in annotated.segments
            ],
        }
    with open(os.path.join(exported.folder, _INFO), "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video", "numFrame", "seconds", "fps", "rfps", "subset", "featureFrame"])
        writer.writerows(lines)
    with open(os.path.join(exported.folder, _ANNOTATIONS), "w", encoding="utf-8") as file:
        json.dump(annotations, file, ensure_ascii=False)


def _steps(exported: Exported) -> list[str]:
    files = f"--feature_path {exported.folder}/ --tem_feat_dim {exported.dim}"
    if exported.annotated is None:
        note = ["in video_info and video_anno, feature_frame must equal duration_frame: the rows cover the whole video"]
    else:
        note = []
        files += f" --video_info {exported.folder}/{_INFO} --video_anno {exported.folder}/{_ANNOTATIONS}"
    return [*note, f"python main.py --module TEM --mode train {files}"]


def _notes(exported: Exported) -> list[str]:
    unknown = [video for video in exported.videos if video.duration_seconds is None]
    if not unknown:
        return []
    return [f"the length of {len(unknown)} videos is not known; it is taken to end with the last row"]


_ACTIVITYNET = DatasetLoader(
    "dataset.py",
    CsvFiles(f"csv_mean_{LENGTH}"),
    _steps,
    rows=_hundredths,
    notes=_notes,
    has_prefix=True,
    annotations=_write_annotations,
)

LOADER = Loader("bsn", "wzmsltw/BSN-boundary-sensitive-network.pytorch", {"activitynet": _ACTIVITYNET}, {})
