"""Slipway: a fine-tuned language model from data to production, nothing unproven let through."""

__version__ = "0.1.0"
