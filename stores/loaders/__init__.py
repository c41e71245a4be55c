"""Features in the files that the loaders of published repositories open, one file here for each repository."""
