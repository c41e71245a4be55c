"""Weights that take the place of those in an exported program."""

from torch import Tensor

from clipmill.extractors.torch_program.archive import Archive
from clipmill.extractors.weights import COUNTER, SHOWN_KEYS, read_state_dict
from clipmill.schemas.errors import WeightsError, describe


def read_tensors(path: str, archive: Archive) -> dict[str, Tensor]:
    """Returns the tensors of the file at `path` that the program has, by their names in its state dict.

    What the program has no place for (another tower, a last layer) is left out.

    Raises:
        WeightsError: one of the program's weights is missing, or has another shape.
    """
    state = read_state_dict(path)
    wanted = {
        archive.names[name]: stored
        for name, stored in archive.tensors.items()
        if "/data/weights/" in f"/{stored.member}" and not archive.names[name].endswith(COUNTER)
    }
    missing = sorted(wanted.keys() - state.keys())
    if missing:
        expected = f"the tensors of {archive.path}"
        got = f"{len(missing)} of {len(wanted)} missing: {', '.join(missing[:SHOWN_KEYS])}"
        raise WeightsError(describe("weights", path, expected, got, "give the weights of the exported network"))
    for key, stored in wanted.items():
        if tuple(state[key].shape) != stored.sizes:
            got = f"{list(state[key].shape)}"
            remedy = "give the weights of the exported network"
            raise WeightsError(describe("weights", path, f"{key} of {list(stored.sizes)}", got, remedy))
    return {key: state[key] for key in wanted}
