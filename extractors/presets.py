"""Published feature sets by name: ``features: {i3d: {preset: charades-i3d-lgi}}``.

A preset is what one would write under a feature by hand. Keys beside it override it, and the resolved recipe holds no
trace of it: a preset and the same keys written out have one fingerprint. No torch here: planning reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipmill.schemas.config import FeatureConfig
from clipmill.schemas.errors import UsageError, describe, near
from clipmill.schemas.model import validate

Keys = Mapping[str, Any]

PYTORCH_I3D = "piergiaj/pytorch-i3d 05783d1"
VSLNET = "26hzhang/VSLNet 3793c62"
RC3D_PYTORCH = "sunnyxiaohu/R-C3D.pytorch e8731af"


@dataclass(frozen=True, slots=True)
class Preset:
    """One published feature set.

    Attributes:
        summary: what it is, in one line.
        source: the code it follows, with its commit, and where there is none what is known from where.
        features: keys of a feature by extractor; more than one where the set has several inputs.
        rows: how many rows a video has, F its frames, K its frames at the recipe's rate, S its seconds.
        weights: the published file it is for.
        needs: options that name a file and must be given, dotted.
        differs: what of the published features this does not repeat.
    """

    summary: str
    source: str
    features: Mapping[str, Keys]
    rows: str
    weights: str
    needs: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()


JPEG = "the published frames were stored as JPEG first"


def _vslnet(sampling: Keys, rest: Keys) -> Keys:
    return {"sampling": {"tail": "before_last"} | dict(sampling), "layer": "features"} | dict(rest)


_RC3D: Mapping[str, Any] = {
    "layer": "fc6",
    "options": {"form": "pytorch-activitynet", "top": 64},
    "sampling": {
        "fps": 25,
        "rounding": "ffmpeg_r",
        "frames": 768,
        "every": 8,
        "step": 1536,
        "tail": "both_ways",
    },
}
_RC3D_DIFFERS = (
    "frames are resized by the code's float32 resize; its script stores them at 171x128, by ffmpeg's bicubic, as JPEG",
    "proposals of overlapping windows are merged by NMS at the release's 0.9 (docs/extractors/rc3d.md)",
)
_TWO_STREAMS: Mapping[str, Any] = {
    "options": {"stream": "both", "flow": {"method": "tvl1", "values": "uint8"}, "crop": 224},
    "preprocess": {"resize": "exact", "size": [256, 340]},
}

PRESETS: Mapping[str, Preset] = {
    "activitynet-c3d-500": Preset(
        summary="ActivityNet's C3D features of 2016: fc7 of 16 frames every 8, projected on 500 principal directions",
        source="the feature page of the 2016 challenge as quoted in ikuinen/CMIN_moment_retrieval issue 2; "
        "facebookarchive/C3D v1.0 71336a2 for the input",
        features={
            "c3d": {
                "layer": "fc7",
                "sampling": {"fps": None, "frames": 16, "step": 8, "tail": "drop"},
                "options": {"pca_dim": 500},
                "weights": {"card": "sports1m-caffe"},
            }
        },
        rows="(F - 16) // 8 + 1, none under 16 frames",
        weights="conv3d_deepnetA_sport1m_iter_1900000",
        needs=("options.pca", "options.pca_orientation"),
        differs=("the volume mean is not subtracted unless options.mean_cube names it; its channel means are", JPEG),
    ),
    "charades-i3d-lgi": Preset(
        summary="Charades' I3D features of LGI: one vector per 8 frames of one pass over the whole video",
        source=f"{PYTORCH_I3D} (extract_features.py), used by JonghwanMun/LGI4temporalgrounding 199e7ab (its issue 10)",
        features={
            "i3d": {
                "layer": "features",
                "sampling": {"fps": 24, "rounding": "nearest"},
                "options": {"steps": True},
                "weights": {"card": "charades-rgb"},
            }
        },
        rows="ceil(K / 8) - 1",
        weights="rgb_charades.pt",
        differs=(
            "over 1600 frames the script cuts chunks, skips frame 0 and repeats rows; here it is one pass always",
            "24 frames a second are those of Charades' own frame archive; LGI's author was not sure of the rate",
            JPEG,
        ),
    ),
    "charades-i3d-vslnet": Preset(
        summary="Charades' I3D features of VSLNet: windows of 24 frames at 24 a second, two vectors each",
        source=f"{VSLNET} (prepare/extract_charades.py)",
        features={
            "i3d": _vslnet(
                {"fps": 24, "rounding": "nearest", "frames": 24, "step": 24},
                {"options": {"window_steps": True}, "weights": {"card": "charades-rgb"}},
            )
        },
        rows="2 ceil(K / 24); ceil((K - 1) / 8) - 1 for K under 25",
        weights="rgb_charades.pt (or rgb_imagenet.pt)",
        differs=(JPEG,),
    ),
    "activitynet-i3d-vslnet": Preset(
        summary="ActivityNet's I3D features of VSLNet: windows of 16 frames at the video's own rate",
        source=f"{VSLNET} (prepare/extract_activitynet.py)",
        features={
            "i3d": _vslnet(
                {"fps": None, "frames": 16, "step": 16, "block_frames": 10_000},
                {
                    "preprocess": {
                        "resize": "short_side",
                        "size": [224],
                        "resize_rounding": "opencv_factor",
                        "crop": [224, 224],
                        "crop_rounding": "half_even",
                    },
                    "weights": {"card": "kinetics-rgb"},
                },
            )
        },
        rows="ceil(F / 16), up to 10,000 frames",
        weights="rgb_imagenet.pt",
        differs=(JPEG, "of videos with a variable rate, ffmpeg wrote frames at a constant one"),
    ),
    "video-features-i3d": Preset(
        summary="video_features' I3D, rgb: 64 frames, one more needed for the flow it computes beside it",
        source="v-iashin/video_features a2f61b7 (models/i3d)",
        features={
            "i3d": {
                "layer": "features",
                "sampling": {"fps": None, "frames": 64, "step": 64, "frames_after": 1, "tail": "drop"},
                "preprocess": {
                    "resize": "short_side",
                    "size": [256],
                    "interpolation": "bilinear_antialias",
                    "crop": [224, 224],
                },
                "weights": {"card": "kinetics-rgb"},
            }
        },
        rows="(F - 1) // 64",
        weights="model_rgb.pth (there i3d_rgb.pt)",
        differs=(
            "its copy of the network has a batch-norm epsilon of 1e-5, the network's own is 1e-3",
            "with extraction_fps it encodes the resampled video again: sampling: {fps: N, rounding: nearest} does not",
        ),
    ),
    "thumos14-i3d-actionformer": Preset(
        summary="THUMOS14's two-stream I3D features of ActionFormer: 16 frames every 4 at the video's own rate",
        source="happyharrycn/actionformer_release 61ea7eb (README, configs/thumos_i3d.yaml); frames and crop as "
        "Finspire13/pytorch-i3d-feature-extraction d7f5452",
        features={
            "i3d": {
                "layer": "features",
                "sampling": {"fps": None, "frames": 17, "step": 4, "tail": "drop"},
                "weights": {"card": "kinetics-both"},
                **_TWO_STREAMS,
            }
        },
        rows="(F - 17) // 4 + 1, none under 17 frames",
        weights="rgb_imagenet.pt and flow_imagenet.pt, joined (clipmill weights join)",
        differs=(
            "TV-L1 by OpenCV's CPU code: the release does not say which flow it has",
            "one centred crop (that code can average ten)",
            JPEG,
        ),
    ),
    "thumos14-i3d-bsn": Preset(
        summary="I3D on BSN's snippets for THUMOS14: 16 frames around every 5th frame, two streams",
        source="snippets of BSN (Lin et al., ECCV 2018; interval 5 on THUMOS14), network input as in "
        "Finspire13/pytorch-i3d-feature-extraction d7f5452; no released code makes these",
        features={
            "i3d": {
                "layer": "features",
                "sampling": {"fps": None, "frames": 17, "step": 5, "centred": True},
                "weights": {"card": "kinetics-both"},
                **_TWO_STREAMS,
            }
        },
        rows="ceil(F / 5)",
        weights="rgb_imagenet.pt and flow_imagenet.pt, joined (clipmill weights join)",
        differs=("BSN's own released features are TSN's class scores, 400 numbers, not I3D's", JPEG),
    ),
    "rc3d-activitynet": Preset(
        summary="R-C3D's proposal features on ActivityNet: fc6 of the best 64, 768 of every 8th frame at 25 a second",
        source=f"{RC3D_PYTORCH} (preprocess/activitynet, lib/model)",
        features={"rc3d": _RC3D},
        rows="64 a clip",
        weights="tdcnn_<session>_<epoch>_<step>.pth of the ActivityNet model",
        differs=_RC3D_DIFFERS,
    ),
    "rc3d-thumos14": Preset(
        summary="R-C3D's proposal features on THUMOS14: fc6 of the best 64, buffers of 768 frames at 25 a second",
        source=f"{RC3D_PYTORCH} (preprocess/thumos14, lib/model)",
        features={
            "rc3d": {
                "layer": "fc6",
                "options": {"form": "pytorch-thumos14", "top": 64},
                # The script stores frames by OpenCV's resize of whole grey levels.
                "preprocess": {"resize_precision": None},
                "sampling": {
                    "fps": 25,
                    "rounding": "ffmpeg_r",
                    "frames": 768,
                    "every": 1,
                    "step": 192,
                    "tail": "both_ways",
                },
            }
        },
        rows="64 a clip",
        weights="tdcnn_<session>_<epoch>_<step>.pth of the THUMOS14 model",
        differs=(JPEG, _RC3D_DIFFERS[1]),
    ),
    "map-ivr": Preset(
        summary="MAP-IVR's inputs: R-C3D's proposal features (extractor rc3d) and one frame's VGG-16 fc7 (vgg16)",
        source=f"the slides of MAP-IVR (AAAI 2021); proposals as {RC3D_PYTORCH}; APIVR's release has 64 a video",
        features={
            "rc3d": _RC3D,
            "vgg16": {
                "layer": "fc7",
                "sampling": {"random_frames": 1, "seed": 0},
                "weights": {"card": "imagenet-torchvision"},
            },
        },
        rows="rc3d: 64 a clip; vgg16: 1 a clip",
        weights="R-C3D's ActivityNet model; vgg16-397923af.pth",
        differs=(
            *_RC3D_DIFFERS,
            "not published: how many proposals, by which confidence, which VGG-16 file and layer, PCA to 128 or not",
        ),
    ),
    "cpnet-kinetics": Preset(
        summary="CPNet on Kinetics: mean features of 8 clips x 6 crops",
        source="xingyul/cpnet b484782 (evaluate.py, utils)",
        features={
            "cpnet": {
                "layer": "features",
                "options": {"depth": 18},
                "sampling": {
                    "fps": 24,
                    "rounding": "ffmpeg_r",
                    "frames": 12,
                    "every": 2,
                    "uniform_windows": 8,
                    "tail": "loop",
                },
                "preprocess": {"crops": "six"},
                "pooling": "mean",
                "weights": {"card": "kinetics-resnet18"},
            }
        },
        rows="1 a clip",
        weights="a checkpoint of c2d_resnet18_cp_112 on Kinetics (none is public)",
        differs=(
            "the code averages class probabilities; here features are averaged",
            "how Kinetics' clips were sampled is not in the code: 12 frames, every 2nd, are its training clips",
            JPEG,
        ),
    ),
    "semart-resnet50": Preset(
        summary="SemArt's images: ResNet-50's 1000 outputs before softmax, one frame a second of a video",
        source="noagarcia/SemArt bc695a0 (test.py, model.py)",
        features={
            "resnet50": {
                "layer": "logits",
                "sampling": {"fps": 1, "frames": 1},
                "weights": {"card": "imagenet-v1"},
            }
        },
        rows="S, rounded up",
        weights="resnet50-0676ba61.pth (SemArt had its predecessor, resnet50-19c8e357.pth)",
        differs=("the code is for pictures; a rate of one frame a second is ours",),
    ),
    "rmac-oxford": Preset(
        summary="R-MAC as on Oxford and Paris: VGG-16's pool5, long side 1024, three scales, PCA whitening",
        source="Tolias et al., ICLR 2016, as re-implemented in noagarcia/SimNet 75e4b0f",
        features={
            "rmac": {
                "layer": "descriptor",
                "sampling": {"fps": 1, "frames": 1},
                "options": {"network": "vgg16", "grid": "rmac", "levels": 3, "overlap": 0.4},
                "weights": {"card": "imagenet-caffe"},
            }
        },
        rows="S, rounded up",
        weights="VGG_ILSVRC_16_layers.caffemodel",
        needs=("options.whitening",),
        differs=("the filter of the resize is not stated: ours is Pillow's antialiased bilinear",),
    ),
    "keras-rmac": Preset(
        summary="R-MAC as keras_rmac gives it: its resize by nearest pixels, and its swapped channel means",
        source="noagarcia/keras_rmac d40ff4d (rmac.py, utils.py)",
        features={
            "rmac": {
                "layer": "descriptor",
                "sampling": {"fps": 1, "frames": 1},
                "options": {"network": "vgg16", "grid": "rmac", "levels": 3, "overlap": 0.4, "means": "krmac"},
                # Image.resize without a filter, which was nearest until Pillow 7.
                "preprocess": {"interpolation": "pillow_nearest"},
                "weights": {"card": "imagenet-caffe"},
            }
        },
        rows="S, rounded up",
        weights="vgg16_weights_th_dim_ordering_th_kernels.h5 (the Caffe model's numbers)",
        needs=("options.whitening",),
        differs=("both sides are rounded up there by a factor of its own; the far side can be a pixel longer",),
    ),
}


def preset(name: str) -> Preset:
    """Returns the preset of that name.

    Raises:
        UsageError: there is none; near names are listed.
    """
    if name in PRESETS:
        return PRESETS[name]
    raise UsageError(f"preset {name}: expected one of clipmill presets, got an unknown name; {near(name, PRESETS)}")


def expand(name: str, feature: FeatureConfig) -> FeatureConfig:
    """Returns `feature` with its preset's keys written out, where it has one; keys beside `preset` stand.

    Args:
        name: of the feature; it chooses the extractor where the preset has several.

    Raises:
        UsageError: no such preset, none of its extractors is meant, or a file it cannot name is missing.
    """
    if feature.preset is None:
        return feature
    where = f"features.{name}"
    found = preset(feature.preset)
    extractor = feature.extractor or (next(iter(found.features)) if len(found.features) == 1 else name)
    if extractor not in found.features:
        expected = " or ".join(found.features)
        got = f"{extractor} with preset: {feature.preset}"
        raise UsageError(describe(where, "extractor", expected, got, f"write extractor: {next(iter(found.features))}"))
    written = feature.model_dump(mode="json", exclude_unset=True, exclude={"preset", "extractor"})
    merged = written_out(extractor, found.features[extractor], written)
    for dotted in found.needs:
        group, key = dotted.split(".")
        if not merged[group].get(key):
            expected = f"a value (preset {feature.preset} is not the published one without it)"
            raise UsageError(describe(f"{where}.{group}", key, expected, "none", "see docs/presets.md"))
    return validate(FeatureConfig, merged, where)


def written_out(extractor: str, keys: Keys, written: Keys) -> dict[str, Any]:
    """Returns the keys of a feature that a preset's `keys` and those `written` beside it make together."""
    merged = dict(keys) | dict(written) | {"extractor": extractor}
    for group in ("options", "preprocess", "sampling"):
        merged[group] = dict(keys.get(group) or {}) | dict(written.get(group) or {})
    merged["sampling"] = _sampling(merged["sampling"], dict(written.get("sampling") or {}))
    # Which weights is never the preset's to say, only what frames they expect.
    given = written.get("weights")
    merged["weights"] = dict(keys.get("weights") or {}) | dict(given) if given else None
    return merged


def _sampling(merged: dict[str, Any], written: Keys) -> dict[str, Any] | None:
    """Drops what a written key makes meaningless: the preset's grid under random frames, its rule without a rate."""
    if written.get("random_frames") is not None:
        merged = dict(written)
    if written.get("fps", 1) is None and "rounding" not in written:
        merged.pop("rounding", None)
    if written.get("step") is not None:
        merged = {key: value for key, value in merged.items() if key in written or key != "uniform_windows"}
    return merged or None
