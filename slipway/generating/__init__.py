"""What generates: versions opened as they were verified, engines over them, and prediction offline. PyTorch is imported here alone."""
