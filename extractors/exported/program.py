"""What an exported program is to the pipeline, in whatever file: its input, its outputs, and a way to run it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from clipmill.schemas.errors import WeightsError, describe

if TYPE_CHECKING:
    from torch import Tensor

Axes = Literal["nchw", "ncthw", "ntchw"]

FLOATS = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class TensorInterface:
    """One input or output of a program.

    Attributes:
        shape: its axes; None for one whose length is left open.
        dtype: by NumPy's name, or PyTorch's where NumPy has none.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    @property
    def shown(self) -> str:
        """Such as ``float32[N, 3, 224, 224] pixel_values``."""
        sizes = ", ".join(
            "N" if axis is None and not index else "?" if axis is None else str(axis)
            for index, axis in enumerate(self.shape)
        )
        return f"{self.dtype}[{sizes}] {self.name}"


@dataclass(frozen=True, slots=True)
class Interface:
    """The one input of a program and its outputs, in the file's order.

    Attributes:
        most_windows: the largest batch it takes; None: any.
        producer: what wrote the file, for people.
        num_parameters: of its weights.
    """

    input: TensorInterface
    outputs: tuple[TensorInterface, ...]
    most_windows: int | None = None
    producer: str = ""
    num_parameters: int = 0

    def output(self, name: str) -> TensorInterface:
        """Returns the output of that name.

        Raises:
            KeyError: there is none.
        """
        return {output.name: output for output in self.outputs}[name]


class Program(Protocol):
    """A program on a device."""

    @property
    def interface(self) -> Interface:
        """Its input and outputs."""
        ...

    def run(self, frames: "Tensor", output: str) -> "Tensor":
        """Returns the output of that name for ``float[N, ...]``, the axes in the program's order."""
        ...


@dataclass(frozen=True, slots=True)
class FrameAxes:
    """How the input's axes are frames: the layout, and every length that the program fixes (None: left open)."""

    axes: Axes
    num_channels: int
    num_frames: int | None
    rows: int | None
    columns: int | None


def frame_axes(path: str, interface: Interface, wanted: Axes | None) -> FrameAxes:
    """Returns how the program's input is frames.

    Args:
        wanted: what the recipe says, where the shape alone does not tell.

    Raises:
        WeightsError: the input is neither frames nor clips, the batch is fixed, or the axes are not those wanted.
    """
    given = interface.input
    if given.dtype not in FLOATS:
        raise refused(
            path, f"an input of {' or '.join(FLOATS)}", given.shown, "export the network without its own scaling"
        )
    if len(given.shape) not in (4, 5):
        expected = "an input [N, C, H, W] or [N, C, T, H, W] or [N, T, C, H, W]"
        raise refused(path, expected, given.shown, "export the part of the network that takes frames")
    if given.shape[0] is not None:
        remedy = f"export it with dynamic_shapes={{'{given.name}': {{0: torch.export.Dim('batch')}}}}"
        raise refused(path, "a batch axis of open length", f"a batch of {given.shape[0]} ({given.shown})", remedy)
    axes = _axes(path, given, wanted)
    sizes: Mapping[str, int | None] = dict(zip(axes, given.shape, strict=True))
    channels = sizes["c"]
    if channels not in (1, 3):
        expected = "1 or 3 channels of fixed number"
        raise refused(path, f"{expected} ({axes})", given.shown, "export with the number of channels fixed")
    return FrameAxes(axes, channels, sizes.get("t", 1), sizes["h"], sizes["w"])


def _axes(path: str, given: TensorInterface, wanted: Axes | None) -> Axes:
    possible: list[Axes] = ["nchw"] if len(given.shape) == 4 else ["ncthw", "ntchw"]
    if wanted is not None:
        if wanted not in possible:
            raise refused(path, f"options.axes {' or '.join(possible)} for {given.shown}", wanted, "correct it")
        return wanted
    fitting = [axes for axes in possible if given.shape[axes.index("c")] in (1, 3)]
    certain = [axes for axes in fitting if given.shape[axes.index("c")] == 3] or fitting
    if len(certain) > 1:
        got = f"{given.shown}, which may be either"
        raise refused(path, "options.axes ncthw or ntchw", got, "set options: {axes: ncthw} or {axes: ntchw}")
    return certain[0] if certain else possible[0]


def refused(path: str, expected: str, got: str, remedy: str) -> WeightsError:
    """Returns the one line for a program that cannot be used."""
    return WeightsError(describe("program", path, expected, got, remedy))
