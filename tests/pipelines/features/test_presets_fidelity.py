"""Every preset against a plain re-reading of its repository's sampling and preprocessing, on a real clip.

What is compared is the network's input: every number of every window, before the first convolution. For the small
networks, and one window of the large ones, also what the network makes of it, with random weights.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from clipmill.extractors import registry
from clipmill.extractors.crops import AveragedCrops, cut
from clipmill.extractors.preprocess import values_of
from clipmill.extractors.presets import PRESETS
from clipmill.extractors.torch_extractor import affine
from clipmill.jobs.presets import recipes
from clipmill.pipelines.decode.probe import content_fingerprint
from clipmill.pipelines.decode.session import DecodedFrame, DecodeSession
from clipmill.pipelines.features.assemble import WindowAssembler
from clipmill.pipelines.features.prepare import prepare
from clipmill.pipelines.features.resampling import ffmpeg_r
from clipmill.pipelines.features.row_counts import expected_rows
from clipmill.schemas.recipe import Preprocess, Recipe
from clipmill.schemas.records import Video
from tests.ffmpeg_frames import by_fps_filter, rgb_frames

Frame = npt.NDArray[np.uint8]
Input = npt.NDArray[np.float32]
CLIP, FPS = "clips/topics70/christmas/0.mp4", 25
"""122 frames of 426 x 240 at 25 a second."""


class Read:
    """What the re-readings start from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frames = rgb_frames(path)

    def by_filter(self, fps: int) -> list[Frame]:
        return [self.frames[index] for index in by_fps_filter(self.path, fps)]

    def by_r(self, fps: int) -> list[Frame]:
        times = np.arange(len(self.frames)) / FPS
        return [self.frames[index] for index in ffmpeg_r(times, len(self.frames) / FPS, fps)]


@pytest.fixture(scope="module")
def read(shared_data: Path) -> Read:
    return Read(shared_data / CLIP)


def c3d_500(read: Read) -> list[Input]:
    """C3D's Caffe input: 171 x 128, BGR, channel means, rows 8 to 119 and columns 29 to 140."""
    frames = []
    for frame in read.frames:
        bgr = cv2.resize(frame[:, :, ::-1].copy(), (171, 128)).astype(np.float32)
        bgr -= np.array([90.25, 97.66, 101.41], np.float32)
        frames.append(bgr[8:120, 29:141, ::-1])
    return [np.stack(frames[start : start + 16]) for start in range(0, len(frames) - 15, 8)]


def scaled(frame: Frame, least: float, always: bool) -> Frame:
    """pytorch-i3d's and VSLNet's loaders: short side by a factor, RGB, no crop yet."""
    rows, columns, _ = frame.shape
    if always or rows < least or columns < least:
        factor = 1 + (least - min(rows, columns)) / min(rows, columns)
        return np.asarray(cv2.resize(frame, dsize=(0, 0), fx=factor, fy=factor))
    return frame


def centre_crop(frames: npt.NDArray[Any]) -> Input:
    top = int(np.round((frames.shape[1] - 224) / 2.0))
    left = int(np.round((frames.shape[2] - 224) / 2.0))
    return np.asarray(frames[:, top : top + 224, left : left + 224], np.float32)


def charades(read: Read) -> Input:
    frames = [(scaled(frame, 226.0, False) / 255.0) * 2 - 1 for frame in read.by_filter(24)]
    return centre_crop(np.asarray(frames, np.float32))


def vslnet(images: Input, window: int) -> list[Input]:
    found = []
    total = len(images)
    for start in range(0, total, window):
        end = min(total - 1, start + window)
        if end - start < window:
            start = max(0, end - window)
        found.append(images[start:end])
    return found


def charades_lgi(read: Read) -> list[Input]:
    """One pass over the whole video: its frames; the last window of 256 is filled up and cut again by the network."""
    return [charades(read)]


def charades_vslnet(read: Read) -> list[Input]:
    return vslnet(charades(read), 24)


def activitynet_vslnet(read: Read) -> list[Input]:
    frames = [(scaled(frame, 224.0, True) / 255.0) * 2 - 1 for frame in read.frames]
    return vslnet(centre_crop(np.asarray(frames, np.float32)), 16)


