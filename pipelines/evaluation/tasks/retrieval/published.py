"""Published numbers, each with its source: what an evaluation prints itself beside."""

from dataclasses import dataclass

AT = (10, 20, 50, 100)
"""Cut-offs K of every row below."""

MAP_IVR = "MAP-IVR slides, AAAI 2021 (proceedings pp. 2145-2153)"


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """mAP@10, 20, 50 and 100 of one method on one dataset (definition: docs/metrics/retrieval.md)."""

    method: str
    dataset: str
    values: tuple[float, float, float, float]
    source: str = MAP_IVR


def _rows(
    method: str, activitynet: tuple[float, ...], thumos14: tuple[float, ...]
) -> tuple[PublishedRow, PublishedRow]:
    a10, a20, a50, a100 = activitynet
    t10, t20, t50, t100 = thumos14
    return (
        PublishedRow(method, "ActivityNet v1.3", (a10, a20, a50, a100)),
        PublishedRow(method, "THUMOS14", (t10, t20, t50, t100)),
    )


IMAGE_TO_VIDEO: tuple[PublishedRow, ...] = (
    *_rows("CMDN", (0.289, 0.280, 0.269, 0.257), (0.518, 0.513, 0.508, 0.504)),
    *_rows("DSPE", (0.281, 0.273, 0.261, 0.249), (0.507, 0.505, 0.501, 0.498)),
    *_rows("JFSSL", (0.277, 0.268, 0.256, 0.244), (0.476, 0.473, 0.469, 0.465)),
    *_rows("ACMR", (0.294, 0.288, 0.273, 0.259), (0.526, 0.522, 0.514, 0.505)),
    *_rows("CCL", (0.287, 0.279, 0.267, 0.256), (0.512, 0.509, 0.506, 0.502)),
    *_rows("DSCMR", (0.297, 0.292, 0.281, 0.269), (0.625, 0.623, 0.622, 0.621)),
    *_rows("SDML", (0.304, 0.301, 0.289, 0.279), (0.648, 0.647, 0.646, 0.645)),
    *_rows("BPBC", (0.295, 0.287, 0.275, 0.258), (0.514, 0.511, 0.507, 0.503)),
    *_rows("APIVR", (0.308, 0.298, 0.283, 0.269), (0.655, 0.653, 0.651, 0.649)),
    *_rows("MAP-IVR appearance", (0.304, 0.297, 0.284, 0.273), (0.643, 0.641, 0.637, 0.635)),
    *_rows("MAP-IVR video", (0.323, 0.313, 0.296, 0.282), (0.691, 0.689, 0.682, 0.677)),
    *_rows("MAP-IVR combined", (0.357, 0.346, 0.329, 0.314), (0.721, 0.719, 0.717, 0.714)),
)
"""Image-to-video retrieval: 4,739 clips of 200 classes (ActivityNet), 7,028 clips of 18 classes (THUMOS14)."""
