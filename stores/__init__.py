"""Bytes at rest: shards, commits, quarantine, manifests, readers, exports. Zarr and Dask load only when used.

The names below are imported when they are first asked for: who reads a published file of annotations needs no store.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipmill.stores.feature import ClipRows, Feature
    from clipmill.stores.reader import FeatureStore
    from clipmill.stores.store import Store

__all__ = ["ClipRows", "Feature", "FeatureStore", "Store"]

_HOMES = {"ClipRows": "feature", "Feature": "feature", "FeatureStore": "reader", "Store": "store"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
