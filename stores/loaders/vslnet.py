"""VSLNet, github.com/26hzhang/VSLNet at 3793c62 (formerly IsaacChanghau/VSLNet).

``util/data_util.py`` lists ``data/features/<task>/<fv>/*.npy`` ``[T, C]`` and calls each video by its file's name up
to the first dot; ``util/data_gen.py`` reads the numbers of rows from ``feature_shapes.json`` beside them and leaves
out queries of videos that are not in it. Rows are spread evenly over the annotated duration; more than
``--max_pos_len`` (128) are averaged.
"""

from functools import partial

from clipmill.stores.loaders.base import DatasetLoader, Exported, Loader, evenly_read
from clipmill.stores.loaders.files import GlobbedNpyFiles

_SOURCE = "util/data_util.py"


def _steps(task: str, exported: Exported) -> list[str]:
    return [
        f"mkdir -p data/features/{task} && ln -s {exported.folder} data/features/{task}/clipmill",
        f"python main.py --task {task} --fv clipmill --video_feature_dim {exported.dim} --predictor rnn --mode train",
        "after another export to the same place, delete datasets*/<task>_clipmill_128.pkl, which keeps numbers of rows",
    ]


LOADER = Loader(
    "vslnet",
    "26hzhang/VSLNet",
    {
        task: DatasetLoader(_SOURCE, GlobbedNpyFiles(), partial(_steps, task), notes=evenly_read)
        for task in ("charades", "activitynet", "tacos")
    },
    {"activitynet_captions": "activitynet", "charades_sta": "charades"},
)
