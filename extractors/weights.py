"""Reading weights files without running what is in them, and recognising the published layouts.

torch is imported only when a file is read.
"""

import hashlib
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from schemas.errors import WeightsError, describe

if TYPE_CHECKING:
    from torch import Tensor

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.",)
SHOWN_KEYS = 4
DIGEST_CHUNK_BYTES = 4 << 20

Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """How one published file names its tensors.

    Attributes:
        name: such as ``c3d_sports1m_jfzhang95``; recorded in the recipe.
        card: name of the weights card whose preprocessing applies.
        keys: published key to (our key, shape); None in a shape stands for any number (classes).
        num_classes: rows of the last layer, where the layout fixes another number than the extractor's card says.
    """

    name: str
    card: str
    keys: Mapping[str, tuple[str, Shape]]
    num_classes: int | None = None

    def count_classes(self, shapes: Mapping[str, Sequence[int]]) -> int | None:
        """Returns the number of classes of a file with this layout, or None where it does not tell."""
        free = {shapes[key][0] for key, (_, shape) in self.keys.items() if shape and shape[0] is None}
        return free.pop() if len(free) == 1 else self.num_classes


def digest(path: str) -> str:
    """Returns the SHA-256 of the file.

    Raises:
        WeightsError: it cannot be read.
    """
    import os

    try:
        status = os.stat(path)
        return _digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        remedy = "correct the path, or write weights: {random: 0} to try the pipeline without"
        raise WeightsError(describe("weights", path, "a readable file", error.strerror or str(error), remedy)) from None


@lru_cache(maxsize=64)
def _digest(path: str, num_bytes: int, modified_ns: int) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(DIGEST_CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()


def read_state_dict(path: str) -> dict[str, "Tensor"]:
    """Returns the tensors of a weights file by key, unwrapped from ``state_dict`` and the like, without ``module.``.

    Both zip files and legacy pickles are read, with an unpickler that builds tensors and plain containers only.

    Raises:
        WeightsError: unreadable, truncated, no weights file, or one that would run code when loaded.
    """
    import torch

    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(describe("weights", path, "a readable file", error.strerror or str(error), "correct the path")) from None
    except pickle.UnpicklingError as error:
        first = str(error).splitlines()[0]
        if "Unsupported" in str(error) or "GLOBAL" in str(error) or "global" in str(error):
            raise WeightsError(
                describe(
                    "weights",
                    path,
                    "tensors and plain containers",
                    "a file that names code to run when loaded (refused; nothing of it was run)",
                    "get the file from its publisher, or save its state_dict alone",
                )
            ) from None
        raise WeightsError(describe("weights", path, "a PyTorch weights file", f"unreadable data ({first[:120]})", "fetch it again")) from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            describe("weights", path, "a PyTorch weights file", f"truncated or foreign data ({first[:120]})", "fetch it again")
        ) from None
    return _tensors(path, content)


def _tensors(path: str, content: Any) -> dict[str, "Tensor"]:
    import torch

    while isinstance(content, Mapping):
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise WeightsError(
            describe("weights", path, "a mapping of names to tensors", type(content).__name__, "save the model's state_dict")
        )
    tensors = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        shown = ", ".join(sorted(map(str, content))[:SHOWN_KEYS]) or "nothing"
        raise WeightsError(describe("weights", path, "tensors", f"none (keys: {shown})", "save the model's state_dict"))
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}


def match_layout(path: str, shapes: Mapping[str, Sequence[int]], layouts: Sequence[Layout]) -> Layout:
    """Returns the layout whose keys and shapes are exactly those of the file.

    Raises:
        WeightsError: none fits; one line names the nearest layout and which keys are missing, unexpected or mis-shaped.
    """
    nearest, fewest = layouts[0], -1
    problems: tuple[list[str], list[str], list[str]] = ([], [], [])
    for layout in layouts:
        missing = sorted(layout.keys.keys() - shapes.keys())
        unexpected = sorted(shapes.keys() - layout.keys.keys())
        wrong = [
            f"{key} {list(shapes[key])} for {_shown(shape)}"
            for key, (_, shape) in layout.keys.items()
            if key in shapes and not _fits(shapes[key], shape)
        ]
        count = len(missing) + len(unexpected) + len(wrong)
        if count == 0:
            return layout
        if fewest < 0 or count < fewest:
            nearest, fewest, problems = layout, count, (missing, unexpected, wrong)
    told = "; ".join(
        f"{len(items)} {word}: {', '.join(items[:SHOWN_KEYS])}{', ...' if len(items) > SHOWN_KEYS else ''}"
        for word, items in zip(("missing", "unexpected", "mis-shaped"), problems, strict=True)
        if items
    )
    known = ", ".join(layout.name for layout in layouts)
    raise WeightsError(
        f"weights {path}: expected one of the layouts {known}, got keys nearest to {nearest.name} with {told}; "
        "give the file of this extractor"
    )


def _fits(found: Sequence[int], wanted: Shape) -> bool:
    return len(found) == len(wanted) and all(want is None or have == want for have, want in zip(found, wanted, strict=True))


def _shown(shape: Shape) -> str:
    return "[" + ", ".join("classes" if size is None else str(size) for size in shape) + "]"


def load_network(network: Any, path: str, layouts: Sequence[Layout]) -> Layout:
    """Loads the file at `path` into `network`, whatever published layout it has; returns that layout.

    A last layer that the file lacks is removed from what is required; one with another number of classes is resized.
    """
    state = read_state_dict(path)
    layout = match_layout(path, {key: tuple(value.shape) for key, value in state.items()}, layouts)
    renamed = {layout.keys[key][0]: value.float() for key, value in state.items()}
    own = network.state_dict()
    for key, value in renamed.items():
        if own[key].shape != value.shape:
            network.resize_classes(value.shape[0])
            own = network.state_dict()
    missing = own.keys() - renamed.keys()
    network.load_state_dict(renamed | {key: own[key] for key in missing}, strict=True)
    return layout
