"""Moment-DETR, github.com/jayleicn/moment_detr at b7e553a.

``moment_detr/start_end_dataset.py`` takes the first ``--max_v_l`` (75) rows of ``features`` ``[T, C]`` of
``<v_feat_dir>/<vid>.npz`` and counts each as ``--clip_length`` (2) whole seconds.
"""

from clipmill.stores.loaders.base import DatasetLoader, Exported, Loader
from clipmill.stores.loaders.files import NpzFiles

_CLIP_SECONDS = 2
_MOST_ROWS = 75


def _clip_seconds(exported: Exported) -> int:
    """Returns the whole number of seconds from row to row; that of QVHighlights where it is none."""
    step = exported.timing.step_seconds
    whole = step is not None and round(step) >= 1 and abs(step - round(step)) <= 0.01 * step
    return round(step) if step is not None and whole else _CLIP_SECONDS


def _notes(exported: Exported) -> list[str]:
    return exported.timing.step_notes(_clip_seconds(exported), "--clip_length, whole seconds")


def _steps(exported: Exported) -> list[str]:
    return [
        "PYTHONPATH=$PYTHONPATH:. python moment_detr/train.py --dset_name hl --ctx_mode video_tef "
        "--train_path data/highlight_train_release.jsonl --eval_path data/highlight_val_release.jsonl "
        f"--eval_split_name val --v_feat_dirs {exported.folder} --v_feat_dim {exported.dim} "
        "--t_feat_dir features/clip_text_features/ --t_feat_dim 512 "
        f"--clip_length {_clip_seconds(exported)} --max_v_l {max(_MOST_ROWS, exported.most_rows)} "
        "--bsz 32 --results_root results --exp_id clipmill",
    ]


_QVHIGHLIGHTS = DatasetLoader("moment_detr/start_end_dataset.py", NpzFiles("features"), _steps, notes=_notes)

LOADER = Loader(
    "moment-detr", "jayleicn/moment_detr", {"qvhighlights": _QVHIGHLIGHTS}, {"qvhighlights": "qvhighlights"}
)
