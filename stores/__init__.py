"""Bytes at rest: shards, commits, quarantine, manifests, readers, exports. Zarr and Dask load only when used."""

from clipmill.stores.reader import ClipRows, Feature, FeatureStore
from clipmill.stores.store import Store

__all__ = ["ClipRows", "Feature", "FeatureStore", "Store"]
