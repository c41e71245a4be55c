"""Holds networks against the public code itself, and prints rows for docs/fidelity.md.

    python -m benchmarks.fidelity_networks --repositories DIR

DIR has checkouts by their names: pytorch-i3d, video_features, R-C3D.pytorch, cnnimageretrieval-pytorch, keras_rmac; one
that is not there is left out. Their networks and functions are run as they stand, with the same random weights and the
same input as ours; what their files import beside torch and is not needed for that is stood in for. torchvision's RAFT
is compared where torchvision is installed. Nothing of them is copied here.
"""

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from clipmill.extractors import registry
from clipmill.extractors.flow import FlowOptions, make_flow
from clipmill.extractors.i3d.layouts import layouts as i3d_layouts
from clipmill.extractors.i3d.network import InceptionI3D
from clipmill.extractors.rc3d.resnet import Stage, Trunk, head_features
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.torch_extractor import seeded
from clipmill.extractors.vgg16.build import network_of
from clipmill.extractors.weights import digest
from clipmill.pipelines.features.extraction import RecipeExtraction
from clipmill.pipelines.features.windows import clip_windows
from clipmill.schemas.config import DecodeConfig, FeatureConfig
from clipmill.schemas.recipe import ClipRule, Recipe
from clipmill.schemas.records import Clip

Pixels = npt.NDArray[np.uint8]
AGREES = 1e-5
"""ours: float32 sums in another order, through up to fifty layers."""
STEP_LENGTHS = (9, 64, 255, 256, 257, 258, 301, 410)


class Row(NamedTuple):
    """One row of the table: `error` is the largest difference, relative to the largest of their values."""

    extractor: str
    implementation: str
    compared: str
    error: float


def loaded(path: Path, stand_ins: dict[str, Any] | None = None) -> ModuleType:
    """Returns a module of a checkout, run as it stands, with `stand_ins` for modules it imports and does not need."""
    for name, content in (stand_ins or {}).items():
        module = ModuleType(name)
        module.__dict__.update(content)
        sys.modules[name] = module
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recipe(extractor: str, **written: Any) -> Recipe:
    """Returns a recipe of random weights, unless it says others."""
    written.setdefault("weights", {"random": 0})
    return resolve_recipe(extractor, FeatureConfig.model_validate(written), ClipRule(), DecodeConfig())


def noise(*shape: int, seed: int = 0) -> Pixels:
    """Returns random pixels."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def relative(found: npt.ArrayLike, expected: npt.ArrayLike) -> float:
    """Returns the largest difference as a share of the largest expected value."""
    theirs = np.asarray(expected, dtype=np.float64)
    return float(np.abs(np.asarray(found, dtype=np.float64) - theirs).max() / np.abs(theirs).max())


def batch_norms(network: nn.Module, seed: int) -> None:
    """Gives batch norms statistics that are not those of the start, so that they are seen."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)


def published_i3d(name: str, network: InceptionI3D, path: Path) -> Path:
    """Writes the network's weights as the layout `name` has them."""
    layout = next(item for item in i3d_layouts("rgb") if item.name == name)
    own = network.state_dict()
    torch.save({published: own[key] for published, (key, _) in layout.keys.items()}, path)
    return path


def i3d_clip(frames: Pixels) -> Tensor:
    """Returns ``float[1, 3, T, H, W]`` in [-1, 1]."""
    return torch.from_numpy(frames.astype(np.float32) * (2 / 255) - 1).permute(3, 0, 1, 2)[None].contiguous()


def i3d_steps(root: Path, folder: Path) -> Iterator[Row]:
    """piergiaj's whole-video pass, at every kind of length, beside rows of ``steps`` made window by window."""
    theirs = loaded(root / "pytorch_i3d.py").InceptionI3d(400, in_channels=3).eval()
    network = seeded(1, lambda: InceptionI3D("rgb"))
    batch_norms(network, 2)
    path = published_i3d("i3d_piergiaj_rgb_imagenet", network, folder / "rgb_imagenet.pt")
    theirs.load_state_dict(torch.load(path, weights_only=True), strict=False)
    found = recipe("i3d", options={"steps": True}, weights={"file": str(path)})
    extractor = registry.build(found, "cpu")
    errors = []
    for num_frames in STEP_LENGTHS:
        # Their last pool is 7 x 7 cells: frames of 224.
        side = 224 if num_frames <= 64 else 32
        frames = noise(num_frames, side, side, 3, seed=num_frames)
        if side != 224:
            theirs.avg_pool = nn.AvgPool3d((2, 1, 1), stride=1)
        with torch.inference_mode():
            expected = theirs.extract_features(i3d_clip(frames))[0, :, :, 0, 0].T.numpy()
        clip = Clip(0, 0.0, num_frames / 25)
        group = clip_windows(np.arange(num_frames) / 25, clip.stop_seconds, clip, found.sampling, "video")
        extraction = RecipeExtraction(found, extractor, 2)
        extraction.start_video(0, [clip], [group])
        for index, frame in enumerate(frames):
            extraction.add_frame(0, index, frame)
        extraction.flush()
        errors.append(relative(extraction.finished()[0].values, expected))
    compared = (
        f"`steps`, clips of {', '.join(map(str, STEP_LENGTHS))} frames, against `extract_features` of the whole clip"
    )
    yield Row("i3d", "piergiaj/pytorch-i3d", compared, max(errors))