def video_features(read: Read) -> list[Input]:
    found: list[Input] = []
    stack: list[Input] = []
    for frame in read.frames:
        image = Image.fromarray(frame)
        width, height = image.size
        size = (256, int(256 * height / width)) if width < height else (int(256 * width / height), 256)
        stack.append(np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32))
        if len(stack) - 1 == 64:
            clip = np.stack(stack[:-1])
            top, left = (clip.shape[1] - 224) // 2, (clip.shape[2] - 224) // 2
            found.append(2 * clip[:, top : top + 224, left : left + 224] / 255 - 1)
            stack = stack[64:]
    return found


def thumos_frames(read: Read) -> list[Input]:
    return [cv2.resize(frame, (340, 256))[16:240, 58:282].astype(np.float32) * 2 / 255 - 1 for frame in read.frames]


def actionformer(read: Read) -> list[Input]:
    """The rgb stream; the flow stream has one frame less, and the release as many rows as the shorter one."""
    frames = thumos_frames(read)
    num_flows = len(frames) - 1
    last = (num_flows - 16) // 4 * 4
    return [np.stack(frames[start : start + 16]) for start in range(0, last + 1, 4)]


def bsn(read: Read) -> list[Input]:
    frames = thumos_frames(read)
    padded = [frames[0]] * 8 + frames + [frames[-1]] * 8
    return [np.stack(padded[centre : centre + 16]) for centre in range(0, len(frames), 5)]


def rc3d(frames: list[Frame], win: int, stride: int, in_float: bool) -> list[Input]:
    """roidb of a video, both ways, and ``prep_im_for_blob``."""
    length, step = len(frames), win // 4
    spans = {(start, min(start + win, length)) for start in range(0, max(1, length - win + 1), step)}
    spans |= {(end - win, end) for end in range(length, win - 1, -step)}
    found = []
    for start, end in sorted(spans):
        video = []
        for index in range(start, end, stride):
            bgr = frames[index][:, :, ::-1].copy()
            if not in_float:
                bgr = np.asarray(cv2.resize(bgr, (171, 128), interpolation=cv2.INTER_LINEAR))
            image = cv2.resize(bgr.astype(np.float32), (171, 128), interpolation=cv2.INTER_LINEAR)
            image -= np.array([90, 98, 102], np.float32)
            video.append(image[8 : 8 + 112, 29 : 29 + 112, ::-1])
        found.append(np.stack(video + [video[-1]] * (768 - len(video))))
    return found


def cpnet(read: Read) -> list[Input]:
    """Eight clips of stored frames, six crops each: clips first, crops innermost."""
    stored = []
    for frame in read.by_r(24):
        rows, columns = frame.shape[:2]
        stored.append(cv2.resize(frame, (int(128 * (columns / float(rows))), 128)))
    necessary = 12 * 2
    step = max(0, len(stored) - necessary) / 7
    found = []
    mean = np.array([0.485, 0.456, 0.406]) * 255
    std = np.array([0.229, 0.224, 0.225]) * 255
    for number in range(8):
        start = min(len(stored) - 1, int(number * step))
        clip = stored[start : start + necessary : 2]
        for index in range(12):
            if len(clip) >= 12:
                break
            clip.append(clip[index])
        images = []
        for image in clip:
            columns = int(112.0 * image.shape[1] / image.shape[0] / 2) * 2
            resized = cv2.resize(image, (columns, 112), interpolation=cv2.INTER_LINEAR).astype(np.float32)
            images.append((resized - mean) / std)
        video = np.stack(images).astype(np.float32)
        fifth = (video.shape[2] - 112) // 5
        found += [video[:, :, :112], video[:, :, -112:]]
        found += [video[:, :, fifth * part : fifth * part + 112] for part in (1, 2, 3, 4)]
    return found


def imagenet(frame: Frame) -> Input:
    """torchvision's Resize(256), CenterCrop(224), ToTensor and Normalize on a PIL image."""
    image = Image.fromarray(frame)
    width, height = image.size
    size = (256, int(256 * height / width)) if width < height else (int(256 * width / height), 256)
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    top, left = int(round((size[1] - 224) / 2.0)), int(round((size[0] - 224) / 2.0))
    values = pixels[top : top + 224, left : left + 224].astype(np.float32) / 255
    return np.asarray([(values - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])], np.float32)


def semart(read: Read) -> list[Input]:
    return [imagenet(frame) for frame in read.frames[::FPS]]


def rmac(read: Read) -> list[Input]:
    found = []
    for frame in read.frames[::FPS]:
        image = Image.fromarray(frame).resize((1024, int(np.ceil(1024 / 426 * 240))), Image.Resampling.BILINEAR)
        found.append(np.asarray([np.asarray(image, np.float32) - np.array([123.68, 116.779, 103.939])], np.float32))
    return found


