"""Holds extractors against the public code itself, and prints the rows of docs/fidelity.md.

    python -m benchmarks.fidelity --repositories DIR --video FILE

DIR has checkouts by their names: pytorch-i3d, VSLNet, video_features, R-C3D, R-C3D.pytorch, cpnet, keras_rmac,
pytorch-i3d-feature-extraction; one that is not there is left out. Their functions are run as they stand (those of
scripts that start working when they are imported are taken out of their source), on frames of FILE without a JPEG in
between, and networks with random weights of theirs. Nothing of them is copied here.
"""

import argparse
import ast
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from clipmill.extractors import registry
from clipmill.extractors.crops import cut
from clipmill.extractors.preprocess import apply_geometry, values_of
from clipmill.extractors.presets import PRESETS
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.rmac.options import RMACOptions
from clipmill.extractors.rmac.regions import regions
from clipmill.extractors.torch_extractor import affine
from clipmill.jobs.presets import recipes
from clipmill.pipelines.decode.probe import content_fingerprint
from clipmill.pipelines.decode.session import DecodedFrame, DecodeSession
from clipmill.pipelines.features.assemble import WindowAssembler
from clipmill.pipelines.features.prepare import prepare
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.recipe import ClipRule, Preprocess, Recipe
from clipmill.schemas.records import Video

Array = npt.NDArray[Any]
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: `error` is the largest difference, relative to the largest number of theirs."""

    extractor: str
    repository: str
    compared: str
    error: float
    expected_to_differ: str = ""

    def line(self, commit: str) -> str:
        """Returns the line in Markdown."""
        verdict = "the same" if self.error == 0 else "agrees" if self.error <= TOLERANCE else "differs"
        if self.expected_to_differ:
            verdict += f": {self.expected_to_differ}"
        return f"| {self.extractor} | {self.repository} {commit} | {self.compared} | {self.error:.1e} | {verdict} |"


def difference(ours: Array, theirs: Array) -> float:
    """Returns the largest difference over the largest number of theirs; infinity for other shapes."""
    if ours.shape != theirs.shape:
        return float("inf")
    scale = max(float(np.abs(theirs).max()), 1e-12)
    return float(np.abs(ours.astype(np.float64) - theirs).max()) / scale


def module(path: Path) -> ModuleType:
    """Returns a file as a module of its own name; its folder is on the path while it is imported."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    found = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(found)
    finally:
        sys.path.remove(str(path.parent))
    return found


def definitions(path: Path, names: set[str], **namespace: Any) -> SimpleNamespace:
    """Returns functions and classes of a script without running the rest of it."""
    tree = ast.parse(path.read_text())
    wanted = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names]
    exec(compile(ast.Module(wanted, []), str(path), "exec"), namespace)
    return SimpleNamespace(**{name: namespace[name] for name in names})


def windows_of(recipe: Recipe, path: Path) -> list[Array]:
    """Returns the prepared frames ``uint8[T, H, W, C]`` of each window, as a build makes them."""
    item = prepare(Video("v", str(path), fingerprint=content_fingerprint(str(path))), [recipe])
    if item.request is None:
        raise item.failures[0][1]
    windows = [window for group in item.windows[recipe.fingerprint] for window in group.windows]
    assembler = WindowAssembler(windows)
    found: dict[int, Array] = {}
    with DecodeSession() as session:
        for event in session.run([item.request]):
            if isinstance(event, DecodedFrame):
                for index, _, frames in assembler.add(event.frame, event.pixels):
                    found[index] = np.stack(frames)
    return [found[index] for index in range(len(windows))]


def arithmetic(frames: Array, preprocess: Preprocess) -> Array:
    """Returns the numbers a network is given, channels RGB and last."""
    scale, shift = (tensor.flatten().numpy() for tensor in affine(preprocess, 4))
    return np.asarray(values_of(frames, preprocess).astype(np.float32) * scale + shift)


