"""Files of features made elsewhere, one format per file.

To add one: a file with a `FeatureFormat`, and a line in the registry.
"""
