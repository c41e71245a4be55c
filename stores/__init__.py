"""Bytes at rest: shards, commits, quarantine, manifests, readers, exports. Zarr and Dask load only when used."""

from stores.reader import ClipRows, Feature, FeatureStore
from stores.store import Store

__all__ = ["ClipRows", "Feature", "FeatureStore", "Store"]
