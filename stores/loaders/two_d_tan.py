"""2D-TAN, github.com/microsoft/2D-TAN at 2f7410f.

``lib/datasets/activitynet.py`` opens ``<DATA_DIR>/sub_activitynet_v1-3.c3d.hdf5`` and takes
``file[video]["c3d_features"]`` ``[T, C]``; ``lib/datasets/charades.py`` takes ``file[video]`` of
``<DATA_DIR>/<VIS_INPUT_TYPE>_features.hdf5``, and ``lib/datasets/tacos.py`` that of
``<DATA_DIR>/tall_c3d_features.hdf5``, where names end in ``.avi``. All spread the rows evenly over the annotated
duration and average them into NUM_SAMPLE_CLIPS.
"""

from clipmill.stores.loaders.base import DatasetLoader, Exported, Loader, evenly_read
from clipmill.stores.loaders.files import Hdf5File

_ACTIVITYNET = Hdf5File("sub_activitynet_v1-3.c3d.hdf5", "c3d_features")
_CHARADES = Hdf5File("clipmill_features.hdf5")
_TACOS = Hdf5File("tall_c3d_features.hdf5")


def _steps(exported: Exported, data: str, file: str, config: str, keys: str = "") -> list[str]:
    return [
        f"ln -s {exported.folder}/{file} {data}/",
        f"in experiments/{config}: {keys}TAN.FRAME_MODULE.PARAMS.INPUT_SIZE: {exported.dim}",
        f"python moment_localization/train.py --cfg experiments/{config} --verbose",
    ]


def _activitynet(exported: Exported) -> list[str]:
    config = "activitynet/2D-TAN-64x64-K9L4-pool.yaml"
    return _steps(exported, "data/ActivityNet", _ACTIVITYNET.file_name, config)


def _charades(exported: Exported) -> list[str]:
    config = "charades/2D-TAN-16x16-K5L8-pool.yaml"
    keys = "DATASET.VIS_INPUT_TYPE: clipmill, "
    return _steps(exported, "data/Charades-STA", _CHARADES.file_name, config, keys)


def _tacos(exported: Exported) -> list[str]:
    return _steps(exported, "data/TACoS", _TACOS.file_name, "tacos/2D-TAN-128x128-K5L8-pool.yaml")


LOADER = Loader(
    "2dtan",
    "microsoft/2D-TAN",
    {
        "activitynet": DatasetLoader("lib/datasets/activitynet.py", _ACTIVITYNET, _activitynet, notes=evenly_read),
        "charades": DatasetLoader("lib/datasets/charades.py", _CHARADES, _charades, notes=evenly_read),
        "tacos": DatasetLoader("lib/datasets/tacos.py", _TACOS, _tacos, notes=evenly_read),
    },
    {"activitynet_captions": "activitynet", "charades_sta": "charades"},
)
