"""Metrics of evaluation, each a small file of pure numpy: per-item values, update, merge, result."""
