"""The three pipelines: features, training and evaluation. They do not import each other."""
