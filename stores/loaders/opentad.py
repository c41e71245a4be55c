"""OpenTAD, github.com/sming256/OpenTAD at 3dd7b03.

``LoadFeats`` of ``opentad/datasets/transforms/loading.py`` loads ``<data_path>/<prefix><video><suffix>.npy`` ``[T,
C]``, and ends the program where there is none, so videos without features belong into the file `block_list`. The
padding and sliding data sets take row i to be centred on frame ``i * feature_stride + offset_frames``, at the `frame`
/ `duration` of the annotations, which are ActivityNet's JSON; subsets are told apart by the case of letters.
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
)
from clipmill.stores.loaders.files import NpyFiles

_ANNOTATIONS = "annotations.json"
_MISSING = "missing_files.txt"
_CLASSES = "category_idx.txt"


def _write_annotations(exported: Exported) -> None:
    def more(video: ExportedVideo) -> dict[str, Any]:
        # The loader multiplies seconds by frame / duration: of resampled rows, frames of the rate they were made at.
        if video.fps is None or video.duration_seconds is None:
            return {}
        return {"frame": round(video.fps * video.duration_seconds)}

    database = detection_database(exported, more)
    written = {video.name for video in exported.videos}
    missing = [name for name in database["database"] if exported.prefix + name not in written]
    files = {
        _ANNOTATIONS: json.dumps(database, ensure_ascii=False),
        _MISSING: "".join(f"{name}\n" for name in missing),
        _CLASSES: "".join(f"{name}\n" for name in exported.classes),
    }
    for name, text in files.items():
        with open(os.path.join(exported.folder, name), "w", encoding="utf-8") as file:
            file.write(text)


def _steps(exported: Exported) -> list[str]:
    timing, folder = exported.timing, exported.folder
    options = {
        "model.projection.in_channels": exported.dim,
        "model.rpn_head.num_classes": len(exported.classes) or "...",
    }
    for part in ("train", "val", "test"):
        keys: dict[str, Any] = {"data_path": folder}
        if exported.annotated is not None:
            keys |= {
                "ann_file": f"{folder}/{_ANNOTATIONS}",
                "class_map": f"{folder}/{_CLASSES}",
                "block_list": f"{folder}/{_MISSING}",
            }
        keys |= {
            "feature_stride": timing.step_frames or "...",
            "offset_frames": "..." if timing.window_frames is None else timing.window_frames // 2,
        }
        if exported.prefix:
            keys["pipeline.0.prefix"] = exported.prefix
        options |= {f"dataset.{part}.{key}": value for key, value in keys.items()}
    if exported.annotated is not None:
        options["evaluation.ground_truth_filename"] = f"{folder}/{_ANNOTATIONS}"
    subsets = sorted({video.subset or "training" for video in (exported.annotated or {}).values()})
    return [
        "torchrun --nnodes=1 --nproc_per_node=1 --rdzv_backend=c10d --rdzv_endpoint=localhost:0 tools/train.py "
        "configs/actionformer/thumos_i3d.py --cfg-options "
        + " ".join(f"{key}={value}" for key, value in options.items()),
        "dataset.train.subset_name, dataset.val.subset_name, dataset.test.subset_name and evaluation.subset: of "
        f"the subsets {', '.join(subsets) or 'of your annotations'}",
    ]


_PADDING = DatasetLoader(
    "opentad/datasets/transforms/loading.py",
    NpyFiles(),
    _steps,
    notes=frame_notes,
    has_prefix=True,
    annotations=_write_annotations,
)

LOADER = Loader("opentad", "sming256/OpenTAD", {"thumos": _PADDING}, {})
