"""One step a file: read files, call slipway, write files, return metrics."""
