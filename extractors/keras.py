"""Reading weights that Keras saved (HDF5) without Keras."""

from typing import Any

HDF5_START = b"\x89HDF\r\n\x1a\n"


def read_keras_weights(path: str) -> dict[str, Any]:
    """Returns a Keras file's arrays as ``<layer>[<index>]``, in the order its layers list them.

    ``[0]`` is the weight and ``[1]`` the bias of a convolution or dense layer. A whole model's file holds its weights
    in a group of their own.

    Raises:
        ValueError: the file is no HDF5, or not of Keras.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            root = file["model_weights"] if "model_weights" in file else file
            return {
                f"{_text(layer)}[{index}]": root[_text(layer)][_text(name)][()]
                for layer in root.attrs["layer_names"]
                for index, name in enumerate(root[_text(layer)].attrs["weight_names"])
            }
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from None


def _text(name: Any) -> str:
    return name.decode("utf-8") if isinstance(name, bytes) else str(name)