def keras_rmac(read: Read) -> list[Input]:
    """Its means are subtracted from channels still in RGB order, then reversed; here channels stay RGB."""
    found = []
    for frame in read.frames[::FPS]:
        image = Image.fromarray(frame)
        scale = 1024 / max(image.size)
        size = (int(np.ceil(scale * image.size[0])), int(np.ceil(scale * image.size[1])))
        x = np.asarray(image.resize(size, Image.Resampling.NEAREST), np.float32).copy()
        x[:, :, 0] -= 103.939
        x[:, :, 1] -= 116.779
        x[:, :, 2] -= 123.68
        found.append(x[np.newaxis])
    return found


REREAD: dict[tuple[str, str], Callable[[Read], list[Input]]] = {
    ("activitynet-c3d-500", "c3d"): c3d_500,
    ("charades-i3d-lgi", "i3d"): charades_lgi,
    ("charades-i3d-vslnet", "i3d"): charades_vslnet,
    ("activitynet-i3d-vslnet", "i3d"): activitynet_vslnet,
    ("video-features-i3d", "i3d"): video_features,
    ("thumos14-i3d-actionformer", "i3d"): actionformer,
    ("thumos14-i3d-bsn", "i3d"): bsn,
    ("rc3d-activitynet", "rc3d"): lambda read: rc3d(read.by_r(25), 6144, 8, True),
    ("rc3d-thumos14", "rc3d"): lambda read: rc3d(read.by_r(25), 768, 1, False),
    ("cpnet-kinetics", "cpnet"): cpnet,
    ("semart-resnet50", "resnet50"): semart,
    ("rmac-oxford", "rmac"): rmac,
    ("keras-rmac", "rmac"): keras_rmac,
}
"""By preset and extractor. MAP-IVR has a test of its own."""


def windows_of(recipe: Recipe, path: Path) -> list[list[Frame]]:
    """Returns the prepared frames of each window, as a build decodes and assembles them."""
    item = prepare(Video("v", str(path), fingerprint=content_fingerprint(str(path))), [recipe])
    assert item.request is not None
    windows = [window for group in item.windows[recipe.fingerprint] for window in group.windows]
    assembler = WindowAssembler(windows)
    found: dict[int, list[Frame]] = {}
    with DecodeSession() as session:
        for event in session.run([item.request]):
            if isinstance(event, DecodedFrame):
                for index, _, frames in assembler.add(event.frame, event.pixels):
                    found[index] = frames
    return [found[index] for index in range(len(windows))]


def arithmetic(frames: Frame, preprocess: Preprocess) -> Input:
    """The numbers the network is given, channels RGB and last, of ``uint8[T, H, W, C]``."""
    scale, shift = (tensor.flatten().numpy() for tensor in affine(preprocess, 4))
    return np.asarray(values_of(frames, preprocess).astype(np.float32) * scale + shift, np.float32)


def every(window: Sequence[Any]) -> int:
    """Of R-C3D's 768 frames each 7th is compared: the rest would only take time."""
    return 7 if len(window) == 768 else 1


def test_every_preset_is_held_against_a_re_reading() -> None:
    wanted = {(name, extractor) for name, found in PRESETS.items() for extractor in found.features}
    assert wanted - set(REREAD) == {("map-ivr", "vgg16"), ("map-ivr", "rc3d")}


@pytest.mark.parametrize(("name", "extractor"), REREAD)
def test_windows_and_pixels_are_the_repositorys(read: Read, name: str, extractor: str) -> None:
    recipe = recipes(PRESETS[name])[extractor]
    preprocess = recipe.preprocess
    expected = REREAD[name, extractor](read)
    found = windows_of(recipe, read.path)
    if name == "charades-i3d-lgi":
        found = [window[: len(expected[0])] for window in found]
    inputs: list[Input] = []
    for window in found:
        window = window[:: every(window)]
        if "stream" in recipe.options and recipe.options["stream"] == "both":
            frames = np.stack(window[:-1])[:, 16:240, 58:282]
            inputs.append(arithmetic(frames, preprocess))
        elif preprocess.crops is not None:
            inputs += [arithmetic(crop[0], preprocess) for crop in cut(np.stack(window)[np.newaxis], preprocess)]
        else:
            inputs.append(arithmetic(np.stack(window), preprocess))
    assert len(inputs) == len(expected)
    for ours, theirs in zip(inputs, expected, strict=True):
        theirs = theirs[:: every(theirs)]
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(float(np.abs(theirs).max()), 1))


