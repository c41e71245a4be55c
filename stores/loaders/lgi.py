"""LGI, github.com/JonghwanMun/LGI4temporalgrounding at 199e7ab.

``src/dataset/anet.py`` takes ``file[video]["c3d_features"]`` ``[T, C]`` of the HDF5 file `video_feature_path`;
``src/dataset/charades.py`` loads ``video_feature_path.format(video)`` and squeezes it, so that a video of one row
would lose its first axis: that row is written twice. Both spread the rows evenly over the annotated duration, of
which they keep labels in ``<data_dir>/preprocess``.
"""

import numpy as np

from clipmill.schemas.arrays import Singles
from clipmill.schemas.rows import Rows
from clipmill.stores.loaders.base import DatasetLoader, Exported, Loader, all_rows, evenly_read
from clipmill.stores.loaders.files import Hdf5File, NpyFiles

_ACTIVITYNET = Hdf5File("sub_activitynet_v1-3.c3d.hdf5", "c3d_features")


def _at_least_two(rows: Rows, origin: float, duration_seconds: float) -> Singles:
    values = all_rows(rows, origin, duration_seconds)
    return np.repeat(values, 2, axis=0) if len(values) == 1 else values


def _steps(exported: Exported, dataset: str, path: str, data: str) -> list[str]:
    return [
        f"in src/experiment/options/{dataset}/tgn_lgi/LGI.yml: model.video_enc_vemb_idim: {exported.dim}; "
        f'in train_loader and test_loader: video_feature_path: "{path}"',
        f"rm -rf {data}/preprocess",
        f"bash scripts/train_model.sh LGI tgn_lgi {dataset} 0 4 0",
    ]


def _activitynet(exported: Exported) -> list[str]:
    return _steps(exported, "anet", f"{exported.folder}/{_ACTIVITYNET.file_name}", "data/ActivityNet")


def _charades(exported: Exported) -> list[str]:
    return _steps(exported, "charades", exported.folder + "/{}.npy", "data/charades")


LOADER = Loader(
    "lgi",
    "JonghwanMun/LGI4temporalgrounding",
    {
        "activitynet": DatasetLoader("src/dataset/anet.py", _ACTIVITYNET, _activitynet, notes=evenly_read),
        "charades": DatasetLoader(
            "src/dataset/charades.py", NpyFiles(squeezed=True), _charades, _at_least_two, evenly_read
        ),
    },
    {"activitynet_captions": "activitynet", "charades_sta": "charades"},
)
