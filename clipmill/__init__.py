"""Offline batch pipeline for video features: stored features, trained models and their scores.

```python
import clipmill

store = clipmill.open("out/topics70")    # a clipmill.FeatureStore
rows = store["c3d"]["video id"]          # .values float32[T, D]  .start_seconds[T]  .stop_seconds[T]  .mask[T]
```

What a build, a training or an evaluation needs beyond that is imported when it is first used, so ``import clipmill``
takes milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipmill.stores import ClipRows, Feature, FeatureStore

__all__ = ["ClipRows", "Feature", "FeatureStore", "open"]

__version__ = "0.1.0"
"""Written in every passport. Not asked of the installed metadata: code that Ray ships to its workers has none."""

_HOMES = {name: "clipmill.stores" for name in ("ClipRows", "Feature", "FeatureStore")}
"""Public name -> the module it is imported from, when it is first asked for."""


def open(url: str) -> "FeatureStore":
    """Opens a store for reading.

    Args:
        url: a folder, or any URL that fsspec takes.

    Raises:
        StoreError: there is no store, or it is of a newer version.
    """
    from clipmill.stores import FeatureStore

    return FeatureStore(url)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'clipmill' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