def i3d_of_video_features(root: Path, folder: Path) -> Iterator[Row]:
    """video_features' copy of the network, with its batch norm's epsilon and with ours."""
    module = loaded(root / "models" / "i3d" / "i3d_src" / "i3d_net.py")
    theirs = module.I3D(num_classes=400, modality="rgb").eval()
    network = seeded(1, lambda: InceptionI3D("rgb"))
    batch_norms(network, 2)
    path = published_i3d("i3d_hassony2_rgb", network, folder / "i3d_rgb.pt")
    theirs.load_state_dict(torch.load(path, weights_only=True), strict=False)
    frames = noise(16, 224, 224, 3, seed=5)
    with torch.inference_mode():
        features = theirs(i3d_clip(frames), features=True)
        expected = np.asarray(features).reshape(1, -1)
    for options, compared in (
        ({"batch_norm_epsilon": 1e-5}, "features of 16 frames of 224 x 224, `batch_norm_epsilon: 1e-5`"),
        ({}, "the same with TensorFlow's 1e-3, the default"),
    ):
        found = recipe("i3d", options=options, sampling={"frames": 16}, weights={"file": str(path)})
        values = registry.build(found, "cpu").forward(frames[None])["values"]
        yield Row("i3d", "v-iashin/video_features", compared, relative(values, expected))


