"""Frames to rows: one file per network or descriptor, plus the contract, the registry, weights and preprocessing."""
