"""UMT, github.com/TencentARC/UMT at bde05e3.

``datasets/qvhighlights.py`` joins ``features`` ``[T, C]`` of ``<vid>.npz`` in the two folders of `video_path`, and
takes a row as 2 s; ``datasets/charades.py`` loads ``<video_path>/<vid>.npy``, of which `unit` of the head
``models/blocks/head.py`` says how many seconds a row is. Both want audio (or optical flow) of as many rows beside
them. TVSum and YouTube Highlights, which want two files of a video by fixed names, are not written.
"""

from clipmill.stores.loaders.base import DatasetLoader, Exported, Loader, rounded
from clipmill.stores.loaders.files import NpyFiles, NpzFiles

_ROW_SECONDS = 2
_CLIP_DIM = 512
"""Of the repository's own clip_features."""


def _qvhighlights_notes(exported: Exported) -> list[str]:
    return exported.timing.step_notes(_ROW_SECONDS, "datasets/qvhighlights.py")


def _qvhighlights(exported: Exported) -> list[str]:
    return [
        "in configs/_base_/datasets/qvhighlights.py, in train and val: "
        f"video_path=['{exported.folder}', data_root + 'clip_features'] (the loader joins two folders)",
        f"in configs/qvhighlights/umt_base_200e_qvhighlights.py: "
        f"model = dict(video_enc=dict(dims=[{exported.dim + _CLIP_DIM}, 256]))",
        "python tools/launch.py configs/qvhighlights/umt_base_200e_qvhighlights.py",
    ]


def _charades(exported: Exported) -> list[str]:
    step = exported.timing.step_seconds
    unit = "..." if step is None else rounded(step)
    return [
        f"in configs/_base_/datasets/charades.py, in train and val: video_path='{exported.folder}'",
        "in configs/charades/umt_base_va_100e_charades.py: "
        f"model = dict(video_enc=dict(dims=[{exported.dim}, 256]), pred_head=dict(unit={unit}))",
        "python tools/launch.py configs/charades/umt_base_va_100e_charades.py",
    ]


def _charades_notes(exported: Exported) -> list[str]:
    num_uneven = exported.timing.num_uneven
    return [f"rows of {num_uneven} videos are not one step apart, as the loader takes them to be"] if num_uneven else []


LOADER = Loader(
    "umt",
    "TencentARC/UMT",
    {
        "qvhighlights": DatasetLoader(
            "datasets/qvhighlights.py", NpzFiles("features"), _qvhighlights, notes=_qvhighlights_notes
        ),
        "charades": DatasetLoader("datasets/charades.py", NpyFiles(), _charades, notes=_charades_notes),
    },
    {"qvhighlights": "qvhighlights", "charades_sta": "charades"},
)
