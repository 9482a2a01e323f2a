"""The traffic split: HAProxy, configured, watched and steered here; no request passes through Python."""
