"""Videos to stored features: probe, plan, decode, segment, extract, write, on one of three engines."""