def decoded(recipe: Recipe, path: Path) -> list[Array]:
    """Returns the frames, unchanged, that `recipe` samples of the video, in order and once each."""
    plain = recipe.model_copy(
        update={
            "preprocess": Preprocess(),
            "sampling": recipe.sampling.model_copy(
                update={"frames": 1, "step": 1, "every": 1, "tail": "drop", "block_frames": None, "frames_after": None}
            ),
        }
    )
    return [window[0] for window in windows_of(plain, path)]


@contextmanager
def as_images(frames: list[Array], pattern: str) -> Iterator[Path]:
    """Writes frames where code looks for JPEGs; they are PNGs inside, which OpenCV reads as what they are."""
    with tempfile.TemporaryDirectory() as folder:
        for number, frame in enumerate(frames, start=1):
            path = Path(folder) / pattern.format(number)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(cv2.imencode(".png", np.ascontiguousarray(frame[:, :, ::-1]))[1].tobytes())
        yield Path(folder)


def pytorch_i3d(root: Path, video: Path) -> list[Row]:
    """Charades' loader, and the network."""
    loader = definitions(root / "charades_dataset_full.py", {"load_rgb_frames"}, cv2=cv2, np=np, os=__import__("os"))
    crop = module(root / "videotransforms.py").CenterCrop(224)
    recipe = recipes(PRESETS["charades-i3d-lgi"])["i3d"]
    frames = decoded(recipe, video)
    with as_images(frames, "v/v-{:06d}.jpg") as folder:
        theirs = crop(loader.load_rgb_frames(str(folder), "v", 1, len(frames)))
    ours = np.stack([arithmetic(apply_geometry(frame, recipe.preprocess), recipe.preprocess) for frame in frames])
    what = f"loader and crop, {len(frames)} frames"
    rows = [Row("charades-i3d-lgi", "piergiaj/pytorch-i3d", what, difference(ours, theirs))]
    network = module(root / "pytorch_i3d.py").InceptionI3d(400, in_channels=3)
    rows.append(_network(network, lambda clip: network.extract_features(clip).mean(2), "piergiaj/pytorch-i3d"))
    return rows


def _network(network: Any, features: Callable[[Any], Any], repository: str, why: str = "") -> Row:
    """Compares a public I3D with ours, given its own random weights by way of a file."""
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("running_mean"):
            value.normal_(0, 0.1, generator=generator)
    network.eval()
    frames = np.random.default_rng(0).integers(0, 256, (1, 16, 224, 224, 3), dtype=np.uint8)
    with tempfile.NamedTemporaryFile(suffix=".pt") as file, torch.inference_mode():
        torch.save(network.state_dict(), file.name)
        feature = FeatureConfig.model_validate(
            {"sampling": {"frames": 16}, "weights": {"file": file.name, "card": "kinetics-rgb"}}
        )
        recipe = resolve_recipe("i3d", feature, ClipRule(), DecodeConfig())
        ours = registry.build(recipe, "cpu").forward(frames)["values"]
        clip = torch.from_numpy(arithmetic(frames, recipe.preprocess)).permute(0, 4, 1, 2, 3).contiguous()
        theirs = features(clip).reshape(1, -1).numpy()
    return Row("i3d", repository, "network, 16 frames of 224x224", difference(np.asarray(ours), theirs), why)


