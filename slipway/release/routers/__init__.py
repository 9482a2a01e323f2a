"""Routers: one protocol, and what stands between a decision and the traffic of a platform."""
