"""When things happen, and what follows from how they end. Knows Prefect; does no work itself."""