def vslnet(root: Path, video: Path) -> list[Row]:
    """ActivityNet's loader and both scripts' windows."""
    seen: list[Array] = []

    class Recorder:
        def extract_features(self, clip: Array) -> SimpleNamespace:
            seen.append(clip[0].transpose(1, 2, 3, 0))
            return SimpleNamespace(data=SimpleNamespace(cpu=lambda: SimpleNamespace(numpy=lambda: np.zeros((1, 1)))))

    names = {"load_images", "extract_features"}
    script = definitions(
        root / "prepare" / "extract_activitynet.py",
        names,
        cv2=cv2,
        np=np,
        os=__import__("os"),
        torch=SimpleNamespace(from_numpy=lambda array: SimpleNamespace(cuda=lambda: array)),
        Variable=lambda array, volatile: array,
    )
    crop = module(root / "prepare" / "videotransforms.py").CenterCrop(224)
    rows = []
    recipe = recipes(PRESETS["activitynet-i3d-vslnet"])["i3d"]
    frames = decoded(recipe, video)
    with as_images(frames, "v-{:06d}.jpg") as folder:
        images = crop(np.asarray(script.load_images(str(folder), "v", 1, len(frames))[0], dtype=np.float32))
    for preset in ("activitynet-i3d-vslnet", "charades-i3d-vslnet"):
        recipe = recipes(PRESETS[preset])["i3d"]
        if preset.startswith("charades"):
            images = np.stack(
                [arithmetic(apply_geometry(f, recipe.preprocess), recipe.preprocess) for f in decoded(recipe, video)]
            )
        seen.clear()
        window = recipe.sampling.frames
        script.extract_features(torch.from_numpy(images.transpose(3, 0, 1, 2)[None].copy()), Recorder(), window)
        ours = [arithmetic(found, recipe.preprocess) for found in windows_of(recipe, video)]
        error = max(difference(a, b) for a, b in zip(ours, seen, strict=True)) if len(ours) == len(seen) else np.inf
        what = f"{len(seen)} windows of {window}" + (", all pixels" if preset.startswith("activitynet") else "")
        rows.append(Row(preset, "26hzhang/VSLNet", what, float(error)))
    return rows


def video_features(root: Path, video: Path) -> list[Row]:
    """Pixels, and the network with its batch norm."""
    transforms = module(root / "models" / "transforms.py")
    recipe = recipes(PRESETS["video-features-i3d"])["i3d"]
    frames = decoded(recipe, video)
    resize = transforms.ResizeImproved(256)
    stack = torch.stack([transforms.PILToTensor()(resize(Image.fromarray(frame))).float() for frame in frames])
    theirs = transforms.ScaleTo1_1()(transforms.TensorCenterCrop(224)(stack)).permute(0, 2, 3, 1).numpy()
    ours = np.stack([arithmetic(apply_geometry(frame, recipe.preprocess), recipe.preprocess) for frame in frames])
    what = f"resize, crop and scale, {len(frames)} frames"
    rows = [Row("video-features-i3d", "v-iashin/video_features", what, difference(ours, theirs))]
    network = module(root / "models" / "i3d" / "i3d_src" / "i3d_net.py").I3D(num_classes=400, modality="rgb")
    why = "its batch norm has epsilon 1e-5"
    rows.append(_network(network, lambda clip: network(clip, features=True), "v-iashin/video_features", why))
    return rows


def _rc3d(path: Path, repository: str, video: Path) -> list[Row]:
    prep = definitions(path, {"prep_im_for_blob"}, cv2=cv2, np=np).prep_im_for_blob
    recipe = recipes(PRESETS["rc3d-activitynet"])["rc3d"]
    frames = decoded(recipe, video)
    means = np.array([[[90, 98, 102]]])
    theirs = [prep(np.ascontiguousarray(f[:, :, ::-1]), means, (171, 128), 112, [29, 8])[:, :, ::-1] for f in frames]
    ours = [arithmetic(apply_geometry(frame, recipe.preprocess), recipe.preprocess) for frame in frames]
    error = difference(np.stack(ours), np.stack(theirs))
    return [Row("rc3d-activitynet", repository, f"prep_im_for_blob, {len(frames)} frames", error)]


