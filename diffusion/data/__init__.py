"""From a name in the config to uint8 batches: sources, splits, transforms and the loader."""
