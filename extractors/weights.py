"""Reading weights files without running what is in them, and recognising the published layouts.

torch is imported only when a file is read.
"""

import hashlib
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from math import prod
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from clipmill.extractors.caffe import read_caffemodel
from clipmill.extractors.keras import HDF5_START, read_keras_weights
from clipmill.schemas.errors import WeightsError, describe

if TYPE_CHECKING:
    from torch import Tensor, nn

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "backbone.")
COUNTER = "num_batches_tracked"
"""Batch norm's counter: files of PyTorch 0.3 have none, and inference needs none."""
NUMPY_MODULES = ("numpy._core.multiarray", "numpy.core.multiarray")
"""Where NumPy 2 and NumPy 1 say that an array comes from."""
GLOBAL_STEP = "global_step"
"""TensorFlow's counter of training steps."""
SHOWN_KEYS = 4
DIGEST_CHUNK_BYTES = 4 << 20
CAFFEMODEL_START = b"\n"
"""The first byte of a serialised NetParameter: the tag of its name."""
SAFETENSORS = ".safetensors"
"""By which such a file is known: its first bytes are a length, which may be any."""
MOST_CLASSES = 21_841
MAX_PICKLES = 8
"""A legacy file is a few pickles in a row: magic number, version, system, content, keys."""
PLAIN_GLOBALS = re.compile(
    r"torch (\w*Storage|device|Size|float\d*|double|half)$|torch\._utils _rebuild|torch\.storage "
    r"|collections OrderedDict$|_codecs encode$|numpy\S* (_reconstruct|scalar|ndarray|dtype|\w+DType)$"
)
"""What weights files name that is data, not code of somebody's: ``module name``."""
GLOBAL_NAME = re.compile(r"[\w.]+ [\w.]+")
"""What a pickle can name. Text that happens to begin like a pickle (a table with a column ``id``) names anything."""

Shape = tuple[int | None, ...]


def _as_published(key: str, tensor: "Tensor") -> "Tensor":
    return tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """How one published file names its tensors.

    Attributes:
        name: such as ``c3d_sports1m_jfzhang95``; recorded in the recipe.
        card: name of the weights card whose preprocessing applies.
        keys: published key to (our key, shape as published); None in a shape stands for any number (classes).
        num_classes: rows of the last layer, where the layout fixes another number than the extractor's card says.
        lacks: layers that such a file cannot give, because their tensors are not in it.
        others: further cards whose files have these keys and shapes: then the digest tells which applies, or the user.
        convert: ``(our key, tensor as published) -> tensor as the network has it``.
    """

    name: str
    card: str
    keys: Mapping[str, tuple[str, Shape]]
    num_classes: int | None = None
    lacks: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    convert: "Callable[[str, Tensor], Tensor]" = _as_published

    @property
    def cards(self) -> tuple[str, ...]:
        """The names of all cards whose files have this layout."""
        return (self.card, *self.others)

    def count_classes(self, shapes: Mapping[str, Sequence[int]]) -> int | None:
        """Returns the number of classes of a file with this layout, or None where it does not tell."""
        free = {shapes[key][0] for key, (_, shape) in self.keys.items() if shape and shape[0] is None and key in shapes}
        return free.pop() if len(free) == 1 else self.num_classes


def digest(path: str) -> str:
    """Returns the SHA-256 of the file; remembered within this process for as long as the file stays as it is.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        status = os.stat(path)
        return _digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        remedy = "correct the path, or write weights: {random: 0} to try the pipeline without"
        raise _unreadable(path, error, remedy) from None


@lru_cache(maxsize=64)
def _digest(path: str, num_bytes: int, modified_ns: int) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(DIGEST_CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()


def check_digest(path: str, sha256: str, of: Callable[[str], str] = digest) -> None:
    """Makes sure that the file is still the one a recipe was resolved with.

    Args:
        of: what the digest of a file is.

    Raises:
        WeightsError: it is not.
    """
    found = of(path)
    if found != sha256:
        remedy = "put the file back, or build again with the new one"
        raise WeightsError(describe("weights", path, f"SHA-256 {sha256[:12]}...", f"{found[:12]}...", remedy))


def largest_bytes(layouts: Sequence[Layout]) -> int:
    """Returns how many bytes a file of one of the layouts may unpack to: its numbers in double precision.

    ours: a last layer of unknown length counts as ImageNet's 21,841 classes.
    """
    sizes = [
        sum(prod(MOST_CLASSES if size is None else size for size in shape) for _, shape in layout.keys.values())
        for layout in layouts
    ]
    return 8 * max(sizes, default=0)


def read_state_dict(path: str, most_bytes: int | None = None) -> dict[str, "Tensor"]:
    """Returns the tensors of a weights file by key, unwrapped from ``state_dict`` and the like, without ``module.``.

    PyTorch files, both zip and legacy, are read with an unpickler that builds tensors, NumPy arrays and plain
    containers only. ``.npz`` files, Caffe models and Keras's HDF5 are recognised by their first bytes, safetensors by
    its suffix; the keys of a Caffe or Keras model are ``<layer>[0]`` (weight) and ``<layer>[1]`` (bias).

    Args:
        most_bytes: what a compressed file may unpack to; None: eight times its own size and 64 MiB (ours).

    Raises:
        WeightsError: unreadable, truncated, no weights file, one that would run code when loaded, or a small one that
            unpacks to more.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(1)
    except OSError as error:
        raise _unreadable(path, error, "correct the path") from None
    _check_unpacked(path, most_bytes)
    if head == CAFFEMODEL_START and not path.endswith(SAFETENSORS):
        content: Any = _read_caffemodel(path)
    elif path.endswith(SAFETENSORS):
        content = _read_safetensors(path)
    elif _is_npz(path):
        content = _read_npz(path)
    elif _is_hdf5(path):
        content = _read_keras(path)
    else:
        content = _read_torch(path)
    return _tensors(path, content)


