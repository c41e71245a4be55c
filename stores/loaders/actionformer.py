"""ActionFormer, github.com/happyharrycn/actionformer_release at 61ea7eb.

``libs/datasets/thumos14.py`` loads ``<feat_folder>/<file_prefix><video><file_ext>`` ``[T, C]`` and leaves out videos
without one; ``libs/datasets/anet.py`` opens the same files, and fails where one is missing. Row i is taken to be
centred on frame ``i * feat_stride + num_frames / 2``, at `default_fps` or the `fps` of the annotations, which are
ActivityNet's JSON with a `label_id` for each segment.
"""

import json
import os
from typing import Any

from clipmill.stores.loaders.base import (
    DatasetLoader,
    Exported,
    ExportedVideo,
    Loader,
    detection_database,
    frame_notes,
    rounded,
)
from clipmill.stores.loaders.files import NpyFiles

_ANNOTATIONS = "annotations.json"


def _write_annotations(exported: Exported) -> None:
    def more(video: ExportedVideo) -> dict[str, Any]:
        return {} if video.fps is None else {"fps": video.fps}

    with open(os.path.join(exported.folder, _ANNOTATIONS), "w", encoding="utf-8") as file:
        json.dump(detection_database(exported, more), file, ensure_ascii=False)


def _steps(exported: Exported) -> list[str]:
    timing = exported.timing
    subsets = sorted({(video.subset or "training").lower() for video in (exported.annotated or {}).values()})
    fps = "~" if timing.fps is None else rounded(timing.fps)
    keys = [
        f"json_file: {exported.folder}/{_ANNOTATIONS}" if exported.annotated is not None else "json_file: ...",
        f"feat_folder: {exported.folder}",
        f"file_prefix: {exported.prefix or '~'}",
        "file_ext: .npy",
        f"num_classes: {len(exported.classes) or '...'}",
        f"input_dim: {exported.dim}",
        f"feat_stride: {timing.step_frames or '...'}",
        f"num_frames: {timing.window_frames or '...'}",
        f"default_fps: {fps}",
    ]
    return [
        f"in configs/thumos_i3d.yaml: dataset: {{ {', '.join(keys)} }}; trunc_thresh, crop_ratio and max_seq_len stay",
        f"train_split and val_split: of the subsets {', '.join(subsets) or 'of your annotations'}",
        "python ./train.py ./configs/thumos_i3d.yaml --output clipmill",
    ]


_THUMOS = DatasetLoader(
    "libs/datasets/thumos14.py",
    NpyFiles(),
    _steps,
    notes=frame_notes,
    has_prefix=True,
    annotations=_write_annotations,
)

LOADER = Loader("actionformer", "happyharrycn/actionformer_release", {"thumos": _THUMOS}, {})