def rc3d_resnets(root: Path, folder: Path) -> Iterator[Row]:
    """The 3D ResNets of R-C3D.pytorch: trunk and head on random weights under the release's keys."""
    stand_ins = {
        "model": {},
        "model.tdcnn": {},
        "model.utils": {},
        "model.tdcnn.tdcnn": {"_TDCNN": object},
        "model.utils.config": {"cfg": SimpleNamespace()},
    }
    # Written for PyTorch 0.4: the name is the same function's without its underscore.
    nn.init.kaiming_normal = nn.init.kaiming_normal_  # type: ignore[attr-defined]
    module = loaded(root / "lib" / "model" / "tdcnn" / "resnet.py", stand_ins)
    for depth, make in ((18, module.resnet18), (34, module.resnet34), (50, module.resnet50)):
        kind = "B" if depth == 50 else "A"
        theirs = make(sample_size=112, sample_duration=768, shortcut_type=kind).eval()
        batch_norms(theirs, depth)
        trunk, top = Trunk(depth).eval(), Stage(depth, 3, 2).eval()
        state = theirs.state_dict()
        trunk.load_state_dict({key: value for key, value in state.items() if key.split(".")[0] in STEM})
        top.load_state_dict({key[7:]: value for key, value in state.items() if key.startswith("layer4.")})
        clip = torch.randn(1, 3, 16, 56, 56, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            base = nn.Sequential(*(getattr(theirs, name) for name in (*STEM[:2], "relu", "maxpool", *STEM[2:])))
            maps = base(clip)
            expected = theirs.layer4(maps).mean(4).mean(3).mean(2)
            error = max(relative(trunk(clip), maps), relative(head_features(top, maps), expected))
        yield Row("rc3d", "sunnyxiaohu/R-C3D.pytorch", f"3D ResNet-{depth}: maps and head, 16 frames of 56 x 56", error)


STEM = ("conv1", "bn1", "layer1", "layer2", "layer3")


def rmac_of_cnnimageretrieval(root: Path, folder: Path) -> Iterator[Row]:
    """Pools of cnnimageretrieval on maps of VGG-16, and its plain R-MAC."""
    module = loaded(root / "cirtorch" / "layers" / "functional.py")
    kept = {"resize": "none", "size": []}
    base = recipe("rmac", preprocess=kept)
    network = network_of(base, "conv5_3").eval()
    frames = noise(1, 1, 160, 256, 3, seed=2)
    bgr = frames[:, 0, :, :, ::-1] - np.array([103.939, 116.779, 123.68])
    with torch.inference_mode():
        maps = network.features[:-1](torch.from_numpy(bgr.astype(np.float32)).permute(0, 3, 1, 2))
        for name, function in (("mac", module.mac), ("spoc", module.spoc), ("gem", module.gem), ("rmac", module.rmac)):
            expected = module.l2n(function(maps)).flatten(1).numpy()
            own: dict[str, Any] = {"mac": True} if name == "rmac" else {"pool": name}
            found = recipe("rmac", options=own | {"last_pool": False}, preprocess=kept)
            values = registry.build(found, "cpu").forward(frames)["values"]
            compared = f"`{name}` of VGG-16's maps, one frame of 256 x 160"
            yield Row("rmac", "filipradenovic/cnnimageretrieval-pytorch", compared, relative(values, expected))


def keras_rmacs_matrix(root: Path, folder: Path) -> Iterator[Row]:
    """The published PCAmatrices.mat as a whitening, against its Dense layer written in NumPy."""
    from scipy.io import loadmat

    path = root / "data" / "PCAmatrices.mat"
    content = loadmat(path)
    kept = {"resize": "none", "size": []}
    frames = noise(1, 1, 160, 256, 3, seed=2)
    plain = recipe("rmac", layer="regions", options={"means": "krmac"}, preprocess=kept)
    vectors = np.asarray(registry.build(plain, "cpu").forward(frames)["values"], dtype=np.float64)
    whitened = vectors @ content["weights"].T + content["bias"][:, 0]
    whitened /= np.linalg.norm(whitened, axis=-1, keepdims=True)
    found = recipe("rmac", layer="regions", options={"means": "krmac", "whitening": str(path)}, preprocess=kept)
    values = registry.build(found, "cpu").forward(frames)["values"]
    yield Row(
        "rmac",
        "noagarcia/keras_rmac, data/PCAmatrices.mat",
        "whitened regional vectors of one frame",
        relative(values, whitened),
    )


def raft() -> Iterator[Row]:
    """torchvision's RAFT, with as many updates as video_features makes and princeton-vl's padding."""
    from torchvision.models import optical_flow

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "raft.pth"
        network = optical_flow.raft_small(weights=None).eval()
        torch.save(network.state_dict(), path)
        frames = noise(2, 130, 150, 3, seed=4)
        sides = [1, 1, 3, 3]
        images = [torch.from_numpy(frame).permute(2, 0, 1)[None].float() for frame in frames]
        images = [2 * (nn.functional.pad(image, sides, mode="replicate") / 255) - 1 for image in images]
        with torch.inference_mode():
            expected = network(*images, num_flow_updates=20)[-1][0, :, 3:133, 1:151].numpy()
        options = FlowOptions(
            method="raft", raft="small", weights=str(path), sha256=digest(str(path)), updates=20, padding="both"
        )
        found = make_flow(options, "cpu")(frames[0], frames[1])
    yield Row(
        "flow: raft",
        "torchvision",
        "RAFT small, 20 updates, padded on both sides, 150 x 130",
        relative(found, expected),
    )


CHECKS: dict[str, Callable[[Path, Path], Iterator[Row]]] = {
    "pytorch-i3d": i3d_steps,
    "video_features": i3d_of_video_features,
    "R-C3D.pytorch": rc3d_resnets,
    "cnnimageretrieval-pytorch": rmac_of_cnnimageretrieval,
    "keras_rmac": keras_rmacs_matrix,
}


def main() -> None:
    """Prints one row of the table for each comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repositories", type=Path, required=True)
    folder = parser.parse_args().repositories
    print("| extractor | public implementation | compared | error | verdict |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for name, check in CHECKS.items():
            if (folder / name).is_dir():
                for row in check(folder / name, Path(temporary)):
                    _print(row)
            else:
                print(f"{name} is not in {folder}", file=sys.stderr)
    try:
        for row in raft():
            _print(row)
    except (ImportError, RuntimeError) as error:
        print(f"torchvision: {error}", file=sys.stderr)


def _print(row: Row) -> None:
    verdict = "agrees" if row.error <= AGREES else "differs"
    print(f"| {row.extractor} | {row.implementation} | {row.compared} | {row.error:.1e} | {verdict} |", flush=True)


if __name__ == "__main__":
    main()