def _check_unpacked(path: str, most_bytes: int | None) -> None:
    """Refuses an archive whose members unfold to more than its network has, by the sizes it declares.

    What is read is never more than is declared: the readers stop there, and then miss the rest or the checksum.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if all(member.compress_type == zipfile.ZIP_STORED for member in members):
        return
    most = most_bytes if most_bytes is not None else 8 * os.path.getsize(path) + (64 << 20)
    unpacked = sum(member.file_size for member in members)
    if unpacked > most:
        got = f"{os.path.getsize(path):,} bytes that unpack to {unpacked:,}"
        remedy = "get the file from its publisher, or save it uncompressed"
        raise WeightsError(describe("weights", path, f"at most {most:,} bytes of numbers", got, remedy))


def _unreadable(path: str, error: OSError, remedy: str) -> WeightsError:
    return WeightsError(describe("weights", path, "a readable file", error.strerror or str(error), remedy))


def _foreign(path: str, expected: str, error: Exception) -> WeightsError:
    first = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
    return WeightsError(describe("weights", path, expected, f"truncated or foreign data ({first})", "fetch it again"))


def _read_caffemodel(path: str) -> dict[str, Any]:
    try:
        found = read_caffemodel(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise _foreign(path, "a Caffe model", error) from None
    if not found:
        raise _foreign(path, "a Caffe model", ValueError("no layer has numbers; is it the prototxt?"))
    return found


def _read_safetensors(path: str) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, ValueError, KeyError) as error:
        raise _foreign(path, "a safetensors file", error) from None
    except OSError as error:
        raise _unreadable(path, error, "correct the path") from None


def _is_npz(path: str) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def _read_npz(path: str) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, zipfile.BadZipFile, EOFError, OSError, MemoryError) as error:
        if "allow_pickle" in str(error):
            raise _refused(path, ["pickled objects"]) from None
        raise _foreign(path, "a NumPy .npz file", error) from None


def _is_hdf5(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(len(HDF5_START)) == HDF5_START


def _read_keras(path: str) -> dict[str, Any]:
    try:
        return read_keras_weights(path)
    except ValueError as error:
        raise _foreign(path, "weights saved by Keras (HDF5)", error) from None


def _read_torch(path: str) -> Any:
    import torch

    multiarray: Any = np._core.multiarray  # type: ignore[attr-defined]
    numpy_arrays: list[Any] = [
        *(
            (getattr(multiarray, name), f"{module}.{name}")
            for name in ("_reconstruct", "scalar")
            for module in NUMPY_MODULES
        ),
        np.ndarray,
        np.dtype,
        *(type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64, np.int32, np.int64)),
    ]
    try:
        with torch.serialization.safe_globals(numpy_arrays), warnings.catch_warnings():
            # torch's advice on odd files is for programmers; what is wrong with a file is said below.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _unreadable(path, error, "correct the path") from None
    except pickle.UnpicklingError:
        named = [name for name in _named_globals(path) if GLOBAL_NAME.fullmatch(name) and not PLAIN_GLOBALS.match(name)]
        if named:
            raise _refused(path, named) from None
        raise _foreign(path, "a PyTorch weights file", ValueError("no pickle of tensors")) from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        if "TorchScript" in str(error):
            got, remedy = "a TorchScript program (not run)", "save the state_dict of the module in it"
            raise WeightsError(describe("weights", path, "tensors", got, remedy)) from None
        raise _foreign(path, "a PyTorch weights file", error) from None


def _refused(path: str, named: Sequence[str]) -> WeightsError:
    shown = ", ".join(name.replace(" ", ".") for name in dict.fromkeys(named[:SHOWN_KEYS]))
    return WeightsError(
        describe(
            "weights",
            path,
            "tensors and plain containers",
            f"a file that names code to run when loaded: {shown} (refused, nothing of it was run)",
            "get the file from its publisher, or save its state_dict alone",
        )
    )


def _named_globals(path: str) -> list[str]:
    """Returns what the pickles of a file name, as ``module name``, without building anything."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            member = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
            return list(_globals(BytesIO(archive.read(member)))) if member is not None else []
    with open(path, "rb") as file:
        return list(_globals(file))


