"""What runs shard tasks. An engine does nothing else: it assigns no identity, writes no result, reads no config."""
