"""Published results of every task, with their sources, to print below one's own.

Values are shares of one under the metric names of the tasks. They were measured with other features or under another
protocol than yours may be: `protocol` says what is known of it. Compare across protocols never.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clipmill.schemas.errors import UsageError, describe, near


@dataclass(frozen=True, slots=True)
class PublishedScore:
    """One method's published results on one dataset."""

    task: str
    dataset: str
    method: str
    metrics: Mapping[str, float]
    source: str
    protocol: str = ""


def _maps(first: float, *percent: float) -> dict[str, float]:
    """Returns mAP in percent at tIoU `first`, `first` + 0.1, ... as metrics."""
    return {f"map@{round(first + step / 10, 6):g}": round(value / 100, 6) for step, value in enumerate(percent)}


def _recalls(at_three: float | None, at_five: float | None, at_seven: float | None) -> dict[str, float]:
    given = {"r1@0.3": at_three, "r1@0.5": at_five, "r1@0.7": at_seven}
    return {name: round(value / 100, 6) for name, value in given.items() if value is not None}


def _highlights(*percent: float) -> dict[str, float]:
    """Returns mAP and Hit@1 in percent at Fair, Good and VeryGood as metrics."""
    names = [f"{metric}@{level}" for level in ("Fair", "Good", "VeryGood") for metric in ("map", "hit1")]
    return {name: round(value / 100, 6) for name, value in zip(names, percent, strict=True)}


def _image_to_video(method: str, activitynet: tuple[float, ...], thumos14: tuple[float, ...]) -> list["PublishedScore"]:
    """Returns mAP@10, 20, 50 and 100 of image-to-video retrieval on both datasets (docs/metrics/retrieval.md)."""
    return [
        PublishedScore("retrieval", dataset, method, dict(zip(_CUTOFFS, values, strict=True)), _MAP_IVR, protocol)
        for dataset, values, protocol in (
            ("activitynet", activitynet, "4,739 clips of 200 classes of ActivityNet 1.3"),
            ("thumos14", thumos14, "7,028 clips of 18 classes"),
        )
    ]


_CUTOFFS = ("map@10", "map@20", "map@50", "map@100")
_MAP_IVR = "MAP-IVR slides, AAAI 2021 (proceedings pp. 2145-2153)"
_SCNN = "zhengshou/scnn, res_scnn_thumos14.mat (Z. Shou et al., CVPR 2016)"
_RC3D = "VisionLearningGroup/R-C3D, README and issue 13 (H. Xu et al., ICCV 2017)"
_RC3D_PYTORCH = "sunnyxiaohu/R-C3D.pytorch, README"
_CI_MHA = "CI-MHA slides, WACV 2021"
_LGI = "JonghwanMun/LGI4temporalgrounding, README"
_MOMENT_DETR = "jayleicn/moment_detr, sample_val_preds_metrics_raw.json (J. Lei et al., NeurIPS 2021)"
_ACTIONFORMER = "happyharrycn/actionformer_release, README (C. Zhang et al., ECCV 2022)"
_TRIDET = "dingfengshi/TriDet, README (D. Shi et al., CVPR 2023)"
_ADATAD = "sming256/OpenTAD, configs/adatad/README (S. Liu et al., CVPR 2024)"
_UNIVTG = "showlab/UniVTG, model.md (K. Q. Lin et al., ICCV 2023)"
_CG_DETR = "wjun0830/CGDETR, results/qvhighlights/hl_val_submission_metrics.json (W. Moon et al., 2023)"
_TR_DETR = "mingyao1120/TR-DETR, hl_val_submission_metrics.json of its checkpoint (H. Sun et al., AAAI 2024)"
_LIGHTHOUSE = "line/lighthouse, markdown/reproduced_results.md (T. Nishimura et al., EMNLP 2024)"
_REPRODUCED = "reproduced by lighthouse, features of CLIP and SlowFast"
_REVISITED = "filipradenovic/revisitop, README (F. Radenovic et al., CVPR 2018)"
_FOLLOWS = "NMS at tIoU - 0.1"