def _globals(file: IO[bytes]) -> Iterator[str]:
    for _ in range(MAX_PICKLES):
        pushed: list[str] = ["", ""]
        memo: list[str] = []
        try:
            for opcode, argument, _position in pickletools.genops(file):
                if opcode.name in ("GLOBAL", "INST"):
                    yield str(argument)
                elif opcode.name == "STACK_GLOBAL":
                    yield " ".join(pushed)
                if opcode.name == "MEMOIZE":
                    memo.append(pushed[1])
                elif opcode.name in ("BINGET", "LONG_BINGET"):
                    pushed = [pushed[1], memo[int(argument or 0)] if int(argument or 0) < len(memo) else ""]
                elif isinstance(argument, str):
                    pushed = [pushed[1], argument]
        except (ValueError, EOFError, UnicodeDecodeError, OverflowError, MemoryError):
            return


def _tensors(path: str, content: Any) -> dict[str, "Tensor"]:
    import torch

    while isinstance(content, Mapping):
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        got, remedy = type(content).__name__, "save the model's state_dict"
        raise WeightsError(describe("weights", path, "a mapping of names to tensors", got, remedy))
    tensors = {
        str(key): torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value
        for key, value in content.items()
        if isinstance(value, torch.Tensor | np.ndarray)
    }
    if not tensors:
        shown = ", ".join(sorted(map(str, content))[:SHOWN_KEYS]) or "nothing"
        raise WeightsError(describe("weights", path, "tensors", f"none (keys: {shown})", "save the model's state_dict"))
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return {key: value for key, value in tensors.items() if not key.endswith(COUNTER)}


@dataclass(frozen=True, slots=True)
class LayoutFit:
    """How far a file's keys and shapes are those of a layout.

    Attributes:
        absent: keys that are not in the file and that the wanted layer does without.
    """

    layout: Layout
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshaped: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def num_problems(self) -> int:
        """Of keys that are missing, unexpected or mis-shaped; 0: the file has this layout."""
        return len(self.missing) + len(self.unexpected) + len(self.misshaped)

    def message(self, num_shown: int | None = None) -> str:
        """Returns what does not fit, in one line; of each kind the first `num_shown` keys (None: all)."""
        kinds = (("missing", self.missing), ("unexpected", self.unexpected), ("mis-shaped", self.misshaped))
        return "; ".join(
            f"{len(keys)} {kind}: {', '.join(keys[:num_shown])}"
            + (", ..." if num_shown is not None and len(keys) > num_shown else "")
            for kind, keys in kinds
            if keys
        )


def nearest_layout(
    shapes: Mapping[str, Sequence[int]], layouts: Sequence[Layout], unused: Sequence[str] = ()
) -> LayoutFit:
    """Returns the first layout with the fewest keys that do not fit, and which these are.

    Args:
        unused: beginnings of our keys that the wanted layer does without: such keys may be missing.
    """
    return min((_fit(shapes, layout, unused) for layout in layouts), key=_distance)


def _distance(fit: LayoutFit) -> tuple[int, int]:
    return fit.num_problems, len(fit.absent)


def _fit(shapes: Mapping[str, Sequence[int]], layout: Layout, unused: Sequence[str]) -> LayoutFit:
    misshaped = [
        f"{key} {list(shapes[key])} for {_shown(shape)}"
        for key, (_, shape) in layout.keys.items()
        if key in shapes and not _fits(shapes[key], shape)
    ]
    not_there = sorted(layout.keys.keys() - shapes.keys())
    absent = [key for key in not_there if layout.keys[key][0].startswith(tuple(unused))]
    missing = [key for key in not_there if not layout.keys[key][0].startswith(tuple(unused))]
    unexpected = sorted(key for key in shapes.keys() - layout.keys.keys() if not _is_of_training(key, layout))
    return LayoutFit(layout, tuple(missing), tuple(unexpected), tuple(misshaped), tuple(absent))


def _is_of_training(key: str, layout: Layout) -> bool:
    """Whether it is what TensorFlow's optimiser keeps beside a variable, or its counter of steps."""
    return key == GLOBAL_STEP or key.rpartition("/")[0] in layout.keys


