"""Metrics as update, merge and result; exact retrieval over Dask; reports."""
