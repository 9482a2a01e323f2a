"""Is this model good enough? Policies, and the pure judge that applies them."""