def fitting_layouts(
    shapes: Mapping[str, Sequence[int]], layouts: Sequence[Layout], unused: Sequence[str] = ()
) -> tuple[Layout, ...]:
    """Returns the layouts a file may have, by what the wanted layer needs of it: several where it tells no more.

    Args:
        unused: beginnings of our keys that the wanted layer does without: such keys may be missing.
    """
    fits = [fit for fit in (_fit(shapes, layout, unused) for layout in layouts) if fit.num_problems == 0]
    fewest = min((len(fit.absent) for fit in fits), default=0)
    named = [fit for fit in fits if len(fit.absent) == fewest]
    # A layout that leaves the number of classes open stands behind one that fixes it.
    fixed = [fit for fit in named if not _leaves_open(fit.layout, shapes)]
    return tuple(fit.layout for fit in (fixed or named))


def _leaves_open(layout: Layout, shapes: Mapping[str, Sequence[int]]) -> bool:
    return any(None in shape for key, (_, shape) in layout.keys.items() if key in shapes)


def match_layout(
    path: str, shapes: Mapping[str, Sequence[int]], layouts: Sequence[Layout], unused: Sequence[str] = ()
) -> Layout:
    """Returns the layout whose keys and shapes are those of the file; only keys that are `unused` may be missing.

    Raises:
        WeightsError: none fits; one line names the nearest layout and which keys are missing, unexpected or mis-shaped.
    """
    nearest = nearest_layout(shapes, layouts, unused)
    if nearest.num_problems == 0:
        return nearest.layout
    known = ", ".join(dict.fromkeys(layout.name for layout in layouts))
    raise WeightsError(
        f"weights {path}: expected one of the layouts {known}, got keys nearest to {nearest.layout.name} with "
        f"{nearest.message(SHOWN_KEYS)}; give the file of this extractor"
    )


def _fits(found: Sequence[int], wanted: Shape) -> bool:
    return len(found) == len(wanted) and all(want in (None, have) for have, want in zip(found, wanted, strict=True))


def _shown(shape: Shape) -> str:
    return "[" + ", ".join("classes" if size is None else str(size) for size in shape) + "]"


def read_weights(
    path: str, layouts: Sequence[Layout], unused: Sequence[str] = (), name: str | None = None
) -> tuple[Layout, dict[str, "Tensor"]]:
    """Returns the layout of the file at `path` and its tensors as our network has them, by our keys.

    The one rule of what a file must hold: all that the wanted layer needs, and nothing that belongs to no layer. What
    the layer does without may be missing, is left out, and may be no number.

    Args:
        unused: beginnings of our keys that the wanted layer does without.
        name: of the layout a recipe was resolved with, which decides where several fit.

    Raises:
        WeightsError: the file has another layout, or holds NaN or infinity where it matters.
    """
    state = read_state_dict(path, largest_bytes(layouts))
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    named = [layout for layout in layouts if layout.name == name]
    layout = match_layout(path, shapes, named or layouts, unused)
    found: dict[str, Tensor] = {}
    for published, (key, _) in layout.keys.items():
        if published not in state or key.startswith(tuple(unused)):
            continue
        if not state[published].isfinite().all():
            got = f"NaN or infinity in {published}"
            raise WeightsError(describe("weights", path, "finite numbers", got, "fetch it again"))
        found[key] = layout.convert(key, state[published].float()).contiguous()
    return layout, found


def load_network(
    network: "nn.Module", path: str, layouts: Sequence[Layout], unused: Sequence[str] = (), name: str | None = None
) -> Layout:
    """Loads the file at `path` into `network`, whatever published layout it has; returns that layout.

    Tensors the network has no place for (the last layer, where only features are wanted) are left out. A last layer
    with another number of classes is resized (``network.resize_classes``).

    Args:
        unused, name: see `read_weights`.

    Raises:
        WeightsError: the file has another layout, lacks a tensor the network needs, or holds NaN or infinity.
    """
    own = network.state_dict()
    layout, state = read_weights(path, layouts, unused, name)
    renamed = {key: value for key, value in state.items() if key in own}
    for key, value in renamed.items():
        if own[key].shape != value.shape:
            resize: Any = network.resize_classes
            resize(value.shape[0])
            own = network.state_dict()
    needed = {key for key in own if not key.endswith(COUNTER) and not key.startswith(tuple(unused))}
    missing = sorted(needed - renamed.keys())
    if missing:
        got = f"a {layout.name} file without {', '.join(missing[:SHOWN_KEYS])}"
        remedy = "choose another layer, or another file"
        raise WeightsError(describe("weights", path, f"{len(missing)} more tensors", got, remedy))
    network.load_state_dict(renamed, strict=False)
    return layout