def test_map_ivr_is_r_c3ds_proposals_and_one_frame_as_torchvision_prepares_it(read: Read) -> None:
    assert PRESETS["map-ivr"].features["rc3d"] == PRESETS["rc3d-activitynet"].features["rc3d"]
    recipe = recipes(PRESETS["map-ivr"])["vgg16"]
    (window,) = windows_of(recipe, read.path)
    ours = arithmetic(np.stack(window), recipe.preprocess)
    assert min(float(np.abs(ours - imagenet(frame)).max()) for frame in read.frames) < 1e-5


@pytest.mark.parametrize("num_frames", [20, 97, 122, 129, 300])
def test_rows_are_as_many_as_the_preset_says(num_frames: int) -> None:
    frames, at_24 = num_frames, int(num_frames * 24 / 25 + 0.5)
    formulas = {
        "activitynet-c3d-500": (frames - 16) // 8 + 1,
        "charades-i3d-lgi": -(-at_24 // 8) - 1,
        "charades-i3d-vslnet": 2 * -(-at_24 // 24) if at_24 >= 25 else -(-(at_24 - 1) // 8) - 1,
        "activitynet-i3d-vslnet": -(-frames // 16),
        "video-features-i3d": (frames - 1) // 64,
        "thumos14-i3d-actionformer": (frames - 17) // 4 + 1,
        "thumos14-i3d-bsn": -(-frames // 5),
        "cpnet-kinetics": 1,
        "semart-resnet50": -(-frames // 25),
        "rmac-oxford": -(-frames // 25),
        "keras-rmac": -(-frames // 25),
        "rc3d-activitynet": 64,
        "rc3d-thumos14": 64,
        "map-ivr": 64,
    }
    assert set(formulas) == set(PRESETS)
    for name, rows in formulas.items():
        recipe = next(iter(recipes(PRESETS[name]).values()))
        assert expected_rows(recipe, num_frames, 25.0) == rows, name


def test_vslnets_rows_are_the_networks_on_its_own_input(read: Read) -> None:
    """Two vectors of each 24 frames: one window through I3D, ours from pixels, theirs from their input."""
    recipe = recipes(PRESETS["charades-i3d-vslnet"])["i3d"]
    extractor: Any = registry.build(recipe, "cpu")
    window = np.stack(windows_of(recipe, read.path)[-1])
    found = extractor.forward(window[np.newaxis])["values"]
    clip = torch.from_numpy(charades_vslnet(read)[-1]).permute(3, 0, 1, 2)[None]
    with torch.inference_mode():
        expected = extractor._networks["rgb"].features(clip)[0].T.numpy()
    assert found.shape == (1, 2, 1024)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))


def test_c3ds_row_is_the_networks_on_its_own_input(read: Read) -> None:
    recipe = recipes(PRESETS["activitynet-c3d-500"])["c3d"]
    extractor: Any = registry.build(recipe, "cpu")
    window = np.stack(windows_of(recipe, read.path)[3])
    found = extractor.forward(window[np.newaxis])["values"][0]
    clip = torch.from_numpy(c3d_500(read)[3].copy()).permute(3, 0, 1, 2)[None]
    with torch.inference_mode():
        expected = extractor.network(clip)[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))


def test_cpnets_row_is_the_networks_on_its_own_input(read: Read) -> None:
    """Of one crop: that rows are the mean over crops is in tests/extractors/test_crops.py."""
    recipe = recipes(PRESETS["cpnet-kinetics"])["cpnet"]
    averaged = registry.build(recipe, "cpu")
    assert isinstance(averaged, AveragedCrops)
    one: Any = registry.build(recipe.model_copy(update={"preprocess": one_crop(recipe.preprocess)}), "cpu")
    window = np.stack(windows_of(recipe, read.path)[7])[np.newaxis]
    found = one.forward(cut(window, recipe.preprocess)[1])["values"][0]
    with torch.inference_mode():
        expected = one.network(torch.from_numpy(cpnet(read)[6 * 7 + 1]).permute(0, 3, 1, 2)[None])[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))


def one_crop(preprocess: Preprocess) -> Preprocess:
    return preprocess.model_copy(update={"crops": None})
