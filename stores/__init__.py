"""Bytes at rest: shards, commits, quarantine, manifests, readers, exports. Zarr and Dask load only when used."""

from clipmill.stores.feature import ClipRows, Feature
from clipmill.stores.reader import FeatureStore
from clipmill.stores.store import Store

__all__ = ["ClipRows", "Feature", "FeatureStore", "Store"]