PUBLISHED_SCORES: tuple[PublishedScore, ...] = (
    PublishedScore("detection", "thumos14", "S-CNN", _maps(0.1, 47.72, 43.53, 36.28, 28.70, 18.97), _SCNN, _FOLLOWS),
    PublishedScore("detection", "thumos14", "R-C3D (Caffe)", _maps(0.1, 55.5, 52.7, 47.3, 39.1, 28.8), _RC3D, _FOLLOWS),
    PublishedScore(
        "detection", "thumos14", "R-C3D (Caffe)", _maps(0.1, 44.8, 42.9, 40.5, 36.5, 29.1), _RC3D, "NMS fixed at 0.4"
    ),
    PublishedScore("detection", "thumos14", "R-C3D (PyTorch)", _maps(0.5, 38.5), _RC3D_PYTORCH),
    PublishedScore(
        "detection",
        "thumos14_0.3_to_0.7",
        "ActionFormer (I3D)",
        _maps(0.3, 82.13, 77.80, 70.95, 59.40, 43.87) | {"average": 0.6683},
        _ACTIONFORMER,
    ),
    PublishedScore(
        "detection",
        "thumos14_0.3_to_0.7",
        "TriDet (I3D)",
        _maps(0.3, 83.62, 80.07, 72.94, 62.35, 47.35) | {"average": 0.6927},
        _TRIDET,
    ),
    PublishedScore(
        "detection",
        "thumos14_0.3_to_0.7",
        "AdaTAD (VideoMAE-B, 768 frames)",
        _maps(0.3, 85.95, 81.86, 75.02, 63.29, 49.56) | {"average": 0.7114},
        _ADATAD,
    ),
    PublishedScore(
        "detection",
        "thumos14_0.3_to_0.7",
        "AdaTAD (VideoMAEv2-g, 1536 frames)",
        _maps(0.3, 89.93, 86.83, 81.24, 69.97, 57.36) | {"average": 0.7707},
        _ADATAD,
    ),
    PublishedScore(
        "detection",
        "activitynet",
        "ActionFormer (TSP)",
        {"map@0.5": 0.5467, "map@0.75": 0.3781, "map@0.95": 0.0836, "average": 0.3656},
        _ACTIONFORMER,
    ),
    PublishedScore(
        "detection",
        "activitynet",
        "TriDet (TSP)",
        {"map@0.5": 0.5471, "map@0.75": 0.3801, "map@0.95": 0.0835, "average": 0.3677},
        _TRIDET,
    ),
    PublishedScore(
        "detection",
        "activitynet",
        "AdaTAD (VideoMAE-B)",
        {"map@0.5": 0.5672, "map@0.75": 0.3944, "map@0.95": 0.0954, "average": 0.3835},
        _ADATAD,
        "classes by CUHK",
    ),
    PublishedScore("detection", "activitynet", "R-C3D (Caffe)", {"average": 0.144}, _RC3D),
    PublishedScore("detection", "activitynet", "R-C3D (PyTorch)", {"map@0.5": 0.288, "average": 0.151}, _RC3D_PYTORCH),
    PublishedScore("moments", "charades_sta", "DRN", _recalls(None, 53.09, 31.75), _CI_MHA),
    PublishedScore("moments", "charades_sta", "CI-MHA", _recalls(69.87, 54.68, 35.27), _CI_MHA),
    PublishedScore("moments", "charades_sta", "LGI", _recalls(72.18, 59.17, 35.32) | {"miou": 0.5093}, _LGI),
    PublishedScore(
        "moments",
        "charades_sta",
        "UniVTG, pretrained",
        {"r1@0.3": 0.7263, "miou": 0.5217},
        _UNIVTG,
        "CLIP and SlowFast",
    ),
    PublishedScore(
        "moments",
        "charades_sta",
        "QD-DETR",
        {"r1@0.5": 0.594, "r1@0.7": 0.379, "map@0.5": 0.666, "map@0.75": 0.338},
        _LIGHTHOUSE,
        _REPRODUCED,
    ),
    PublishedScore(
        "moments",
        "charades_sta",
        "CG-DETR",
        {"r1@0.5": 0.576, "r1@0.7": 0.351, "map@0.5": 0.659, "map@0.75": 0.309},
        _LIGHTHOUSE,
        _REPRODUCED,
    ),
    PublishedScore("moments", "activitynet_captions", "CI-MHA", _recalls(61.49, 43.97, 25.13), _CI_MHA),
    PublishedScore("moments", "activitynet_captions", "LGI", _recalls(58.48, 41.65, 24.10) | {"miou": 0.4148}, _LGI),
    PublishedScore(
        "moments",
        "activitynet_captions",
        "CG-DETR",
        {"r1@0.5": 0.400, "r1@0.7": 0.232, "map@0.5": 0.510, "map@0.75": 0.277},
        _LIGHTHOUSE,
        f"val_1, {_REPRODUCED}",
    ),
    PublishedScore(
        "moments",
        "qvhighlights",
        "Moment-DETR, validation",
        {"r1@0.5": 0.5394, "r1@0.7": 0.3484, "map@0.5": 0.5496, "map@0.75": 0.3101, "map": 0.3220},
        _MOMENT_DETR,
    ),
    PublishedScore(
        "moments",
        "qvhighlights",
        "TR-DETR, validation",
        {"r1@0.5": 0.6710, "r1@0.7": 0.5148, "map@0.5": 0.6627, "map@0.75": 0.4642, "map": 0.4509},
        _TR_DETR,
    ),
    PublishedScore(
        "moments",
        "qvhighlights",
        "CG-DETR, validation",
        {"r1@0.3": 0.7794, "r1@0.5": 0.6735, "r1@0.7": 0.5206, "miou": 0.6169}
        | {"map@0.5": 0.6557, "map@0.75": 0.4573, "map": 0.4493},
        _CG_DETR,
    ),
    PublishedScore("moments", "qvhighlights", "UniVTG, validation", {"map": 0.3613}, _UNIVTG),
    PublishedScore("moments", "qvhighlights", "UniVTG, pretrained, validation", {"map": 0.4544}, _UNIVTG),
    PublishedScore(
        "highlights",
        "qvhighlights",
        "Moment-DETR, validation",
        {
            "map@Fair": 0.6777,
            "hit1@Fair": 0.6645,
            "map@Good": 0.5809,
            "hit1@Good": 0.6445,
            "map@VeryGood": 0.3565,
            "hit1@VeryGood": 0.5555,
        },
        _MOMENT_DETR,
    ),
    PublishedScore(
        "highlights",
        "qvhighlights",
        "TR-DETR, validation",
        _highlights(77.12, 78.00, 65.99, 76.26, 40.55, 64.77),
        _TR_DETR,
    ),
    PublishedScore(
        "highlights",
        "qvhighlights",
        "CG-DETR, validation",
        _highlights(77.78, 80.13, 66.63, 78.13, 40.79, 66.71),
        _CG_DETR,
    ),
    PublishedScore("highlights", "qvhighlights", "UniVTG, validation", {"hit1@VeryGood": 0.6181}, _UNIVTG),
    PublishedScore("highlights", "qvhighlights", "UniVTG, pretrained, validation", {"hit1@VeryGood": 0.6877}, _UNIVTG),
    PublishedScore(
        "landmarks",
        "roxford5k",
        "R101-GeM, the benchmark's example features",
        {"easy:map": 0.8481, "medium:map": 0.6467, "hard:map": 0.3847},
        _REVISITED,
    ),
    PublishedScore(
        "landmarks",
        "rparis6k",
        "R101-GeM, the benchmark's example features",
        {"easy:map": 0.9212, "medium:map": 0.7720, "hard:map": 0.5632},
        _REVISITED,
    ),
    *_image_to_video("CMDN", (0.289, 0.280, 0.269, 0.257), (0.518, 0.513, 0.508, 0.504)),
    *_image_to_video("DSPE", (0.281, 0.273, 0.261, 0.249), (0.507, 0.505, 0.501, 0.498)),
    *_image_to_video("JFSSL", (0.277, 0.268, 0.256, 0.244), (0.476, 0.473, 0.469, 0.465)),
    *_image_to_video("ACMR", (0.294, 0.288, 0.273, 0.259), (0.526, 0.522, 0.514, 0.505)),
    *_image_to_video("CCL", (0.287, 0.279, 0.267, 0.256), (0.512, 0.509, 0.506, 0.502)),
    *_image_to_video("DSCMR", (0.297, 0.292, 0.281, 0.269), (0.625, 0.623, 0.622, 0.621)),
    *_image_to_video("SDML", (0.304, 0.301, 0.289, 0.279), (0.648, 0.647, 0.646, 0.645)),
    *_image_to_video("BPBC", (0.295, 0.287, 0.275, 0.258), (0.514, 0.511, 0.507, 0.503)),
    *_image_to_video("APIVR", (0.308, 0.298, 0.283, 0.269), (0.655, 0.653, 0.651, 0.649)),
    *_image_to_video("MAP-IVR appearance", (0.304, 0.297, 0.284, 0.273), (0.643, 0.641, 0.637, 0.635)),
    *_image_to_video("MAP-IVR video", (0.323, 0.313, 0.296, 0.282), (0.691, 0.689, 0.682, 0.677)),
    *_image_to_video("MAP-IVR combined", (0.357, 0.346, 0.329, 0.314), (0.721, 0.719, 0.717, 0.714)),
)


def published_scores(task: str, dataset: str | None, more: Sequence[PublishedScore] = ()) -> tuple[PublishedScore, ...]:
    """Returns the published rows of `dataset` for `task`; none where no dataset is named.

    Args:
        more: rows beside those of the table, as a task from outside brings them.

    Raises:
        UsageError: there are no rows of that dataset; the near ones are named.
    """
    if dataset is None:
        return ()
    rows = [row for row in (*PUBLISHED_SCORES, *more) if row.task == task]
    known = sorted({row.dataset for row in rows})
    if dataset not in known:
        expected = f"a dataset with published rows for task {task}"
        remedy = near(dataset, known) if known else "leave the key out: there are none for this task"
        raise UsageError(describe("evaluation", "published", expected, repr(dataset), remedy))
    return tuple(row for row in rows if row.dataset == dataset)
