"""Prints what an extractor adds to its bare network, as a ratio in one run: the same batch, the same threads.

    python -m benchmarks.bench_extractors [NAME...] [--device cuda] [--threads 1] [--repeat 3] [--precision bfloat16]

`forward` is the whole of `Extractor.forward`: uint8 frames to float32 rows, with channel order, scale and mean. `bare`
is the network alone on a ready batch of the same precision, in the memory layout that is the faster one of the two,
where it lies: on a GPU, `forward` has the way there and back to pay besides. Times are processor times (on a GPU, of
the clock until it is done), rounds alternate, and the best of each counts, so that a busy machine blurs little. With
another precision, the relative error against float32 is printed as well.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from clipmill.extractors import registry
from clipmill.extractors.c3d.network import C3D
from clipmill.extractors.i3d.network import InceptionI3D
from clipmill.extractors.preprocess import output_shape
from clipmill.extractors.resnet50.network import ResNet50
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.squeezenet.network import SqueezeNet
from clipmill.extractors.torch_extractor import PRECISIONS, seeded
from clipmill.extractors.vgg16.network import VGG16
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.recipe import ClipRule, Recipe

SOURCE = (256, 340)


def _c3d() -> Callable[[Tensor], Tensor]:
    return seeded(0, C3D).eval()


def _i3d() -> Callable[[Tensor], Tensor]:
    network = seeded(0, lambda: InceptionI3D("rgb")).eval()
    network.fold_batch_norm()
    return network.features


def _resnet50() -> Callable[[Tensor], Tensor]:
    network = seeded(0, lambda: ResNet50("features")).eval()
    network.fold_batch_norm()
    return network


def _squeezenet() -> Callable[[Tensor], Tensor]:
    return seeded(0, SqueezeNet).eval()


def _vgg16() -> Callable[[Tensor], Tensor]:
    return seeded(0, VGG16).eval()


BARE = {"c3d": _c3d, "i3d": _i3d, "resnet50": _resnet50, "squeezenet": _squeezenet, "vgg16": _vgg16}


def best_seconds(functions: Sequence[Callable[[], object]], repeat: int, device: str) -> list[float]:
    """Returns the least time of each function; they take turns."""
    best = [float("inf")] * len(functions)
    for _ in range(repeat + 1):  # The first round warms up, and rarely is the best.
        for index, function in enumerate(functions):
            start = _now(device)
            function()
            best[index] = min(best[index], _now(device) - start)
    return best


def _now(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def recipe_of(name: str, precision: str) -> Recipe:
    """Returns the recipe of the defaults under random weights."""
    feature = FeatureConfig.model_validate({"weights": WeightsConfig(random=0), "precision": precision})
    return resolve_recipe(name, feature, ClipRule(), DecodeConfig())


def batch_of(recipe: Recipe) -> npt.NDArray[np.uint8]:
    """Returns a batch of noise, as many windows as the card hints."""
    shape = output_shape(recipe.preprocess, *SOURCE)
    windows = registry.card_of(recipe).batch_windows
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (windows, recipe.sampling.frames or 1, *shape), dtype=np.uint8)


def measure(name: str, repeat: int, precision: str, device: str) -> None:
    """Prints one extractor's line."""
    recipe = recipe_of(name, precision)
    frames = batch_of(recipe)
    extractor = registry.build(recipe, device)
    network = BARE[name]()
    inputs = torch.from_numpy(frames.astype(np.float32) / 255).permute(0, 4, 1, 2, 3).to(device, PRECISIONS[precision])
    if frames.shape[1] == 1:
        inputs = inputs[:, :, 0]
    owner = network if isinstance(network, nn.Module) else getattr(network, "__self__", None)
    last = torch.channels_last if inputs.dim() == 4 else torch.channels_last_3d
    plain = inputs.contiguous()
    with torch.inference_mode():
        if isinstance(owner, nn.Module):
            move: Callable[..., nn.Module] = owner.to
            move(device, PRECISIONS[precision])
        forward, first = best_seconds([lambda: extractor.forward(frames), lambda: network(plain)], repeat, device)
        if isinstance(owner, nn.Module):
            move(memory_format=last)
        inputs = inputs.contiguous(memory_format=last)
        pair: list[Callable[[], object]] = [lambda: extractor.forward(frames), lambda: network(inputs)]
        again, channels_last = best_seconds(pair, repeat, device)
    forward, bare = min(forward, again), min(first, channels_last)
    line = (
        f"{name:12}{len(frames):4} windows: forward {len(frames) / forward:8.2f}/s, bare {len(frames) / bare:8.2f}/s, "
        f"ratio {bare / forward:5.3f}; channels last is {first / channels_last:4.2f} times as fast as first"
    )
    if precision != "float32":
        exact = registry.build(recipe_of(name, "float32"), device).forward(frames)["values"].astype(np.float64)
        values = extractor.forward(frames)["values"].astype(np.float64)
        line += f"; {precision} error {np.linalg.norm(values - exact) / np.linalg.norm(exact):.1e}"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Extractors against their bare networks.")
    parser.add_argument(
        "names", nargs="*", default=[], help=f"of {', '.join(BARE)}; default: all but i3d, which is slow"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--precision", choices=("float32", "float16", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(BARE))
    if unknown:
        parser.error(f"names: expected some of {', '.join(BARE)}, got {', '.join(unknown)}")
    torch.set_num_threads(arguments.threads)
    for name in arguments.names or [name for name in BARE if name != "i3d"]:
        measure(name, arguments.repeat, arguments.precision, arguments.device)


if __name__ == "__main__":
    main()
