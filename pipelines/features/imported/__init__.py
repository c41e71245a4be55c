"""Features made elsewhere: where their rows lie in files, and how they become rows of a store."""
