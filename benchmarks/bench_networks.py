"""Prints how much faster each way of running a network is than eager PyTorch, and how far off its numbers are.

    python -m benchmarks.bench_networks [NAME...] [--threads 2] [--repeat 5] [--wall] [--ways openvino ...]

Ways: `eager` (PyTorch, channels first), `channels-last` (what extractors do), `compile` (the same by `torch.compile`,
which wants a C++ compiler), `openvino`, `onnxruntime` (a recipe's `runtime`), and in bfloat16 `channels-last-bf16` and
`openvino-bf16`. All run in one process on the same ready batch of the extractor's batch size and take turns; the median
of the rounds counts, its spread is that of the middle half.
Times are processor times of all threads, which other work on the machine disturbs least; `--wall` takes the clock's.
The error is the length of the difference from eager over that of eager's output. Weights are random.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from clipmill.extractors.c3d.network import C3D
from clipmill.extractors.compiled_network import CompiledNetwork, relative_error
from clipmill.extractors.i3d.network import ENDPOINTS, Endpoint, InceptionI3D
from clipmill.extractors.rc3d.build import RANDOM_INPUT_SCALE
from clipmill.extractors.rc3d.network import RC3D
from clipmill.extractors.rc3d.releases import RELEASES
from clipmill.extractors.resnet50.network import ResNet50
from clipmill.extractors.resolve import resolve_recipe
from clipmill.extractors.squeezenet.network import SqueezeNet
from clipmill.extractors.torch_extractor import seeded
from clipmill.extractors.vgg16.network import VGG16
from clipmill.schemas.config import DecodeConfig, FeatureConfig, WeightsConfig
from clipmill.schemas.errors import UsageError
from clipmill.schemas.recipe import ClipRule

RC3D_FRAMES = 64
"""Of the buffer R-C3D's trunk is timed on: the trunk's cost is in proportion to it."""


class _Trunk(nn.Module):
    """R-C3D's trunk without its slabs, which bound memory and change nothing else."""

    def __init__(self, network: RC3D) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Tensor) -> Tensor:
        return self.network.trunk(clips)


def _i3d() -> nn.Module:
    network = seeded(0, lambda: InceptionI3D("rgb", None))
    network.fold_batch_norm()
    return Endpoint(network, ENDPOINTS[-1])


def _resnet50() -> nn.Module:
    network = seeded(0, lambda: ResNet50("features"))
    network.fold_batch_norm()
    return network


def _rc3d() -> nn.Module:
    network = seeded(0, lambda: RC3D(RELEASES["pytorch-thumos14"]))
    with torch.no_grad():
        network.get_parameter("conv1a.weight").mul_(RANDOM_INPUT_SCALE)
    return _Trunk(network)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float]] = {
    "c3d": (lambda: seeded(0, C3D), (4, 3, 16, 112, 112), 128.0),
    "i3d": (_i3d, (1, 3, 64, 224, 224), 1.0),
    "rc3d": (_rc3d, (1, 3, RC3D_FRAMES, 112, 112), 128.0),
    "resnet50": (_resnet50, (16, 3, 224, 224), 1.0),
    "squeezenet": (lambda: seeded(0, SqueezeNet), (16, 3, 227, 227), 128.0),
    "vgg16": (lambda: seeded(0, VGG16), (8, 3, 224, 224), 1.0),
}
"""Name -> its network, the shape of a batch, and the largest value of its inputs."""

WAYS = ("eager", "channels-last", "compile", "openvino", "onnxruntime", "channels-last-bf16", "openvino-bf16")


def way_of(way: str, name: str, network: nn.Module, inputs: Tensor) -> Callable[[], Tensor]:
    """Returns what runs `network` on `inputs` that way."""
    if way == "eager":
        return lambda: network(inputs)
    last = torch.channels_last if inputs.dim() == 4 else torch.channels_last_3d
    runtime, _, precision = way.partition("-")
    if runtime in ("channels", "compile"):
        dtype = torch.bfloat16 if way.endswith("bf16") else torch.float32
        moved = copy.deepcopy(network).to(dtype).to(memory_format=last)  # type: ignore[call-overload]
        ready = inputs.to(dtype).contiguous(memory_format=last)
        # Frozen weights are packed once, as the other runtimes do.
        run = torch.compile(moved, options={"freezing": True}) if runtime == "compile" else moved
        return lambda: run(ready).float()
    feature = FeatureConfig(
        weights=WeightsConfig(random=0),
        runtime=runtime,  # type: ignore[arg-type]
        precision="bfloat16" if precision else "float32",
    )
    recipe = resolve_recipe(name, feature, ClipRule(), DecodeConfig())
    run = CompiledNetwork(network, recipe, inputs[:1])
    ready = inputs.contiguous(memory_format=last)
    return lambda: run(ready)


def measure(name: str, ways: list[str], repeat: int, now: Callable[[], float]) -> None:
    """Prints one network's lines."""
    make, shape, largest = NETWORKS[name]
    network = make().eval()
    inputs = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1) * largest
    runs: dict[str, Callable[[], Tensor]] = {}
    errors: dict[str, float] = {}
    starts: dict[str, float] = {}
    with torch.inference_mode():
        expected = network(inputs).double()
        for way in ways:
            started = now()
            try:
                runs[way] = way_of(way, name, network, inputs)
                errors[way] = relative_error(runs[way]().double(), expected)
                starts[way] = now() - started
            except UsageError as error:
                print(f"{name:11}{way:19} {error}", flush=True)
        times: dict[str, list[float]] = {way: [] for way in runs}
        for _ in range(repeat):
            for way, run in runs.items():
                started = now()
                run()
                times[way].append(now() - started)
    eager = statistics.median(times["eager"])
    for way, found in times.items():
        middle = statistics.median(found)
        quarters = statistics.quantiles(found, n=4) if len(found) > 1 else [middle] * 3
        print(
            f"{name:11}{way:19} {middle / shape[0]:8.4f} s a window (middle half {quarters[0] / shape[0]:.4f} to "
            f"{quarters[2] / shape[0]:.4f}), {eager / middle:5.2f} times eager, error {errors[way]:.1e}, "
            f"{starts[way]:.1f} s until the first batch was through",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Ways of running a network against eager PyTorch.")
    parser.add_argument("names", nargs="*", default=[], help=f"of {', '.join(NETWORKS)}; default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--wall", action="store_true", help="time by the clock, on a machine that does nothing else")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS), help="default: all; eager is always run")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(NETWORKS))
    if unknown:
        parser.error(f"names: expected some of {', '.join(NETWORKS)}, got {', '.join(unknown)}")
    torch.set_num_threads(arguments.threads)
    ways = [way for way in WAYS if way == "eager" or way in arguments.ways]
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    for name in arguments.names or list(NETWORKS):
        measure(name, ways, arguments.repeat, time.perf_counter if arguments.wall else time.process_time)


if __name__ == "__main__":
    main()