def cpnet(root: Path, video: Path) -> list[Row]:
    """Stored frames and evaluation's transforms."""
    stored = definitions(root / "utils" / "gulpio" / "gulpio_utils.py", {"resize_by_short_edge"}, cv2=cv2)
    transforms = definitions(
        root / "utils" / "dataloader_utils" / "spatial_transforms.py",
        {"Resize", "CenterCrop", "ToNormalizedTensor"},
        cv2=cv2,
        np=np,
    )
    normalise = transforms.ToNormalizedTensor([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    recipe = recipes(PRESETS["cpnet-kinetics"])["cpnet"]
    preprocess = recipe.preprocess.model_copy(update={"crops": None})
    grid = recipe.sampling.model_copy(update={"uniform_windows": None})
    frames = decoded(recipe.model_copy(update={"sampling": grid}), video)
    resize, crop = transforms.Resize(112), transforms.CenterCrop(112)
    theirs = [normalise(crop(resize(stored.resize_by_short_edge(frame, 128)))) for frame in frames]
    ours = [arithmetic(apply_geometry(frame, preprocess), preprocess) for frame in frames]
    error = difference(np.stack(ours), np.stack(theirs))
    return [Row("cpnet-kinetics", "xingyul/cpnet", f"stored and evaluated frames, {len(frames)}", error)]


def ten_crops(root: Path, video: Path) -> list[Row]:
    """The crops of two-stream I3D on THUMOS14."""
    script = definitions(root / "extract_features.py", {"oversample_data"}, np=np)
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 256, 340, 3), dtype=np.uint8)
    theirs = script.oversample_data(frames)
    ours = cut(frames, Preprocess(crop=(224, 224), crops="ten"))
    error = max(difference(a, b) for a, b in zip(ours, theirs, strict=True))
    return [Row("crops: ten", "Finspire13/pytorch-i3d-feature-extraction", "10 crops of 256x340", error)]


def keras_rmac(root: Path, video: Path) -> list[Row]:
    """The regions of maps of all sizes from 3 to 40."""
    script = module(root / "get_regions.py")
    # NumPy has these names no longer; only their numbers are wanted.
    script.np = SimpleNamespace(**vars(np) | {"float": float, "int": int})
    theirs = script.rmac_regions
    num_different = 0
    sizes = [(width, height) for width in range(3, 41) for height in range(3, 41)]
    for width, height in sizes:
        ours = {(r.left, r.top, r.width, r.height) for r in regions(width, height, RMACOptions())}
        num_different += ours != {tuple(int(value) for value in region) for region in theirs(width, height, 3)}
    what = f"regions of {len(sizes)} map sizes"
    why = f"a float of theirs falls a cell short in {num_different} elongated maps" if num_different else ""
    return [Row("keras-rmac", "noagarcia/keras_rmac", what, num_different / len(sizes), why)]


CHECKS: dict[str, Callable[[Path, Path], list[Row]]] = {
    "pytorch-i3d": pytorch_i3d,
    "VSLNet": vslnet,
    "video_features": video_features,
    "R-C3D": lambda root, video: _rc3d(root / "lib/utils/blob.py", "VisionLearningGroup/R-C3D", video),
    "R-C3D.pytorch": lambda root, video: _rc3d(root / "lib/model/utils/blob.py", "sunnyxiaohu/R-C3D.pytorch", video),
    "cpnet": cpnet,
    "pytorch-i3d-feature-extraction": ten_crops,
    "keras_rmac": keras_rmac,
}
"""By the name of the checkout."""


def main() -> None:
    """Prints a row for each comparison; the exit code is 1 if one differs that is not expected to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=Path, required=True)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--only", choices=CHECKS, nargs="*", default=list(CHECKS))
    arguments = parser.parse_args()
    wrong = 0
    for name in arguments.only:
        root = arguments.repositories / name
        if not root.is_dir():
            print(f"{name}: no checkout in {arguments.repositories}, left out", file=sys.stderr)
            continue
        asked = ["git", "-C", str(root), "rev-parse", "--short=7", "HEAD"]
        commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
        for row in CHECKS[name](root, arguments.video):
            print(row.line(commit or "(no git)"), flush=True)
            wrong += row.error > TOLERANCE and not row.expected_to_differ
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
